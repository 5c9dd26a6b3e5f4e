//! Making, copying and placing mounts by descriptor, so that no path of a sandbox is ever followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};
use rustix::path::Arg;

use crate::step::{Result, Step, describe, failure};
use crate::sys;

/// What every mount of a sandbox has, but for the few devices.
pub(crate) const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The same for trees that hold no programs.
pub(crate) const DATA: MountAttrFlags = PLAIN.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What `/proc/mounts` shows as the source of all of them.
const SOURCE: &str = "sandbox";

/// A new filesystem, not attached anywhere yet. A refusal comes with what the filesystem said about it.
pub(crate) fn new_filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step_on("open filesystem", kind)?;
    let configure = || {
        fsconfig_set_string(&context, "source", SOURCE)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)
    };
    configure().map_err(|errno| {
        failure(&format!("mount {kind}"), Some(errno), &format!("{}{}", describe(errno), messages(&context)))
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step_on("mount", kind)
}

/// A copy of the mount at `path`, without what is mounted below it and not attached anywhere yet.
pub(crate) fn copy(directory: impl AsFd, path: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
}

/// Attaches `mount` on what `target` is.
pub(crate) fn attach(mount: &OwnedFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Opens the place to attach something on, in a directory of the kernel's or of our own making.
pub(crate) fn place(directory: impl AsFd, path: impl Arg) -> rustix::io::Result<OwnedFd> {
    openat(directory, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Makes what is at `path` read-only, by a read-only copy of itself on top. Nothing happens if it is not there.
pub(crate) fn protect(directory: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    let place = match place(directory, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let copy = copy(&place, c"")?;
    sys::set_mount_attributes(&copy, DATA | MountAttrFlags::MOUNT_ATTR_RDONLY, None)?;
    attach(&copy, &place)
}

/// Makes an attached mount read-only.
pub(crate) fn make_read_only(mount: &OwnedFd) -> rustix::io::Result<()> {
    sys::set_mount_attributes(mount, MountAttrFlags::MOUNT_ATTR_RDONLY, None)
}

/// What the filesystem has to say about its configuration, one message per read.
fn messages(context: &OwnedFd) -> String {
    let mut all = String::new();
    let mut message = [0; 256];
    while let Ok(length) = read(context, &mut message)
        && length > 0
        && all.len() < 1024
    {
        all.push_str("; ");
        all.push_str(String::from_utf8_lossy(&message[..length]).trim_end());
    }
    all
}
