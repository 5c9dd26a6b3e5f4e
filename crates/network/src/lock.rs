//! One hub at a time is set up or taken down on a host.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::error::{Error, Result};

const DIRECTORY: &str = "/run/forkpoint";
const FILE: &str = "/run/forkpoint/network.lock";

/// Held while links, rules and forwarding of the host are changed; the kernel gives it back when the
/// holder dies.
#[derive(Debug)]
pub(crate) struct HostLock {
    _file: File,
}

impl HostLock {
    /// Waits for the lock.
    pub(crate) fn take() -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(DIRECTORY) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::step("create directory", DIRECTORY, source));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(FILE)
            .map_err(|source| Error::step("open", FILE, source))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(|errno| Error::step("lock", FILE, errno))?,
            }
            return Ok(Self { _file: file });
        }
    }
}
