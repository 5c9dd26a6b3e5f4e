//! Copies files and trees.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use forkpoint_protocol::ErrorKind;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Stop;
use super::path::{self, Place};
use super::tree::{Cursor, identity, is_directory};
use super::write::write_all;
use crate::failure::{Failure, shown};

/// Names kept in memory at once.
const HELD: usize = 200_000;
/// Bytes copied between two looks at whether to go on.
const PIECE: u64 = 8 << 20;
const BLOCK: usize = 128 * 1024;

/// Copies what `from` names (a link as a link) to the name `to`.
pub(super) fn copy(from: &[u8], to: &[u8], overwrite: bool, stop: &Stop) -> Result<(), Failure> {
    let (source, target) = (path::place(from)?, path::place(to)?);
    let stat = rustix::fs::statat(&source.parent, &source.name[..], AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Failure::at("copy", from, errno))?;
    let job = Job { from, overwrite, stop };
    if is_directory(&stat) {
        refuse_into_itself(from, to, &target)?;
        return job.tree(&source, &target);
    }
    job.one(&source.parent, &source.name, &stat, &target.parent, &target.name)
}

/// A copy of a directory into its own tree would never end.
fn refuse_into_itself(from: &[u8], to: &[u8], target: &Place) -> Result<(), Failure> {
    let real = |path: &[u8]| {
        std::fs::canonicalize(std::ffi::OsStr::from_bytes(path)).map_err(|error| Failure::at("copy", path, error))
    };
    let parent_end =
        to.len() - to.iter().rev().skip_while(|byte| **byte == b'/').take_while(|byte| **byte != b'/').count();
    let parent_end = parent_end - to.iter().rev().take_while(|byte| **byte == b'/').count();
    let target = real(&to[..parent_end.max(1)])?.join(std::ffi::OsStr::from_bytes(&target.name));
    match target.starts_with(real(from)?) {
        true => Err(Failure::invalid(format!("copy {} to {}: the target is in the source", shown(from), shown(to)))),
        false => Ok(()),
    }
}

struct Job<'a> {
    from: &'a [u8],
    overwrite: bool,
    stop: &'a Stop,
}

