//! Walks a tree that others change meanwhile, with one descriptor and in bounded memory.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Deeper trees are left alone; a path that long cannot be named anyway.
const MAX_DEPTH: usize = 4096;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What tells one directory from all others.
pub(super) type Identity = (u64, u64);

/// A place in a tree. It goes up by `..`, and only if that is the directory that it came from:
/// whoever moves a directory away in between stops the walk, and cannot lead it elsewhere.
pub(super) struct Cursor {
    fd: OwnedFd,
    identity: Identity,
    above: Vec<Identity>,
}

impl Cursor {
    /// Starts at a directory, which may be named through links.
    pub(super) fn open(path: &[u8]) -> Result<Cursor, Errno> {
        Cursor::new(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
    }

    /// Starts at a directory in another, which may not be a link.
    pub(super) fn open_at(parent: &OwnedFd, name: &[u8]) -> Result<Cursor, Errno> {
        Cursor::new(rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
    }

    fn new(fd: OwnedFd) -> Result<Cursor, Errno> {
        let identity = identity(&rustix::fs::fstat(&fd)?);
        Ok(Cursor { fd, identity, above: Vec::new() })
    }

    /// The directory where the cursor is.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Levels below the start.
    pub(super) fn depth(&self) -> usize {
        self.above.len()
    }

    /// Goes into a subdirectory, never through a link.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<(), Errno> {
        if self.above.len() >= MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let fd = rustix::fs::openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        let below = identity(&rustix::fs::fstat(&fd)?);
        self.above.push(self.identity);
        (self.fd, self.identity) = (fd, below);
        Ok(())
    }

    /// Goes back up; at the start it stays.
    pub(super) fn leave(&mut self) -> Result<(), Errno> {
        let Some(expected) = self.above.pop() else {
            return Ok(());
        };
        let fd = rustix::fs::openat(&self.fd, "..", DIRECTORY, Mode::empty())?;
        if identity(&rustix::fs::fstat(&fd)?) != expected {
            return Err(Errno::STALE);
        }
        (self.fd, self.identity) = (fd, expected);
        Ok(())
    }

    /// Status of a name here, links not followed.
    pub(super) fn stat(&self, name: &[u8]) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Up to `most` names here in order, and whether there are more.
    pub(super) fn names(&self, most: usize) -> Result<(Vec<CString>, bool), Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if names.len() == most {
                return Ok((sorted(names), true));
            }
            names.push(name.to_owned());
        }
        Ok((sorted(names), false))
    }
}

/// Device and inode.
pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn sorted(mut names: Vec<CString>) -> Vec<CString> {
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn links_are_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let mut cursor = Cursor::open(dir.path().as_os_str().as_bytes()).unwrap();
        assert!(cursor.enter(b"link").is_err());
        assert!(Cursor::open_at(cursor.fd(), b"link").is_err());
        assert_eq!(cursor.depth(), 0);
        cursor.enter(b"real").unwrap();
        assert_eq!(cursor.depth(), 1);
    }

    #[test]
    fn a_directory_moved_away_stops_the_walk_instead_of_leading_it_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("start/below")).unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        let start = dir.path().join("start");
        let mut cursor = Cursor::open(start.as_os_str().as_bytes()).unwrap();
        cursor.enter(b"below").unwrap();
        cursor.leave().unwrap();
        cursor.enter(b"below").unwrap();
        std::fs::rename(start.join("below"), dir.path().join("elsewhere/below")).unwrap();
        assert_eq!(cursor.leave(), Err(Errno::STALE));
    }

    #[test]
    fn names_come_in_order_and_say_when_there_are_more() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "c", "a"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let cursor = Cursor::open(dir.path().as_os_str().as_bytes()).unwrap();
        let (names, more) = cursor.names(3).unwrap();
        assert_eq!((names, more), (vec![c"a".into(), c"b".into(), c"c".into()], false));
        let (names, more) = cursor.names(2).unwrap();
        assert_eq!((names.len(), more), (2, true));
    }
}
