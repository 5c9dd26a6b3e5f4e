//! What can go wrong between this program and a server, and what the server says when it refuses.

use serde_json::Value;
use std::fmt;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The server answered and refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No answer came: nothing listens, or the connection broke.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The server's base address.
        url: String,
        /// What happened, from the outermost cause to the innermost.
        reason: String,
    },
    /// The answer is not one that this program understands.
    #[error("unexpected answer to {request}: {reason}")]
    Unexpected {
        /// Method and path.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Address, key or profile cannot be used.
    #[error("{0}")]
    Settings(String),
}

impl ClientError {
    /// Whether the server says that the object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if error.status == 404)
    }
}

/// A refusal in the server's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong, for people.
    pub(crate) message: String,
    /// What is wrong, for programs.
    pub(crate) code: String,
    /// By which the server's log knows the request.
    pub(crate) request_id: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request_id {
            Some(id) => write!(f, "{} ({}, {id})", self.message, self.code),
            None => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

impl ApiError {
    /// Reads an error answer: `{"error":{"message","code","request_id"?}}`, `{"error":"text"}`, or any text.
    pub(crate) fn parse(status: u16, header_request_id: Option<&str>, body: &[u8]) -> Self {
        let parsed: Option<Value> = serde_json::from_slice(body).ok();
        let error = parsed.as_ref().and_then(|value| value.get("error"));
        let field = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str).map(str::to_owned);
        let message = field("message").or_else(|| error.and_then(Value::as_str).map(str::to_owned));
        Self {
            status,
            message: message.unwrap_or_else(|| {
                let text = String::from_utf8_lossy(body);
                let text = text.trim();
                if text.is_empty() { "the server gave no reason".to_owned() } else { text.chars().take(500).collect() }
            }),
            code: field("code").unwrap_or_else(|| format!("HTTP {status}")),
            request_id: field("request_id").or_else(|| header_request_id.map(str::to_owned)),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_in_every_form_that_servers_write() {
        for (body, shown) in [
            (
                r#"{"error":{"message":"no such sandbox","code":"not_found","request_id":"req-7"}}"#,
                "no such sandbox (not_found, req-7)",
            ),
            (r#"{"error":{"message":"no such sandbox","code":"not_found"}}"#, "no such sandbox (not_found, req-h)"),
            (r#"{"error":"too much"}"#, "too much (HTTP 404, req-h)"),
            ("<html>gateway</html>", "<html>gateway</html> (HTTP 404, req-h)"),
            ("", "the server gave no reason (HTTP 404, req-h)"),
        ] {
            assert_eq!(ApiError::parse(404, Some("req-h"), body.as_bytes()).to_string(), shown);
        }
        assert_eq!(ApiError::parse(502, None, b"{}").to_string(), "{} (HTTP 502)");
    }
}
