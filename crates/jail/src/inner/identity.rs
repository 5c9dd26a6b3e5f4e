//! Files that are fresh at each start, mounted over those of the tree.

use std::os::fd::OwnedFd;
use std::path::Path;

use forkpoint_jail::IdentityFile;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::write;

use super::mounts;
use super::tree::Tree;
use crate::step::{Result, Step, failure};

/// Lays each file over the tree's file of that name, where it has one.
///
/// A tree that removed the file or put something else in its place does not get it: a mount point would have to be
/// made in the layer, where it would be a change that nobody asked for.
pub(crate) fn lay_over(files: &[IdentityFile], tree: &Tree) -> Result<()> {
    for (number, file) in files.iter().enumerate() {
        let shown = file.path.display();
        let Some(path) = relative(&file.path) else {
            return Err(failure("lay over", None, &format!("{shown} must be an absolute path in UTF-8")));
        };
        let Some(place) = tree.regular_file(path).step_on("find", &shown)? else { continue };
        let name = format!("identity{number}");
        create(&tree.scratch, &name, &file.content).step_on("write", &shown)?;
        let mount = mounts::copy(&tree.scratch, &name).step_on("copy", &shown)?;
        mounts::attach(&mount, &place).step_on("lay over", &shown)?;
    }
    Ok(())
}

/// A file in a directory of our own making, owned by the sandbox's root.
pub(crate) fn create(directory: &OwnedFd, name: &str, content: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    let mut left = content;
    while !left.is_empty() {
        left = &left[write(&file, left)?..];
    }
    Ok(())
}

fn relative(path: &Path) -> Option<&str> {
    path.strip_prefix("/").ok()?.to_str()
}
