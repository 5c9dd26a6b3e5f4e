//! One connection of the host: frames in, frames out.

use std::io;

use bytes::{Bytes, BytesMut};
use forkpoint_protocol::codec::{self, HEAD_ROOM, Head, Payload};
use forkpoint_protocol::{AgentFrame, MAX_FRAME};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// Bytes asked of the socket at once.
const READ: usize = 16 * 1024;

/// A connection and what is on its way in either direction.
pub(crate) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    /// Encoded, not yet taken by the socket; `sent` bytes of it are gone.
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Connection {
        Connection { stream, input: BytesMut::new(), output: Vec::new(), sent: 0 }
    }

    /// Next frame; `None` when the peer has closed. Loses nothing when cancelled.
    pub(crate) async fn frame(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(frame) = codec::take(&mut self.input, limit).map_err(malformed)? {
                return Ok(Some(frame));
            }
            self.stream.readable().await?;
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Resolves when [`Connection::fill`] has something to do.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// Takes what the socket has; false when the peer has closed.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        self.input.reserve(READ);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A frame that [`Connection::fill`] has completed.
    pub(crate) fn received(&mut self) -> io::Result<Option<Bytes>> {
        codec::take(&mut self.input, MAX_FRAME).map_err(malformed)
    }

    /// Puts a frame in the queue and sends what the socket takes now.
    pub(crate) fn push(&mut self, frame: &AgentFrame<'_>) -> io::Result<()> {
        codec::encode(frame, &mut self.output).map_err(malformed)?;
        self.flush()
    }

    /// Sends the content of `buffer[HEAD_ROOM..HEAD_ROOM + len]` as one payload frame. The head is
    /// written into the room before it, and nothing is copied but what the socket does not take.
    /// To be called with an empty queue, which bounds what it can grow to.
    pub(crate) fn push_payload(&mut self, payload: Payload, buffer: &mut [u8], len: usize) -> io::Result<()> {
        let head = Head::new(payload, len).map_err(malformed)?;
        let start = HEAD_ROOM - head.as_slice().len();
        buffer[start..HEAD_ROOM].copy_from_slice(head.as_slice());
        let frame = &buffer[start..HEAD_ROOM + len];
        self.flush()?;
        let taken = if self.is_flushed() { self.write(frame)? } else { 0 };
        self.output.extend_from_slice(&frame[taken..]);
        Ok(())
    }

    /// Whether everything pushed is with the socket.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Resolves when [`Connection::flush`] has something to do.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Sends what the socket takes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.write(&self.output[self.sent..])? {
                0 => return Ok(()),
                taken => self.sent += taken,
            }
        }
        self.sent = 0;
        self.output.clear();
        // One slow reader must not make every later connection's share of memory larger.
        self.output.shrink_to(READ);
        Ok(())
    }

    /// Sends a frame and waits until the socket has all of it.
    pub(crate) async fn send(&mut self, frame: &AgentFrame<'_>) -> io::Result<()> {
        self.push(frame)?;
        self.flushed().await
    }

    /// Waits until the socket has all that was pushed.
    pub(crate) async fn flushed(&mut self) -> io::Result<()> {
        while !self.is_flushed() {
            self.writable().await?;
            self.flush()?;
        }
        Ok(())
    }

    /// Sends the error of a request.
    pub(crate) async fn fail(&mut self, failure: Failure) -> io::Result<()> {
        self.send(&AgentFrame::Error { kind: failure.kind, message: failure.message }).await
    }

    /// Ends the answer but goes on taking input, so that the peer gets the answer although it was
    /// still sending: a socket closed with unread input resets the connection.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        use std::time::Duration;
        const PATIENCE: Duration = Duration::from_secs(2);
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write)?;
        let _ = tokio::time::timeout(PATIENCE, async {
            loop {
                self.input.clear();
                self.stream.readable().await?;
                if !self.fill()? {
                    return io::Result::Ok(());
                }
            }
        })
        .await;
        Ok(())
    }

    /// Resolves when the host gives up: `Cancel`, any other frame, or a lost connection.
    pub(crate) async fn given_up(&mut self) {
        let _ = self.frame(MAX_FRAME).await;
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(bytes) {
            Ok(taken) => Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn malformed(error: forkpoint_protocol::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
