//! Attaches to terminals, by WebSocket.

use super::{
    Client, ClientError,
    error::{ApiError, causes},
};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};

/// From the first packet to the open WebSocket.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The largest message taken from a server.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// An open connection to a terminal.
pub(crate) type TerminalSocket = WebSocketStream<TcpStream>;

impl Client {
    /// Starts a terminal; gives its id.
    pub(crate) async fn create_terminal(&self, sandbox: &str, request: &Value) -> Result<String, ClientError> {
        let path = format!("/sandbox/{sandbox}/terminals");
        let answer = self.post(&path, request).await?;
        answer.get("id").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| ClientError::Unexpected {
            request: format!("POST {path}"),
            reason: "it holds no id".to_owned(),
        })
    }

    /// Attaches to a terminal, from a position in its output on.
    pub(crate) async fn attach(
        &self,
        sandbox: &str,
        terminal: &str,
        from: Option<u64>,
        (cols, rows): (u16, u16),
    ) -> Result<TerminalSocket, ClientError> {
        let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
        let path = format!("/api/v1/sandbox/{sandbox}/terminals/{terminal}/ws?cols={cols}&rows={rows}{from}");
        let connecting = self.open_socket(&path);
        tokio::time::timeout(CONNECT_DEADLINE, connecting)
            .await
            .unwrap_or_else(|_| Err(self.no_socket(format!("no answer within {CONNECT_DEADLINE:?}"))))
    }

    async fn open_socket(&self, path: &str) -> Result<TerminalSocket, ClientError> {
        let address = self.address(path);
        let address = address.strip_prefix("http").map(|rest| format!("ws{rest}")).unwrap_or(address);
        let mut request = address.into_client_request().map_err(|error| self.no_socket(causes(&error)))?;
        if let Some(key) = &self.key {
            let mut value = HeaderValue::from_str(&format!("ApiKey {}", key.expose()))
                .map_err(|_| ClientError::Settings("the API key holds characters that no key has".to_owned()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.base.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await.map_err(|error| self.no_socket(causes(&error)))?;
        // Each key is a packet of its own.
        stream.set_nodelay(true).map_err(|error| self.no_socket(causes(&error)))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                let id = answer.headers().get("x-request-id").and_then(|id| id.to_str().ok());
                let body = answer.body().as_deref().unwrap_or_default();
                let mut error = ApiError::parse(answer.status().as_u16(), id, body);
                if let Some(key) = &self.key {
                    error.message = key.redact(error.message);
                }
                Err(error.into())
            }
            Err(error) => Err(self.no_socket(causes(&error))),
        }
    }

    fn no_socket(&self, reason: String) -> ClientError {
        ClientError::Unreachable { url: self.base.as_str().trim_end_matches('/').to_owned(), reason }
    }
}
