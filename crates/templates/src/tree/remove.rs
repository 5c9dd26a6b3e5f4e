//! Removal of a tree.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{entries, join, open_root, open_subdir};
use crate::{Error, Result};

/// Removes `path` and all below it; fine if it is not there. Stops at a mount point with an error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = open_root(parent)?;
    let Ok(name) = CString::new(name.as_bytes()) else {
        return Ok(());
    };
    remove_at(parent.as_fd(), &name, path)
}

/// Removes `name` in `parent` and all below it; fine if it is not there. `path` is for messages.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(Error::os("remove", path)(errno)),
    }
    // A builder that was killed this moment may still write: its last files come in a second round.
    let mut rounds = 0;
    loop {
        let dir = open_subdir(parent, name, path)?;
        remove_contents(dir.as_fd(), path)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if rounds < 10 => rounds += 1,
            result => return result.map_err(Error::os("remove", path)),
        }
    }
}

/// Removes everything in `dir`, which stays.
pub(crate) fn remove_contents(dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    for entry in entries(dir, path)? {
        let below = join(path, &entry.name);
        if entry.file_type() == FileType::Directory {
            let subdir = open_subdir(dir, &entry.name, &below)?;
            remove_contents(subdir.as_fd(), &below)?;
            drop(subdir);
            match rustix::fs::unlinkat(dir, &entry.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(errno) => return Err(Error::os("remove", &below)(errno)),
            }
        } else {
            match rustix::fs::unlinkat(dir, &entry.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::os("remove", &below)(errno)),
            }
        }
    }
    Ok(())
}
