//! Descriptions of files.

use std::os::fd::AsFd;

use forkpoint_protocol::{Entry, EntryKind};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::users::{Names, Users};

/// Describes what is at the path.
pub(super) fn at_path(path: &[u8], follow: bool) -> Result<Entry, Failure> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let failed = |errno| Failure::at("look at", path, errno);
    let stat = rustix::fs::statat(CWD, path, flags).map_err(failed)?;
    describe(CWD, path, path.to_vec(), &stat, &Users::load().names()).map_err(failed)
}

/// Describes a file whose status is known; `name` in `directory` is where a link's target is read.
pub(super) fn describe(
    directory: impl AsFd,
    name: &[u8],
    path: Vec<u8>,
    stat: &Stat,
    names: &Names,
) -> Result<Entry, Errno> {
    let kind = kind_of(stat);
    let target = match kind {
        EntryKind::Symlink => Some(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes()),
        _ => None,
    };
    Ok(Entry {
        path,
        kind,
        size: stat.st_size.try_into().unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        user: names.user(stat.st_uid),
        group: names.group(stat.st_gid),
        modified_ns: modified_ns(stat),
        target,
    })
}

/// Kind of a file by its status.
pub(super) fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::RegularFile | FileType::Unknown => EntryKind::File,
    }
}

/// Times that do not fit are at the end of what does.
fn modified_ns(stat: &Stat) -> i64 {
    let nanoseconds = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    nanoseconds.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
