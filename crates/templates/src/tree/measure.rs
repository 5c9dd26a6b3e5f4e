//! The digest of a tree's contents, with its counts.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use super::{entries, join, open_below, open_root, open_subdir, short_hex};
use crate::{Cancel, Error, Result};

/// What a tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) digest: String,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
}

struct Walk<'a> {
    hasher: blake3::Hasher,
    inodes: HashSet<u64>,
    measure: Measure,
    cancel: &'a Cancel,
}

/// Reads every file below `root`. Times are not part of the digest: two builds of the same packages agree.
pub(crate) fn measure(root: &Path, cancel: &Cancel) -> Result<Measure> {
    let dir = open_root(root)?;
    let measure = Measure { digest: String::new(), files: 0, directories: 0, bytes: 0 };
    let mut walk = Walk { hasher: blake3::Hasher::new(), inodes: HashSet::new(), measure, cancel };
    let stat = rustix::fs::fstat(&dir).map_err(Error::os("stat", root))?;
    walk.note(b".", &stat);
    walk.directory(dir.as_fd(), root)?;
    walk.measure.digest = short_hex(&walk.hasher);
    Ok(walk.measure)
}

impl Walk<'_> {
    fn note(&mut self, name: &[u8], stat: &rustix::fs::Stat) {
        self.text(name);
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
        self.cancel.check()?;
        self.measure.directories += 1;
        for entry in entries(dir, path)? {
            let below = join(path, &entry.name);
            self.note(entry.name.to_bytes(), &entry.stat);
            match entry.file_type() {
                FileType::Directory => {
                    let subdir = open_subdir(dir, &entry.name, &below)?;
                    self.directory(subdir.as_fd(), &below)?;
                    continue;
                }
                FileType::RegularFile => {
                    let fd = open_below(dir, &entry.name, OFlags::RDONLY).map_err(Error::os("open", &below))?;
                    let size = u64::try_from(entry.stat.st_size).unwrap_or(0);
                    self.hasher.update(&size.to_le_bytes());
                    self.hasher.update_reader(File::from(fd)).map_err(Error::io("read", &below))?;
                    if entry.stat.st_nlink == 1 || self.inodes.insert(entry.stat.st_ino) {
                        self.measure.bytes += size;
                    }
                }
                FileType::Symlink => {
                    let target =
                        rustix::fs::readlinkat(dir, &entry.name, Vec::new()).map_err(Error::os("read link", &below))?;
                    self.text(target.to_bytes());
                }
                FileType::Fifo => {}
                FileType::Socket => {
                    return Err(Error::UnfitFile { path: below, kind: "socket" });
                }
                _ => {
                    return Err(Error::UnfitFile { path: below, kind: "device" });
                }
            }
            self.measure.files += 1;
        }
        // Ends the directory, so that a name cannot move between it and its parent unseen.
        self.hasher.update(&u64::MAX.to_le_bytes());
        Ok(())
    }
}
