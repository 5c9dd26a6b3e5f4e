//! Copies of single directory entries with everything that belongs to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};

use super::contents;
use super::xattrs::{self, Attributes};
use crate::error::{At, Error, Result, sandbox_path};
use crate::tree::dir::{Dir, FileKind, Metadata, Opened, Timestamp, proc_path, reopen};

/// How copies are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copier {
    pub(crate) attributes: Attributes,
    /// Try to share the data blocks.
    pub(crate) share: bool,
}

impl Copier {
    /// Makes `to/name` a copy of the entry `from/name`, which is no directory. The name must be
    /// free. Returns the number of content bytes that could not be shared.
    pub(crate) fn copy_entry(&self, from: &Dir, to: &Dir, name: &[u8], meta: &Metadata, path: &[u8]) -> Result<u64> {
        let (source, now) = from.handle(name).inside("open for copying", path)?;
        if now.id != meta.id || now.kind != meta.kind {
            return Err(Error::Changed { path: sandbox_path(path) });
        }
        let mut copied = 0;
        let made = match meta.kind {
            FileKind::File => {
                let content = reopen(&source).inside("open for copying", path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).inside("create", path)?;
                let target = File::from(target);
                copied =
                    contents::copy(&content, &target, meta.size, self.share).inside("copy the content of", path)?;
                OwnedFd::from(target)
            }
            FileKind::Directory => {
                return Err(rustix::io::Errno::ISDIR).inside("copy as a single entry", path);
            }
            other => {
                match other {
                    FileKind::Symlink => {
                        let target = from.read_link(name).inside("read the symlink", path)?;
                        rustix::fs::symlinkat(&target[..], to, name)
                    }
                    FileKind::Fifo => make_node(to, name, FileType::Fifo, 0),
                    FileKind::Socket => make_node(to, name, FileType::Socket, 0),
                    _ => {
                        let block = meta.is_block_device();
                        let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
                        make_node(to, name, kind, rustix::fs::makedev(meta.rdev.0, meta.rdev.1))
                    }
                }
                .inside("create", path)?;
                to.handle(name).inside("open the copy", path)?.0
            }
        };
        let attributes = xattrs::get_all(source.as_fd(), self.attributes, path)?;
        self.dress(&made, meta, &attributes, path)?;
        set_times(to, name, meta).inside("set the times of", path)?;
        Ok(copied)
    }

    /// Makes the directory `to/name` with owner, mode and attributes of `like`; its times are set
    /// when it has its entries.
    pub(crate) fn make_dir(&self, to: &Dir, name: &[u8], like: &Dir, path: &[u8]) -> Result<std::rc::Rc<Dir>> {
        rustix::fs::mkdirat(to, name, Mode::RWXU).inside("create the directory", path)?;
        match to.child(name).inside("open the new directory", path)? {
            Opened::Dir(made) => {
                self.dress_dir(&made, like, path)?;
                Ok(made)
            }
            Opened::Other | Opened::Nothing => {
                Err(io::Error::other("replaced while being made")).inside("open the new directory", path)
            }
        }
    }

    /// Gives a directory owner, mode and attributes of another.
    pub(crate) fn dress_dir(&self, dir: &Dir, like: &Dir, path: &[u8]) -> Result<()> {
        let meta = like.own_metadata().inside("stat", path)?;
        let attributes = xattrs::get_all(like.as_fd(), self.attributes, path)?;
        self.dress(dir, &meta, &attributes, path)
    }

    /// Owner first, since a change of owner drops set-user-id and capabilities.
    fn dress(&self, made: impl AsFd, meta: &Metadata, attributes: &xattrs::Xattrs, path: &[u8]) -> Result<()> {
        let made = made.as_fd();
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).inside("set the owner of", path)?;
        if meta.kind != FileKind::Symlink {
            let mode = Mode::from_raw_mode(meta.mode);
            rustix::fs::chmod(proc_path(made), mode).inside("set the mode of", path)?;
        }
        xattrs::set_all(made, attributes, self.attributes, path)
    }
}

/// Makes `to/name` another name of the file at `first`, a relative path below `root`. No symlink
/// is followed, neither on the way nor at its end.
pub(crate) fn link_below(root: &Dir, first: &[u8], to: &Dir, name: &[u8]) -> rustix::io::Result<()> {
    let (parent, first_name) = match first.iter().rposition(|b| *b == b'/') {
        Some(at) => (&first[..at], &first[at + 1..]),
        None => (&b"."[..], first),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let parent = rustix::fs::openat2(root, parent, flags, Mode::empty(), resolve)?;
    rustix::fs::linkat(parent, first_name, to, name, AtFlags::empty())
}

/// Makes `dir/name` hide whatever the template has there.
pub(crate) fn make_whiteout(dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

fn make_node(dir: &Dir, name: &[u8], kind: FileType, device: rustix::fs::Dev) -> rustix::io::Result<()> {
    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
}

/// Sets access and modification time of an entry, not following symlinks.
fn set_times(dir: &Dir, name: &[u8], meta: &Metadata) -> rustix::io::Result<()> {
    rustix::fs::utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets access and modification time of a directory.
pub(crate) fn set_dir_times(dir: &Dir, meta: &Metadata) -> rustix::io::Result<()> {
    rustix::fs::futimens(dir, &times(meta))
}

fn times(meta: &Metadata) -> Timestamps {
    let spec = |t: Timestamp| Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() };
    Timestamps { last_access: spec(meta.atime), last_modification: spec(meta.mtime) }
}
