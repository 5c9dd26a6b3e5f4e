//! Files of a layer on this machine, by descriptors: nothing follows a link or leaves the tree.

use crate::{VaultError, error::Result, tree::Meta};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// The kernel's bounds on names and values of attributes.
const XATTR_LIMIT: usize = 65_536;

/// The top of a tree; everything else is opened relative to it.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens the top directory by its path on the host; the last part must not be a link.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| VaultError::files("open directory", path.as_os_str().as_encoded_bytes(), e))?;
        Ok(Self(fd))
    }

    /// Opens something below, `path` being relative; refuses links on the way, `..` beyond the top, other mounts.
    pub(crate) fn open_below(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        loop {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // The kernel saw a rename elsewhere while it walked.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// Opens a directory below.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<OwnedFd> {
        self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .map_err(|e| VaultError::files("open directory", path, e))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A relative path with one more name.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// Opens a regular file in `folder` for reading, if it still has this inode number.
pub(crate) fn open_file(folder: BorrowedFd<'_>, name: &[u8], inode: u64) -> rustix::io::Result<File> {
    // Not NONBLOCK alone: a FIFO put in its place must not be waited for, and is refused below.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(folder, name, flags, Mode::empty())?.into();
    let stat = rustix::fs::fstat(&file)?;
    if stat.st_ino != inode || rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(Errno::STALE);
    }
    Ok(file)
}

/// The path by which the kernel reaches `name` in an open directory for calls that have no descriptor form.
/// The last part is not followed by the `l…` calls used with it.
fn reach(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/thread-self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Attributes that belong to the file: what the host's own security modules say of it is left out.
fn belongs(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// Attributes of an open file or directory, sorted by name.
pub(crate) fn xattrs(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    gather(|names| rustix::fs::flistxattr(file, names), |name, value| rustix::fs::fgetxattr(file, name, value))
}

/// Attributes of what must not be opened (links, FIFOs, devices).
pub(crate) fn xattrs_of(folder: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = reach(folder, name);
    gather(
        |names| rustix::fs::llistxattr(path.as_slice(), names),
        |name, value| rustix::fs::lgetxattr(path.as_slice(), name, value),
    )
}

fn gather(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut small = [0; 512];
    let mut large = Vec::new();
    let names = match list(&mut small) {
        Ok(length) => &small[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large.resize(XATTR_LIMIT, 0);
            let length = list(&mut large)?;
            &large[..length]
        }
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| belongs(name)) {
        let mut value = [0; 256];
        match get(name, &mut value) {
            Ok(length) => all.push((name.to_vec(), value[..length].to_vec())),
            Err(Errno::RANGE) => {
                let mut value = vec![0; XATTR_LIMIT];
                let length = get(name, &mut value)?;
                value.truncate(length);
                all.push((name.to_vec(), value));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Gives an entry of an open directory its owner, mode, attributes and time; the entry may be anything.
pub(crate) fn apply_meta(folder: BorrowedFd<'_>, name: &[u8], meta: &Meta, is_link: bool) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Timespec, Timestamps, Uid};
    // The owner first: changing it clears mode bits and capabilities.
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_link {
        // The tree is being built by us alone: no link can have come in the place of what was made.
        rustix::fs::chmodat(folder, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
    }
    if !meta.xattrs.is_empty() {
        let path = reach(folder, name);
        for (attribute, value) in &meta.xattrs {
            rustix::fs::lsetxattr(path.as_slice(), attribute.as_slice(), value, rustix::fs::XattrFlags::empty())?;
        }
    }
    let time = Timespec { tv_sec: meta.mtime.0, tv_nsec: i64::from(meta.mtime.1) as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
