//! One stream of a command's output, on its way to the host.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;

use forkpoint_protocol::codec::{HEAD_ROOM, Payload};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::connection::Connection;

/// Reading end of a pipe, or a terminal's master.
pub(super) struct Output {
    fd: AsyncFd<OwnedFd>,
    payload: Payload,
    /// Bytes that may still be passed on.
    left: u64,
    /// More than the limit was written.
    pub(super) is_truncated: bool,
    /// Bytes that the command had written when it exited and that were not read yet.
    pub(super) owed: u64,
}

impl Output {
    pub(super) fn new(fd: AsyncFd<OwnedFd>, payload: Payload, limit: u64) -> Output {
        Output { fd, payload, left: limit, is_truncated: false, owed: 0 }
    }

    /// Resolves when [`Output::pump`] has something to do; never for a stream at its end.
    pub(super) async fn readable(output: Option<&Output>) {
        match output {
            Some(output) => match output.fd.readable().await {
                Ok(mut guard) => guard.retain_ready(),
                Err(_) => pending().await,
            },
            None => pending().await,
        }
    }

    /// Notes what is in the pipe now; to be called when the command has exited.
    pub(super) fn owe(&mut self) {
        self.owed = rustix::io::ioctl_fionread(self.fd.get_ref()).unwrap_or(0);
    }

    /// Reads once and passes on what the limit allows. False at the end of the stream; an error is
    /// the connection's.
    pub(super) fn pump(&mut self, connection: Option<&mut Connection>, scratch: &mut [u8]) -> io::Result<bool> {
        let read = self.fd.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut scratch[HEAD_ROOM..])?));
        let len = match read {
            Ok(0) => return Ok(false),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.owed = 0;
                return Ok(true);
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => return Ok(true),
            // A terminal reports its end as EIO, when nobody has it open any more.
            Err(_) => return Ok(false),
        };
        self.owed = self.owed.saturating_sub(len as u64);
        let passed = self.left.min(len as u64) as usize;
        self.left -= passed as u64;
        self.is_truncated |= passed < len;
        match connection {
            Some(connection) if passed > 0 => connection.push_payload(self.payload, scratch, passed).map(|()| true),
            _ => Ok(true),
        }
    }

    pub(super) fn into_inner(self) -> AsyncFd<OwnedFd> {
        self.fd
    }
}
