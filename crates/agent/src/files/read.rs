//! Reads files.

use std::io;
use std::os::fd::OwnedFd;

use forkpoint_protocol::codec::{HEAD_ROOM, Payload};
use forkpoint_protocol::{AgentFrame, Entry, ErrorKind};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{entry, path};
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::users::Users;

/// Content read at once.
const CHUNK: usize = 256 * 1024;

/// Reads a small file to its end or to `limit`, without waiting for whatever it may be.
pub(crate) fn read_small(path: &[u8], limit: usize) -> Result<Vec<u8>, Errno> {
    let file = open(path)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut content = vec![0; limit.min(16 * 1024)];
    let mut len = 0;
    loop {
        if len == content.len() {
            if len == limit {
                break;
            }
            content.resize(limit.min(len * 2), 0);
        }
        match rustix::io::read(&file, &mut content[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(len);
    Ok(content)
}

/// Sends a regular file's description and content.
pub(crate) async fn read(mut connection: Connection, path: Vec<u8>, offset: u64, len: Option<u64>) -> io::Result<()> {
    let opened = blocking::run(move || {
        let path = path::checked(path)?;
        let (file, entry) = open_regular(&path)?;
        let reader = Reader { path, file, offset, left: len.unwrap_or(u64::MAX), buffer: Vec::new() };
        Ok((entry, reader.next()?))
    });
    let (entry, (mut reader, mut filled)) = match opened.await {
        Ok(opened) => opened,
        Err(failure) => return connection.fail(failure).await,
    };
    connection.push(&AgentFrame::Entry(entry))?;
    loop {
        if filled > 0 {
            connection.flushed().await?;
            connection.push_payload(Payload::AgentData, &mut reader.buffer, filled)?;
        }
        if filled < CHUNK || reader.left == 0 {
            return connection.send(&AgentFrame::End { truncated: false }).await;
        }
        connection.flushed().await?;
        (reader, filled) = match blocking::run(move || reader.next()).await {
            Ok(next) => next,
            Err(failure) => return connection.fail(failure).await,
        };
    }
}

struct Reader {
    path: Vec<u8>,
    file: OwnedFd,
    offset: u64,
    left: u64,
    /// Room for a frame's head, then the content.
    buffer: Vec<u8>,
}

impl Reader {
    /// Fills the buffer; less than a chunk only at the end.
    fn next(mut self) -> Result<(Reader, usize), Failure> {
        let wanted = self.left.min(CHUNK as u64) as usize;
        if self.buffer.is_empty() {
            self.buffer = vec![0; HEAD_ROOM + CHUNK];
        }
        let mut filled = 0;
        while filled < wanted {
            let into = &mut self.buffer[HEAD_ROOM + filled..HEAD_ROOM + wanted];
            match rustix::io::pread(&self.file, into, self.offset) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.offset += read as u64;
                    self.left -= read as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::at("read", &self.path, errno)),
            }
        }
        Ok((self, filled))
    }
}

fn open_regular(path: &[u8]) -> Result<(OwnedFd, Entry), Failure> {
    let failed = |errno| Failure::at("open", path, errno);
    let file = open(path).map_err(failed)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(failed(Errno::ISDIR)),
        _ => return Err(not_regular("open", path)),
    }
    let entry = entry::describe(CWD, path, path.to_vec(), &stat, &Users::load().names()).map_err(failed)?;
    Ok((file, entry))
}

/// Opening must not wait for a writer, take a terminal, or do what devices do when opened.
fn open(path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

pub(super) fn not_regular(action: &str, path: &[u8]) -> Failure {
    let message = format!("{action} {}: not a regular file", crate::failure::shown(path));
    Failure::new(ErrorKind::Invalid, message)
}
