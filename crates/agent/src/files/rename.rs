//! Moves files and trees.

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::path::{self, Place};
use super::tree::is_directory;
use super::{Stop, copy, remove};
use crate::failure::Failure;

/// Renames; across mounts it copies, then removes.
pub(super) fn rename(from: &[u8], to: &[u8], overwrite: bool, stop: &Stop) -> Result<(), Failure> {
    let (source, target) = (path::place(from)?, path::place(to)?);
    let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(&source.parent, &source.name[..], &target.parent, &target.name[..], flags) {
        Ok(()) => Ok(()),
        Err(Errno::XDEV) => {
            clear(&target, overwrite).map_err(|errno| Failure::at("move to", to, errno))?;
            copy::copy(from, to, overwrite, stop)?;
            remove::remove(from, true, stop)
        }
        Err(errno @ (Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR)) => Err(Failure::at("move to", to, errno)),
        Err(errno) => Err(Failure::at("move", from, errno)),
    }
}

/// Makes room as a rename would: an empty directory goes, a full one stays and is an error.
fn clear(target: &Place, overwrite: bool) -> Result<(), Errno> {
    match rustix::fs::statat(&target.parent, &target.name[..], AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(_) if !overwrite => Err(Errno::EXIST),
        Ok(stat) if is_directory(&stat) => rustix::fs::unlinkat(&target.parent, &target.name[..], AtFlags::REMOVEDIR),
        Ok(_) => Ok(()),
    }
}
