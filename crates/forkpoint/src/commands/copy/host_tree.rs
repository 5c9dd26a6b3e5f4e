//! Writes a tree on this machine whose names and contents come from a sandbox: everything is made below one
//! open directory, and no symbolic link below it is ever followed.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{fs::File, io, path::Path, sync::Arc};

/// A directory of this machine to write below.
#[derive(Debug, Clone)]
pub(crate) struct HostTree {
    root: Arc<OwnedFd>,
}

/// A file that is being written; it appears under its name when it is whole.
#[derive(Debug)]
pub(crate) struct Unfinished {
    parent: OwnedFd,
    name: String,
    beside: String,
    renamed: bool,
}

impl HostTree {
    /// Opens a directory that the user named; links in that name are the user's own and are followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Makes a directory; one that exists is fine. Directories above it exist.
    pub(crate) fn make_directory(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => open_below(parent.as_fd(), name, OFlags::DIRECTORY | OFlags::PATH).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a file; it replaces what is under that name only when [`Unfinished::finish`] is called.
    pub(crate) fn create(&self, path: &str) -> io::Result<(File, Unfinished)> {
        let (parent, name) = self.parent_of(path)?;
        // Not derived from the name: that may already have the greatest length.
        let beside = format!(".forkpoint-{}", uuid::Uuid::new_v4().simple());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, &beside, flags, Mode::RUSR | Mode::WUSR)?;
        let unfinished = Unfinished { parent, name: name.to_owned(), beside, renamed: false };
        Ok((file.into(), unfinished))
    }

    /// Makes a symbolic link, in place of a link or file of that name.
    pub(crate) fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
                Ok(rustix::fs::symlinkat(target, &parent, name)?)
            }
            made => Ok(made?),
        }
    }

    fn parent_of<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((open_below(self.root.as_fd(), parent, OFlags::DIRECTORY | OFlags::PATH)?, name))
    }
}

impl Unfinished {
    /// Gives the file its permission bits and its name. Bits that would make it run as its owner are dropped.
    pub(crate) fn finish(mut self, file: &File, mode: u32) -> io::Result<()> {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
        rustix::fs::renameat(&self.parent, &self.beside, &self.parent, &self.name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.renamed {
            // Half a file is of no use; if it cannot be removed, its name says what it is.
            let _ = rustix::fs::unlinkat(&self.parent, &self.beside, AtFlags::empty());
        }
    }
}

fn open_below(directory: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    fn write(tree: &HostTree, path: &str, content: &str, mode: u32) -> io::Result<()> {
        let (mut file, unfinished) = tree.create(path)?;
        file.write_all(content.as_bytes())?;
        unfinished.finish(&file, mode)
    }

    #[test]
    fn a_link_that_waits_in_the_destination_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "old").unwrap();
        symlink(&outside, inside.join("d")).unwrap();
        symlink(outside.join("kept"), inside.join("f")).unwrap();
        fs::create_dir(inside.join("real")).unwrap();
        symlink("real", inside.join("beside")).unwrap();
        let tree = HostTree::open(&inside).unwrap();
        assert!(write(&tree, "d/new", "x", 0o644).is_err());
        assert!(write(&tree, "beside/new", "x", 0o644).is_err());
        assert!(tree.make_directory("d").is_err());
        assert!(tree.make_directory("../up").is_err());
        write(&tree, "f", "new", 0o4755).unwrap();
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "old");
        assert_eq!(fs::read_to_string(inside.join("f")).unwrap(), "new");
        assert_eq!(fs::symlink_metadata(inside.join("f")).unwrap().permissions().mode(), 0o100_755);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn what_was_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tree = HostTree::open(dir.path()).unwrap();
        tree.make_directory("a").unwrap();
        tree.make_directory("a").unwrap();
        drop(tree.create("a/f").unwrap());
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);
        tree.link("a/l", "f").unwrap();
        tree.link("a/l", "g").unwrap();
        assert_eq!(fs::read_link(dir.path().join("a/l")).unwrap(), Path::new("g"));
    }
}
