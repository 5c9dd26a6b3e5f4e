//! The sandbox's user namespace, made ahead of the moment in which the sandbox enters it.
//!
//! The mounts of the tree are shifted by it before anything is in it. A namespace needs a process to be made, so a
//! helper is forked into a new one and ends as soon as the namespace is held by descriptor.

use std::os::fd::OwnedFd;

use forkpoint_jail::spec::IDS;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::step::{Result, Step};
use crate::sys::{self, Fork};

/// A user namespace in which 0 to 65,535 are `uid_base` and up on the host, for users and groups.
///
/// It belongs to the effective user id of the caller, and what the kernel counts by owner (inotify instances, queued
/// signals and the like) is counted for that id.
pub(crate) fn make(uid_base: u32) -> Result<OwnedFd> {
    let (wait, release) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe for the namespace helper")?;
    let helper = match sys::fork(libc::CLONE_NEWUSER, None).step("make the user namespace")? {
        Fork::Parent(helper) => helper,
        Fork::Child => {
            drop(release);
            // Until the other end is closed, be it because its holder died.
            let _ = read(&wait, &mut [0_u8; 1]);
            sys::exit_now(0);
        }
    };
    let namespace = set_up(helper, uid_base);
    drop(release);
    waitpid(Some(helper), WaitOptions::empty()).step("wait for the namespace helper")?;
    namespace
}

fn set_up(helper: Pid, uid_base: u32) -> Result<OwnedFd> {
    let directory = format!("/proc/{}", helper.as_raw_pid());
    let open = |file: &str, flags| openat(CWD, format!("{directory}/{file}"), flags | OFlags::CLOEXEC, Mode::empty());
    let map = format!("0 {uid_base} {IDS}\n");
    for file in ["uid_map", "gid_map"] {
        let descriptor = open(file, OFlags::WRONLY).step_on("open", file)?;
        write(&descriptor, map.as_bytes()).step_on("write", file)?;
    }
    open("ns/user", OFlags::RDONLY).step("hold the user namespace")
}
