//! A client's side of a terminal's WebSocket.

use crate::support::Server;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use std::time::Duration;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

const SOON: Duration = Duration::from_secs(40);

/// Starts a terminal; gives its id.
pub async fn terminal(server: &Server, sandbox: &str, body: Value) -> String {
    server.post(&format!("/sandbox/{sandbox}/terminals"), body).await.ok()["id"].as_str().unwrap().to_owned()
}

/// Status and body of an attempt to attach that must fail.
pub async fn refused(server: &Server, sandbox: &str, terminal: &str, query: &str, key: &str) -> (u16, String) {
    match Attached::with_key(server, sandbox, terminal, query, key).await {
        Ok(_) => panic!("attached to {terminal} with {query}"),
        Err(refusal) => refusal,
    }
}

/// An attached client and all that it was sent.
pub struct Attached {
    socket: WebSocketStream<TcpStream>,
    /// The first message.
    pub first: Value,
    /// All output.
    pub bytes: Vec<u8>,
    /// Position after it in the terminal's output.
    pub position: u64,
    /// Up to where `until` has looked.
    looked: usize,
}

impl Attached {
    pub async fn new(server: &Server, sandbox: &str, terminal: &str, query: &str) -> Self {
        match Self::with_key(server, sandbox, terminal, query, &server.key).await {
            Ok(attached) => attached,
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// With a key in the header, or none if it is empty.
    pub async fn with_key(
        server: &Server,
        sandbox: &str,
        terminal: &str,
        query: &str,
        key: &str,
    ) -> Result<Self, (u16, String)> {
        let address = server.url.strip_prefix("http://").unwrap();
        let url = format!("ws://{address}/api/v1/sandbox/{sandbox}/terminals/{terminal}/ws?{query}");
        let mut request = url.into_client_request().unwrap();
        if !key.is_empty() {
            request.headers_mut().insert("x-api-key", key.parse().unwrap());
        }
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = match client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                return Err((answer.status().as_u16(), String::from_utf8_lossy(body).into()));
            }
            Err(error) => panic!("{error}"),
        };
        let mut attached = Self { socket, first: Value::Null, bytes: Vec::new(), position: 0, looked: 0 };
        attached.first = attached.text().await;
        assert_eq!(attached.first["type"], "attached");
        attached.position = attached.first["offset"].as_u64().unwrap();
        Ok(attached)
    }

    pub async fn send(&mut self, message: Message) {
        // The server may have closed already, which is what the reader then sees.
        let _ = self.socket.send(message).await;
    }

    /// Types these bytes.
    pub async fn type_(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(Message::binary(bytes.as_ref().to_vec())).await;
    }

    pub async fn say(&mut self, value: Value) {
        self.send(Message::text(value.to_string())).await;
    }

    /// Sends bytes past the protocol.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        let next = timeout(SOON, self.socket.next()).await;
        let Ok(next) = next else { panic!("nothing came after: {}", self.tail()) };
        let message = next?.ok()?;
        if let Message::Binary(data) = &message {
            self.bytes.extend_from_slice(data);
            self.position += data.len() as u64;
        }
        Some(message)
    }

    /// The next text message; output before it is kept.
    pub async fn text(&mut self) -> Value {
        loop {
            match self.next().await {
                Some(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Some(Message::Close(_)) | None => panic!("closed after: {}", self.tail()),
                Some(_) => {}
            }
        }
    }

    /// Waits for output that contains this; gives all output since the last such wait.
    pub async fn until(&mut self, wanted: &str) -> String {
        let from = self.looked;
        loop {
            let seen = &self.bytes[from..];
            if let Some(at) = seen.windows(wanted.len()).position(|part| part == wanted.as_bytes()) {
                self.looked = from + at + wanted.len();
                return String::from_utf8_lossy(&self.bytes[from..self.looked]).into_owned();
            }
            match self.next().await {
                Some(Message::Close(_)) | None => panic!("closed before {wanted:?}: {}", self.tail()),
                Some(Message::Text(text)) => panic!("{text} before {wanted:?}: {}", self.tail()),
                Some(_) => {}
            }
        }
    }

    /// Waits for so many more bytes of output.
    pub async fn more(&mut self, count: usize) {
        let wanted = self.bytes.len() + count;
        while self.bytes.len() < wanted {
            assert!(self.next().await.is_some(), "closed after: {}", self.tail());
        }
        self.looked = self.bytes.len();
    }

    /// Reads what has come.
    pub async fn drain(&mut self) {
        while let Ok(Some(Ok(Message::Binary(data)))) = timeout(Duration::from_millis(20), self.socket.next()).await {
            self.bytes.extend_from_slice(&data);
        }
        self.looked = self.bytes.len();
    }

    /// The last text message and the code of the close frame.
    pub async fn end(&mut self) -> (Value, Option<u16>) {
        let mut last = Value::Null;
        loop {
            match self.next().await {
                Some(Message::Text(text)) => last = serde_json::from_str(&text).unwrap(),
                Some(Message::Close(frame)) => return (last, frame.map(|frame| frame.code.into())),
                None => return (last, None),
                Some(_) => {}
            }
        }
    }

    /// Waits until the server has ended the connection.
    pub async fn gone(&mut self) {
        while self.next().await.is_some() {}
    }

    fn tail(&self) -> String {
        let start = self.bytes.len().saturating_sub(2000);
        format!("{:?}", String::from_utf8_lossy(&self.bytes[start..]))
    }
}
