//! Directories by descriptor, and what is known of a file without opening it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::error::{At, Result};

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    /// A character or block device; only templates have them.
    Device,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

/// What a file is, without its content. Owners are as on disk: root inside is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    pub kind: FileKind,
    /// Permission bits with set-user-id, set-group-id and sticky: `mode & 0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes; of a symlink the length of its target.
    pub size: u64,
    /// How many names the inode has.
    pub links: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Device and inode number: equal for equal inodes.
    pub id: (u64, u64),
    pub(crate) rdev: (u32, u32),
    pub(crate) char_device: bool,
}

impl Metadata {
    /// The mark by which a layer hides a name of the template.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.char_device && self.rdev == (0, 0)
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Regular files and symlinks: what is counted and compared.
    pub(crate) fn is_content(&self) -> bool {
        matches!(self.kind, FileKind::File | FileKind::Symlink)
    }

    pub(crate) fn is_block_device(&self) -> bool {
        self.kind == FileKind::Device && !self.char_device
    }
}

/// An open directory and its identity.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    pub(crate) id: (u64, u64),
}

const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens a directory of the host by its path; its last component must not be a symlink.
    pub(crate) fn open(path: &Path) -> Result<Rc<Self>> {
        let fd = rustix::fs::open(path, OPEN_DIR, Mode::empty()).at("open directory", path)?;
        Ok(Rc::new(Self::from_fd(fd).at("stat", path)?))
    }

    fn from_fd(fd: OwnedFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, id: (stat.st_dev, stat.st_ino) })
    }

    /// Opens the directory `name`; `None` if there is none or it is no directory.
    pub(crate) fn child(&self, name: &[u8]) -> rustix::io::Result<Opened> {
        match rustix::fs::openat(&self.fd, name, OPEN_DIR, Mode::empty()) {
            Ok(fd) => Ok(Opened::Dir(Rc::new(Self::from_fd(fd)?))),
            Err(Errno::NOENT) => Ok(Opened::Nothing),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(Opened::Other),
            Err(e) => Err(e),
        }
    }

    /// What `name` is; `None` if it is not there.
    pub(crate) fn stat(&self, name: &[u8]) -> rustix::io::Result<Option<Metadata>> {
        match stat_at(self.fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(meta) => Ok(Some(meta)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Metadata of the directory itself.
    pub(crate) fn own_metadata(&self) -> rustix::io::Result<Metadata> {
        stat_at(self.fd.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    /// A descriptor of `name` that reads nothing (`O_PATH`), with its metadata.
    pub(crate) fn handle(&self, name: &[u8]) -> rustix::io::Result<(OwnedFd, Metadata)> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let meta = stat_at(fd.as_fd(), b"", AtFlags::EMPTY_PATH)?;
        Ok((fd, meta))
    }

    /// Opens `name` for reading if it still is the regular file `meta`.
    pub(crate) fn open_file(&self, name: &[u8], meta: &Metadata) -> io::Result<File> {
        let (handle, now) = self.handle(name)?;
        if now.kind != FileKind::File || now.id != meta.id {
            return Err(io::Error::other("replaced while it was being read"));
        }
        Ok(reopen(&handle)?)
    }

    /// The symlink's target.
    pub(crate) fn read_link(&self, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What opening a name as a directory found.
#[derive(Debug)]
pub(crate) enum Opened {
    Dir(Rc<Dir>),
    /// Something else has this name.
    Other,
    Nothing,
}

/// Opens for reading what an `O_PATH` descriptor holds; look first that it is a regular file.
pub(crate) fn reopen(handle: &OwnedFd) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(proc_path(handle.as_fd()), flags, Mode::empty()).map(File::from)
}

/// The path by which calls without an `AT_EMPTY_PATH` form reach an `O_PATH` descriptor. It
/// leads to the very inode, also to a symlink itself.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

fn stat_at(fd: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> rustix::io::Result<Metadata> {
    let mask = StatxFlags::BASIC_STATS;
    let x = rustix::fs::statx(fd, name, flags | AtFlags::NO_AUTOMOUNT, mask)?;
    let format = u32::from(x.stx_mode) & 0o170_000;
    let time = |t: rustix::fs::StatxTimestamp| Timestamp { secs: t.tv_sec, nanos: t.tv_nsec };
    Ok(Metadata {
        kind: match format {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            _ => FileKind::Device,
        },
        mode: u32::from(x.stx_mode) & 0o7777,
        uid: x.stx_uid,
        gid: x.stx_gid,
        size: x.stx_size,
        links: x.stx_nlink,
        atime: time(x.stx_atime),
        mtime: time(x.stx_mtime),
        ctime: time(x.stx_ctime),
        id: (rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor), x.stx_ino),
        rdev: (x.stx_rdev_major, x.stx_rdev_minor),
        char_device: format == 0o020_000,
    })
}
