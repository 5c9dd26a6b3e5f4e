//! Writes files: beside the old one, and in its place when complete.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use forkpoint_protocol::{AgentFrame, Entry, ErrorKind, HostFrame, MAX_FRAME, WriteDisposition, WriteFile, codec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::path::{self, Place};
use super::{Owner, entry, owner_of, read::not_regular};
use crate::agent::Agent;
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;

const DEFAULT_MODE: u32 = 0o644;
/// Block for a copy within the sandbox.
const BLOCK: usize = 64 * 1024;

/// Takes content from the host and answers with the file's description.
pub(crate) async fn write(agent: &Agent, mut connection: Connection, request: WriteFile) -> io::Result<()> {
    let default_user = agent.default_user.clone();
    let done = match blocking::run(move || Writer::open(request, &default_user)).await {
        Ok(writer) => receive(&mut connection, writer).await?,
        Err(failure) => Err(failure),
    };
    match done {
        Ok(entry) => connection.send(&AgentFrame::Entry(entry)).await,
        Err(failure) => {
            connection.fail(failure).await?;
            connection.finish().await
        }
    }
}

/// Outer error: the connection. Inner: the file. Either way what was written is removed.
async fn receive(connection: &mut Connection, mut writer: Writer) -> io::Result<Result<Entry, Failure>> {
    loop {
        let frame = match connection.frame(MAX_FRAME).await {
            Ok(Some(frame)) => frame,
            lost => {
                // Dropping a large file takes its time and must not hold up the event loop.
                let _ = blocking::run(move || writer.give_up()).await;
                return Err(lost.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let step = match codec::decode(&frame) {
            Ok(HostFrame::Data(data)) => {
                let data = frame.slice_ref(data);
                blocking::run(move || writer.write(&data)).await
            }
            Ok(HostFrame::End) => return Ok(blocking::run(move || writer.complete()).await),
            Ok(HostFrame::Cancel) => blocking::run(move || writer.give_up()).await,
            Ok(_) => Err(Failure::invalid("only content may follow a write request")),
            Err(error) => Err(Failure::invalid(format!("content not understood: {error}"))),
        };
        writer = match step {
            Ok(writer) => writer,
            Err(failure) => return Ok(Err(failure)),
        };
    }
}

/// A file on its way. Dropped before it is complete, it leaves no trace (but of an append).
struct Writer {
    file: OwnedFd,
    /// Where the file is to be, links followed.
    path: Vec<u8>,
    place: Place,
    /// Name of the file beside; `None` for an append and when it is in place.
    temporary: Option<Vec<u8>>,
    owner: Owner,
    mode: u32,
    is_new_only: bool,
}

impl Writer {
    fn open(request: WriteFile, default_user: &str) -> Result<Writer, Failure> {
        let wanted = request.owner.as_deref();
        let owner = owner_of(wanted, default_user)?;
        let path = path::follow(path::checked(request.path)?)?;
        let place = match request.make_parents {
            true => path::place_with_parents(&path, owner)?,
            false => path::place(&path)?,
        };
        let failed = |errno| Failure::at("write", &path, errno);
        let is_new_only = request.disposition == WriteDisposition::CreateNew;
        let old = match rustix::fs::statat(&place.parent, &place.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) if is_new_only => return Err(failed(Errno::EXIST)),
            Ok(stat) => Some(regular(&path, stat)?),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        let owner = match old {
            Some(stat) if wanted.is_none() => Owner { uid: stat.st_uid, gid: stat.st_gid },
            _ => owner,
        };
        let mode = request.mode.or(old.map(|stat| stat.st_mode)).unwrap_or(DEFAULT_MODE) & 0o7777;
        if request.disposition == WriteDisposition::Append {
            let file = open_for_append(&path, &place)?;
            return Ok(Writer { file, path, place, temporary: None, owner, mode, is_new_only });
        }
        let (file, temporary) = create_beside(&place).map_err(failed)?;
        Ok(Writer { file, path, place, temporary: Some(temporary), owner, mode, is_new_only })
    }

    fn write(self, data: &Bytes) -> Result<Writer, Failure> {
        write_all(&self.file, data).map_err(|errno| Failure::at("write", &self.path, errno))?;
        Ok(self)
    }

    fn complete(mut self) -> Result<Entry, Failure> {
        let failed = |errno| Failure::at("write", &self.path, errno);
        // Owner first: changing it clears setuid and setgid.
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        rustix::fs::fchown(&self.file, Some(uid), Some(gid)).map_err(failed)?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(self.mode)).map_err(failed)?;
        if let Some(temporary) = &self.temporary {
            let flags = if self.is_new_only { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
            let (directory, name) = (&self.place.parent, &self.place.name[..]);
            match rustix::fs::renameat_with(directory, &temporary[..], directory, name, flags) {
                Ok(()) => self.temporary = None,
                // Something is mounted on the file, like /etc/hosts: it can only be filled anew.
                Err(Errno::BUSY) => self.refill().map_err(failed)?,
                Err(errno) => return Err(failed(errno)),
            }
        }
        entry::at_path(&self.path, false)
    }

    fn give_up(self) -> Result<Writer, Failure> {
        Err(Failure::new(ErrorKind::Other, "given up by the caller"))
    }

    fn refill(&self) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&self.place.parent, &self.place.name[..], flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        rustix::fs::ftruncate(&target, 0)?;
        let mut block = vec![0; BLOCK];
        let mut offset = 0;
        loop {
            match rustix::io::pread(&self.file, &mut block[..], offset)? {
                0 => return Ok(()),
                len => {
                    write_all(&target, &block[..len])?;
                    offset += len as u64;
                }
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.place.parent, &temporary[..], AtFlags::empty());
        }
    }
}

fn regular(path: &[u8], stat: Stat) -> Result<Stat, Failure> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        FileType::Directory => Err(Failure::at("write", path, Errno::ISDIR)),
        _ => Err(not_regular("write", path)),
    }
}

/// A new file in the same directory, under a name nobody can foresee.
fn create_beside(place: &Place) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".{:016x}.part", u64::from_le_bytes(random)).into_bytes();
        match rustix::fs::openat(&place.parent, &name[..], flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::EXIST) => {}
            result => return result.map(|file| (file, name)),
        }
    }
}

fn open_for_append(path: &[u8], place: &Place) -> Result<OwnedFd, Failure> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let failed = |errno| Failure::at("write", path, errno);
    let file = rustix::fs::openat(&place.parent, &place.name[..], flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    regular(path, rustix::fs::fstat(&file).map_err(failed)?)?;
    Ok(file)
}

pub(super) fn write_all(file: &OwnedFd, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(file, data) {
            Ok(written) => data = &data[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
