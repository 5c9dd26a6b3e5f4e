//! A command's standard input, fed by the host within a window.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;

use bytes::{Buf, BytesMut};
use forkpoint_protocol::STDIN_WINDOW;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What Ctrl-D sends: the end of input, on a terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// Writing end of the pipe (or terminal) and what waits for room in it.
pub(super) struct Input {
    /// `None` when the command takes no input or no more.
    fd: Option<AsyncFd<OwnedFd>>,
    pending: BytesMut,
    is_terminal: bool,
    is_ended: bool,
    /// Bytes in `pending` that the host did not send and that are not acknowledged to it.
    own: usize,
}

impl Input {
    pub(super) fn new(fd: Option<AsyncFd<OwnedFd>>, is_terminal: bool) -> Input {
        Input { fd, pending: BytesMut::new(), is_terminal, is_ended: false, own: 0 }
    }

    /// Takes input from the host. Returns how much of it is already dealt with, since nobody will
    /// read it; `None` when the host has overrun its window.
    pub(super) fn push(&mut self, data: &[u8]) -> Option<usize> {
        if self.pending.len() + data.len() > STDIN_WINDOW + self.own {
            return None;
        }
        if self.fd.is_none() || self.is_ended {
            return Some(data.len());
        }
        self.pending.extend_from_slice(data);
        Some(0)
    }

    /// The host has no more input.
    pub(super) fn end(&mut self) {
        if self.is_ended {
            return;
        }
        self.is_ended = true;
        if self.is_terminal && self.fd.is_some() {
            self.pending.extend_from_slice(&[END_OF_TRANSMISSION]);
            self.own = 1;
        }
        self.close_if_done();
    }

    /// Resolves when [`Input::write`] has something to do.
    pub(super) async fn writable(&self) {
        match &self.fd {
            Some(fd) if !self.pending.is_empty() => match fd.writable().await {
                Ok(mut guard) => guard.retain_ready(),
                Err(_) => pending().await,
            },
            _ => pending().await,
        }
    }

    /// Writes what fits; returns how many of the host's bytes are dealt with.
    pub(super) fn write(&mut self) -> usize {
        let Some(fd) = &self.fd else { return 0 };
        let written = fd.try_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, &self.pending)?));
        let done = match written {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            // The command has closed its input; it is not told more, and the host need not wait.
            Err(_) => {
                self.fd = None;
                self.pending.len()
            }
        };
        self.pending.advance(done);
        let own = if self.pending.is_empty() { std::mem::take(&mut self.own).min(done) } else { 0 };
        self.close_if_done();
        done - own
    }

    fn close_if_done(&mut self) {
        if self.is_ended && self.pending.is_empty() {
            self.fd = None;
        }
    }
}
