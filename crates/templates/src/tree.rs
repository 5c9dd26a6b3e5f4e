//! Work on whole directory trees, by directory descriptors: never through a symbolic link, never across a mount.

mod content;
mod measure;
mod place;
mod remove;
mod seal;
pub(crate) mod write;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::{Error, Result};

pub(crate) use content::copy_content;
pub(crate) use measure::{Measure, measure};
pub(crate) use place::{Method, Placed, place};
pub(crate) use remove::{remove, remove_at, remove_contents};
pub(crate) use seal::{MOUNTED, SCRATCH, create_file, exists, read_bytes, read_small, seal};

/// One name in a directory.
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) stat: Stat,
}

impl Entry {
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Opens the directory at `path`, which must not be a symbolic link.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::os("open directory", path))
}

/// Opens what `name` (a name or relative path) is below `dir`; links and mount points are refused.
pub(crate) fn open_below(dir: impl AsFd, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens a subdirectory for reading.
pub(crate) fn open_subdir(dir: impl AsFd, name: &CStr, path: &Path) -> Result<OwnedFd> {
    open_below(dir, name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(Error::os("open directory", path))
}

/// The entries of a directory, sorted by name.
pub(crate) fn entries(dir: impl AsFd, path: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let listing = Dir::read_from(&dir).map_err(Error::os("list", path))?;
    for entry in listing {
        let entry = entry.map_err(Error::os("list", path))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::os("stat", join(path, name)))?;
        found.push(Entry { name: name.to_owned(), stat });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `path/name`, for messages.
pub(crate) fn join(path: &Path, name: &CStr) -> PathBuf {
    path.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Sets the mode of a directory that this crate made.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let dir = open_root(path)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(Error::os("set mode of", path))
}

/// The first 32 hex digits of a hash: short enough for paths, long enough never to meet by chance.
pub(crate) fn short_hex(hasher: &blake3::Hasher) -> String {
    hex::encode(&hasher.finalize().as_bytes()[..16])
}

/// Makes all that was written to the filesystem of `path` durable.
pub(crate) fn sync_filesystem(path: &Path) -> Result<()> {
    let dir = open_root(path)?;
    rustix::fs::syncfs(&dir).map_err(Error::os("sync filesystem of", path))
}

/// Bytes that can still be written to the filesystem of `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(Error::os("ask free space of", path))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether a file's fsync makes durable every name made before it: so with the ordered journals of ext4
/// and XFS.
pub(crate) fn orders_names(path: &Path) -> Result<bool> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    let stat = rustix::fs::statfs(path).map_err(Error::os("ask filesystem type of", path))?;
    // Signed on some architectures, unsigned on others, and never negative for these two.
    Ok(matches!(stat.f_type as u64, EXT4 | XFS))
}
