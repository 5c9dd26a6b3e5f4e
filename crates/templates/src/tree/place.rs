//! Placing a tree a second time: by hard links where one filesystem holds both, else by copying.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{Entry, entries, join, open_below, open_root, open_subdir};
use crate::{Error, Result};

/// How files come to their new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Hard links: no data is written, the files are shared.
    Link,
    /// Copies, by reflink where the filesystem can.
    Copy,
}

/// What was placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) files: u64,
    pub(crate) directories: u64,
}

struct Walk<'a> {
    method: Method,
    target_root: BorrowedFd<'a>,
    /// Files with several names: device and inode to the first path placed, relative to the target.
    linked: HashMap<(u64, u64), CString>,
    placed: Placed,
    tick: &'a mut dyn FnMut(u64) -> Result<()>,
}

/// Fills the new, empty directory `target` with what `source` holds, with owners, modes, times, extended
/// attributes, and hard links among themselves. `tick` is told the number of files now and then.
/// `Ok(None)`: hard links are not possible between these two, nothing was placed.
pub(crate) fn place(
    source: &Path,
    target: &Path,
    method: Method,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Option<Placed>> {
    let (from, to) = (open_root(source)?, open_root(target)?);
    let device = |fd: &OwnedFd, path| rustix::fs::fstat(fd).map_err(Error::os("stat", path));
    let stat = device(&from, source)?;
    if method == Method::Link && stat.st_dev != device(&to, target)?.st_dev {
        return Ok(None);
    }
    let linked = HashMap::new();
    let mut walk = Walk { method, target_root: to.as_fd(), linked, placed: Placed::default(), tick };
    match walk.directory(from.as_fd(), to.as_fd(), source, Path::new("")) {
        // Two mounts of one filesystem have one device number, but no links between them.
        Err(Error::Io { source: cause, .. })
            if method == Method::Link && cause.kind() == std::io::ErrorKind::CrossesDevices =>
        {
            super::remove_contents(to.as_fd(), target)?;
            return Ok(None);
        }
        result => result?,
    }
    apply(from.as_fd(), to.as_fd(), &stat, source)?;
    Ok(Some(walk.placed))
}

impl Walk<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path, inner: &Path) -> Result<()> {
        self.placed.directories += 1;
        for entry in entries(from, path)? {
            let below = join(path, &entry.name);
            let inner = join(inner, &entry.name);
            match entry.file_type() {
                FileType::Directory => {
                    rustix::fs::mkdirat(to, &entry.name, Mode::RWXU).map_err(Error::os("make copy of", &below))?;
                    let (a, b) = (open_subdir(from, &entry.name, &below)?, open_subdir(to, &entry.name, &below)?);
                    self.directory(a.as_fd(), b.as_fd(), &below, &inner)?;
                    apply(a.as_fd(), b.as_fd(), &entry.stat, &below)?;
                    continue;
                }
                FileType::RegularFile | FileType::Symlink | FileType::Fifo => {
                    self.file(from, to, &entry, &below, &inner)?;
                }
                FileType::Socket => {
                    return Err(Error::UnfitFile { path: below, kind: "socket" });
                }
                _ => {
                    return Err(Error::UnfitFile { path: below, kind: "device" });
                }
            }
            self.placed.files += 1;
            if self.placed.files.is_multiple_of(256) {
                (self.tick)(self.placed.files)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        entry: &Entry,
        path: &Path,
        inner: &Path,
    ) -> Result<()> {
        if self.method == Method::Link {
            match rustix::fs::linkat(from, &entry.name, to, &entry.name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // This one file has all the names that its filesystem allows: copy it.
                Err(Errno::MLINK | Errno::PERM) => {}
                Err(errno) => return Err(Error::os("link", path)(errno)),
            }
        }
        let identity = (entry.stat.st_dev, entry.stat.st_ino);
        if entry.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&identity) {
                return rustix::fs::linkat(self.target_root, first, to, &entry.name, AtFlags::empty())
                    .map_err(Error::os("link copy of", path));
            }
            let inner = std::os::unix::ffi::OsStrExt::as_bytes(inner.as_os_str());
            if let Ok(inner) = CString::new(inner) {
                self.linked.insert(identity, inner);
            }
        }
        match entry.file_type() {
            FileType::RegularFile => copy_regular(from, to, entry, path),
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(from, &entry.name, Vec::new()).map_err(Error::os("read link", path))?;
                rustix::fs::symlinkat(&target, to, &entry.name).map_err(Error::os("make copy of", path))?;
                apply_unopened(to, &entry.name, &entry.stat, path)
            }
            _ => {
                let mode = Mode::from_raw_mode(entry.stat.st_mode);
                rustix::fs::mknodat(to, &entry.name, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(Error::os("make copy of", path))?;
                apply_unopened(to, &entry.name, &entry.stat, path)?;
                // Just made here, so it is no link that this could follow.
                rustix::fs::chmodat(to, &entry.name, mode, AtFlags::empty())
                    .map_err(Error::os("set mode of copy of", path))
            }
        }
    }
}

fn copy_regular(from: BorrowedFd<'_>, to: BorrowedFd<'_>, entry: &Entry, path: &Path) -> Result<()> {
    let source = open_below(from, &entry.name, OFlags::RDONLY).map_err(Error::os("open", path))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target =
        rustix::fs::openat(to, &entry.name, flags, Mode::RUSR | Mode::WUSR).map_err(Error::os("make copy of", path))?;
    let (mut source, mut target) = (File::from(source), File::from(target));
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        std::io::copy(&mut source, &mut target).map_err(Error::io("copy", path))?;
    }
    apply(source.as_fd(), target.as_fd(), &entry.stat, path)
}

/// Gives `to` the owner, extended attributes, mode and times of `from`. The owner comes first, since
/// changing it clears mode bits and file capabilities; the times last.
fn apply(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(Error::os("set owner of copy of", path))?;
    copy_attributes(from, to, path)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).map_err(Error::os("set mode of copy of", path))?;
    rustix::fs::futimens(to, &times(stat)).map_err(Error::os("set times of copy of", path))
}

fn apply_unopened(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat, path: &Path) -> Result<()> {
    let (uid, gid) = owner(stat);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), nofollow).map_err(Error::os("set owner of copy of", path))?;
    rustix::fs::utimensat(dir, name, &times(stat), nofollow).map_err(Error::os("set times of copy of", path))
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos: u64| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Extended attributes; a target filesystem without any is an error only if there is one to copy.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path) -> Result<()> {
    // The kernel's own limits for a list of names and for one value.
    let mut names = vec![0_u8; 65_536];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(Error::os("list attributes of", path)(errno)),
    };
    for name in names[..length].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 65_536];
        let size = rustix::fs::fgetxattr(from, name, &mut value).map_err(Error::os("read attribute of", path))?;
        rustix::fs::fsetxattr(to, name, &value[..size], rustix::fs::XattrFlags::empty())
            .map_err(Error::os("set attribute of copy of", path))?;
    }
    Ok(())
}
