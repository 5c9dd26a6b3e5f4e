//! Registers descriptors with the event loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::failure::Failure;

/// Makes the agent's end of a pipe or terminal non-blocking (the command's end stays as it is) and
/// watches it.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, Failure> {
    let failed = |error: io::Error| Failure::doing("watch a pipe", error);
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|errno| failed(errno.into()))?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
    // SAFETY: an `OwnedFd` is open and keeps its number for as long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| failed(error.into()))
}