impl Job<'_> {
    fn failed(&self, name: &[u8]) -> impl Fn(Errno) -> Failure {
        let context = match self.from.ends_with(name) {
            true => format!("copy {}", shown(self.from)),
            false => format!("copy {} in {}", shown(name), shown(self.from)),
        };
        move |errno| Failure::doing(&context, errno)
    }

    fn tree(&self, source: &Place, target: &Place) -> Result<(), Failure> {
        let failed = self.failed(&source.name);
        let mut from = Cursor::open_at(&source.parent, &source.name).map_err(&failed)?;
        make_directory(&target.parent, &target.name).map_err(&failed)?;
        let mut to = Cursor::open_at(&target.parent, &target.name).map_err(&failed)?;
        let mut held = 0;
        let mut levels = vec![self.names(&from, &mut held)?];
        while let Some(names) = levels.last_mut() {
            self.stop.check()?;
            let Some(name) = names.next() else {
                // Last, since what is put into a directory changes its time, and its mode may
                // forbid to put anything in.
                let stat = rustix::fs::fstat(from.fd()).map_err(&failed)?;
                dress(to.fd(), &stat).map_err(&failed)?;
                levels.pop();
                from.leave().and_then(|()| to.leave()).map_err(&failed)?;
                continue;
            };
            held -= 1;
            let name = name.to_bytes();
            let stat = match from.stat(name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(self.failed(name)(errno)),
            };
            if !is_directory(&stat) {
                self.one(from.fd(), name, &stat, to.fd(), name)?;
                continue;
            }
            let failed = self.failed(name);
            make_directory(to.fd(), name).map_err(&failed)?;
            from.enter(name).and_then(|()| to.enter(name)).map_err(&failed)?;
            levels.push(self.names(&from, &mut held)?);
        }
        Ok(())
    }

    fn names(&self, from: &Cursor, held: &mut usize) -> Result<std::vec::IntoIter<CString>, Failure> {
        let (names, more) = from.names(HELD - *held).map_err(self.failed(b""))?;
        if more {
            let message = format!("copy {}: directories with more than {HELD} entries are too large", shown(self.from));
            return Err(Failure::new(ErrorKind::TooLarge, message));
        }
        *held += names.len();
        Ok(names.into_iter())
    }

    /// Copies anything but a directory.
    fn one(&self, from: &OwnedFd, name: &[u8], stat: &Stat, to: &OwnedFd, to_name: &[u8]) -> Result<(), Failure> {
        let failed = self.failed(name);
        match rustix::fs::statat(to, to_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
            Ok(old) if identity(&old) == identity(stat) => {
                return Err(Failure::invalid(format!(
                    "copy {}: source and target are the same file",
                    shown(self.from)
                )));
            }
            Ok(_) if !self.overwrite => return Err(failed(Errno::EXIST)),
            Ok(old) if is_directory(&old) => return Err(failed(Errno::ISDIR)),
            // A new file instead of new content: other names of the old one keep theirs.
            Ok(_) => rustix::fs::unlinkat(to, to_name, AtFlags::empty()).map_err(&failed)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.content(from, name, to, to_name),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new()).map_err(&failed)?;
                rustix::fs::symlinkat(&link, to, to_name).map_err(&failed)?;
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, to_name, kind, mode, stat.st_rdev).map_err(&failed)?;
            }
        }
        rustix::fs::chownat(to, to_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)
    }

    fn content(&self, from: &OwnedFd, name: &[u8], to: &OwnedFd, to_name: &[u8]) -> Result<(), Failure> {
        let failed = self.failed(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(&failed)?;
        // It may be another file by now; the one that is open counts.
        let stat = rustix::fs::fstat(&source).map_err(&failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::STALE));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, to_name, flags, Mode::from_raw_mode(0o600)).map_err(&failed)?;
        let result = self.data(&source, &target, &failed).and_then(|()| dress(&target, &stat).map_err(&failed));
        if result.is_err() {
            let _ = rustix::fs::unlinkat(to, to_name, AtFlags::empty());
        }
        result
    }

    /// Copies where there is data, so that holes stay holes.
    fn data(&self, source: &OwnedFd, target: &OwnedFd, failed: &impl Fn(Errno) -> Failure) -> Result<(), Failure> {
        let size = rustix::fs::fstat(source).map_err(failed)?.st_size as u64;
        let mut end = 0;
        loop {
            let start = match rustix::fs::seek(source, SeekFrom::Data(end)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => end,
                Err(errno) => return Err(failed(errno)),
            };
            end = rustix::fs::seek(source, SeekFrom::Hole(start)).unwrap_or(size);
            if end <= start {
                break;
            }
            let mut offset = start;
            while offset < end {
                self.stop.check()?;
                match piece(source, target, offset, (end - offset).min(PIECE)).map_err(failed)? {
                    0 => return Ok(()),
                    copied => offset += copied,
                }
            }
        }
        rustix::fs::ftruncate(target, size).map_err(failed)
    }
}

/// Copies some bytes in the kernel where it can, else through memory; 0 at the end.
fn piece(source: &OwnedFd, target: &OwnedFd, offset: u64, len: u64) -> Result<u64, Errno> {
    let (mut from, mut to) = (offset, offset);
    match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len as usize) {
        Ok(copied) if copied > 0 => return Ok(copied as u64),
        Ok(_) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    let mut block = vec![0; BLOCK.min(len as usize)];
    let read = rustix::io::pread(source, &mut block[..], offset)?;
    rustix::fs::seek(target, SeekFrom::Start(offset))?;
    write_all(target, &block[..read])?;
    Ok(read as u64)
}

fn make_directory(parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_directory(&stat) { Ok(()) } else { Err(Errno::EXIST) }
        }
        result => result,
    }
}

/// Gives the copy owner, mode and times of the source; the owner first, as it clears mode bits.
fn dress(file: impl AsFd, stat: &Stat) -> Result<(), Errno> {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    rustix::fs::fchown(&file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
    };
    rustix::fs::futimens(&file, &times)
}
