//! A connection to an agent: frames out, bounded frames in.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use forkpoint_protocol::codec::{self, Head, Payload};
use forkpoint_protocol::{AgentFrame, Hello, HostFrame, MAX_FRAME, Request, VERSION};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::lost;
use super::{AgentClient, AgentError};

/// What is being done before anything was sent.
pub const CONNECT: &str = "connect to the agent";

/// Bytes asked of the socket at once.
const READ: usize = 64 * 1024;

/// The reading side, with the writing side to share.
#[derive(Debug)]
pub(super) struct Link {
    wire: Arc<Wire>,
    input: BytesMut,
}

/// The writing side of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Whether half a frame was sent, after which nothing can follow.
    is_broken: Mutex<bool>,
}

impl Link {
    /// Connects and sends hello and request in one write.
    pub(super) async fn open(client: &AgentClient, request: &Request) -> Result<Link, AgentError> {
        let mut opening = Vec::with_capacity(256);
        let hello = Hello { version: VERSION, token: client.token };
        codec::encode(&hello, &mut opening).map_err(AgentError::TooLarge)?;
        codec::encode(request, &mut opening).map_err(AgentError::TooLarge)?;
        let connect = async {
            let stream = TcpStream::connect(client.address).await.map_err(lost(CONNECT))?;
            stream.set_nodelay(true).map_err(lost(CONNECT))?;
            let wire = Wire { stream, is_broken: Mutex::new(false) };
            wire.write(&opening, &[]).await.map_err(lost("send the request"))?;
            Ok(Link { wire: Arc::new(wire), input: BytesMut::new() })
        };
        let deadline = client.deadlines.connect;
        timeout(deadline, connect).await.unwrap_or(Err(AgentError::Deadline(deadline)))
    }

    /// For sending while this side reads.
    pub(super) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Next frame. Loses nothing when cancelled.
    pub(super) async fn frame(&mut self) -> Result<Bytes, AgentError> {
        let broke = lost("read the agent's answer");
        // While the agent sends faster than frames are read nothing below ever waits; without this, one that sends
        // for ever would have a thread of the server to itself, deadlines and all.
        tokio::task::coop::consume_budget().await;
        loop {
            match codec::take(&mut self.input, MAX_FRAME) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(AgentError::Protocol(error.to_string())),
            }
            self.wire.stream.readable().await.map_err(&broke)?;
            self.input.reserve(READ);
            match self.wire.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Err(broke(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(broke(error)),
            }
        }
    }

    /// Next frame, where one is due.
    pub(super) async fn answer(&mut self, deadline: Duration) -> Result<Bytes, AgentError> {
        timeout(deadline, self.frame()).await.unwrap_or(Err(AgentError::Deadline(deadline)))
    }
}

impl Wire {
    /// Sends a frame without content.
    pub(super) async fn send(&self, frame: &HostFrame<'_>) -> Result<(), AgentError> {
        let mut bytes = Vec::with_capacity(32);
        codec::encode(frame, &mut bytes).map_err(AgentError::TooLarge)?;
        self.write(&bytes, &[]).await.map_err(lost("send to the agent"))
    }

    /// Sends content of at most [`forkpoint_protocol::MAX_PAYLOAD`] bytes, without copying it.
    pub(super) async fn send_payload(&self, payload: Payload, content: &[u8]) -> Result<(), AgentError> {
        let head = Head::new(payload, content.len()).map_err(AgentError::TooLarge)?;
        self.write(head.as_slice(), content).await.map_err(lost("send to the agent"))
    }

    /// Ends the connection at once for both sides, whoever else still holds it.
    pub(super) fn shut_down(&self) {
        // Fails only for a connection that is already gone.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    async fn write(&self, mut head: &[u8], mut content: &[u8]) -> io::Result<()> {
        let mut is_broken = self.is_broken.lock().await;
        if *is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Stays so if this future is dropped half way.
        *is_broken = true;
        while !head.is_empty() || !content.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write_vectored(&[IoSlice::new(head), IoSlice::new(content)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let of_head = written.min(head.len());
                    head = &head[of_head..];
                    content = &content[written - of_head..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        *is_broken = false;
        Ok(())
    }
}

/// The meaning of a frame.
pub(super) fn parse(frame: &[u8]) -> Result<AgentFrame<'_>, AgentError> {
    codec::decode(frame).map_err(|error| AgentError::Protocol(error.to_string()))
}
