//! Runs commands, with their output as it comes.

use super::{Client, ClientError, events::EventStream};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

/// One piece of news about a running command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ExecEvent {
    /// It wrote to its standard output.
    Stdout {
        /// What.
        data: String,
    },
    /// It wrote to its standard error.
    Stderr {
        /// What.
        data: String,
    },
    /// It ended.
    Exit {
        /// With which code.
        code: i64,
    },
    /// The platform could not go on with it.
    Error {
        /// Why.
        error: String,
    },
    /// Nothing more comes.
    Done,
    /// News that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A running command. Dropping it closes the connection, by which the server ends the command.
#[derive(Debug)]
pub(crate) struct ExecStream(EventStream);

impl Client {
    /// Runs a command to its end and gives the whole answer.
    pub(crate) async fn execute(&self, sandbox: &str, mut request: Value) -> Result<Value, ClientError> {
        request["stream"] = json!(false);
        self.post(&format!("/sandbox/{sandbox}/execute"), &request).await
    }

    /// Starts a command whose output is given as it comes.
    pub(crate) async fn execute_stream(&self, sandbox: &str, mut request: Value) -> Result<ExecStream, ClientError> {
        request["stream"] = json!(true);
        let path = format!("/sandbox/{sandbox}/execute");
        let response = self.send(self.request(Method::POST, &path).json(&request)).await?;
        Ok(ExecStream(EventStream::new(self.clone(), response)))
    }
}

impl ExecStream {
    /// The next event; `None` once the stream has ended. Events that are not understood are passed over.
    pub(crate) async fn next(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        while let Some(event) = self.0.next().await? {
            match serde_json::from_value(event) {
                Ok(ExecEvent::Unknown) | Err(_) => {}
                Ok(event) => return Ok(Some(event)),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_every_kind_are_understood() {
        let parse = |text: &str| serde_json::from_str::<ExecEvent>(text).unwrap();
        assert_eq!(parse(r#"{"type":"stdout","data":"a\n"}"#), ExecEvent::Stdout { data: "a\n".into() });
        assert_eq!(parse(r#"{"type":"exit","code":3,"timed_out":false}"#), ExecEvent::Exit { code: 3 });
        assert_eq!(parse(r#"{"type":"error","error":"gone"}"#), ExecEvent::Error { error: "gone".into() });
        assert_eq!(parse(r#"{"type":"done"}"#), ExecEvent::Done);
        assert_eq!(parse(r#"{"type":"weather","sun":1}"#), ExecEvent::Unknown);
    }
}
