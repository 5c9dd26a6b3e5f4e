//! Streams of events: builds, watches, commands.

use super::{Client, ClientError, sse};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::collections::VecDeque;

impl Client {
    /// Builds a template; its events are given as they come.
    pub(crate) async fn build_stream(&self, mut request: Value) -> Result<EventStream, ClientError> {
        request["stream"] = json!(true);
        let response = self.send(self.request(Method::POST, "/templates").json(&request)).await?;
        Ok(EventStream::new(self.clone(), response))
    }

    /// Watches files; what happens to them is given as it comes.
    pub(crate) async fn watch_stream(&self, sandbox: &str, query: &[(&str, &str)]) -> Result<EventStream, ClientError> {
        let path = format!("/sandbox/{sandbox}/files/watch");
        let response = self.send(self.request(Method::GET, &path).query(query)).await?;
        Ok(EventStream::new(self.clone(), response))
    }
}

/// A stream of events as JSON. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct EventStream {
    client: Client,
    response: Response,
    decoder: sse::Decoder,
    ready: VecDeque<Vec<u8>>,
}

impl EventStream {
    pub(super) fn new(client: Client, response: Response) -> Self {
        Self { client, response, decoder: sse::Decoder::default(), ready: VecDeque::new() }
    }

    /// The next event; `None` once the stream has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return serde_json::from_slice(&data).map(Some).map_err(|error| ClientError::Unexpected {
                    request: self.response.url().path().to_owned(),
                    reason: format!("not JSON: {error}"),
                });
            }
            let chunk = self.response.chunk().await.map_err(|error| self.client.unreachable(&error))?;
            let Some(chunk) = chunk else { return Ok(None) };
            let events = self.decoder.push(&chunk).map_err(|error| ClientError::Unexpected {
                request: self.response.url().path().to_owned(),
                reason: error.to_string(),
            })?;
            self.ready.extend(events);
        }
    }
}
