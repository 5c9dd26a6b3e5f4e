//! Copying a root directory that belongs to somebody else.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::limits::MAX_DEPTH;
use crate::tree::write::{Attributes, TreeWriter};
use crate::tree::{MOUNTED, entries, join, open_below, open_root};
use crate::{Error, Result};

struct Walk<'a> {
    writer: &'a mut TreeWriter,
    /// Files with several names: device and inode to the first path.
    linked: HashMap<(u64, u64), Vec<u8>>,
    tick: &'a mut dyn FnMut() -> Result<()>,
}

/// Copies everything below `source` but sockets, and but what lies in directories on which sandboxes have mounts.
pub(crate) fn copy(source: &Path, writer: &mut TreeWriter, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let root = open_root(source)?;
    let stat = rustix::fs::fstat(&root).map_err(Error::os("stat", source))?;
    writer.directory(b"", &attributes(root.as_fd(), &stat, source)?)?;
    let mut walk = Walk { writer, linked: HashMap::new(), tick };
    walk.directory(root.as_fd(), b"", source, 0)
}

impl Walk<'_> {
    fn directory(&mut self, dir: BorrowedFd<'_>, inner: &[u8], path: &Path, depth: usize) -> Result<()> {
        for entry in entries(dir, path)? {
            let shown = join(path, &entry.name);
            let mut below = inner.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.name.to_bytes());
            let kind = entry.file_type();
            match kind {
                FileType::Directory => {
                    if depth >= MAX_DEPTH {
                        return Err(self.writer.unfit(&below, format!("lies deeper than {MAX_DEPTH} directories")));
                    }
                    let hidden = inner.is_empty() && MOUNTED.contains(&entry.name.as_c_str());
                    if hidden {
                        self.writer.directory(&below, &bare(&entry.stat))?;
                        continue;
                    }
                    let subdir = match open_below(dir, &entry.name, OFlags::RDONLY | OFlags::DIRECTORY) {
                        Err(Errno::XDEV) => {
                            return Err(self.writer.unfit(&below, "is a mount point; unmount it first"));
                        }
                        other => other.map_err(Error::os("open directory", &shown))?,
                    };
                    self.writer.directory(&below, &attributes(subdir.as_fd(), &entry.stat, &shown)?)?;
                    self.directory(subdir.as_fd(), &below, &shown, depth + 1)?;
                }
                FileType::RegularFile | FileType::Symlink | FileType::Fifo => {
                    self.file(dir, &entry.name, &entry.stat, &below, &shown)?;
                }
                // Worthless without the program that made it.
                FileType::Socket => {}
                _ => return Err(self.writer.unfit(&below, "is a device, which a template must not hold")),
            }
            (self.tick)()?;
        }
        Ok(())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat, inner: &[u8], shown: &Path) -> Result<()> {
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&identity) {
                return self.writer.hard_link(inner, &first.clone());
            }
            self.linked.insert(identity, inner.to_vec());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(Error::os("read link", shown))?;
                self.writer.symlink(inner, target.to_bytes(), &bare(stat))
            }
            FileType::Fifo => self.writer.fifo(inner, &bare(stat)),
            _ => {
                let source = match open_below(dir, name, OFlags::RDONLY | OFlags::NONBLOCK) {
                    Err(Errno::XDEV) => return Err(self.writer.unfit(inner, "is a mount point; unmount it first")),
                    other => File::from(other.map_err(Error::os("open", shown))?),
                };
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let attributes = attributes(source.as_fd(), stat, shown)?;
                self.writer.copy(inner, &attributes, &source, size)
            }
        }
    }
}

fn bare(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        xattrs: Vec::new(),
    }
}

/// With the extended attributes that a template keeps.
fn attributes(fd: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<Attributes> {
    // The kernel's own limits for a list of names and for one value.
    let mut names = vec![0_u8; 65_536];
    let length = match rustix::fs::flistxattr(fd, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(Error::os("list attributes of", path)(errno)),
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0_u8; 65_536];
        let size = rustix::fs::fgetxattr(fd, name, &mut value).map_err(Error::os("read attribute of", path))?;
        value.truncate(size);
        xattrs.push((name.to_vec(), value));
    }
    Ok(Attributes { xattrs, ..bare(stat) })
}
