//! The two calls of the floor that the compiler cannot check.

#![allow(unsafe_code)]

use rustix::{
    process::Pid,
    thread::{UnshareFlags, unshare_unsafe},
};
use std::io;

/// The namespaces that a sandbox gets, but for the user's and the control groups'.
const FLAGS: libc::c_int = libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::SIGCHLD;

/// Gives this process mounts of its own.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: only descriptor tables that stop being shared can break what Rust assumes; mounts cannot.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Runs `child` in a new process in new namespaces; it ends with the code that `child` gives. The calling
/// process must have one thread.
pub(crate) fn clone_into_new(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // The kernel's own argument order differs by machine only behind the first two; those are all that is set.
    let (stack, none) = (0_usize, 0_usize);
    // SAFETY: without CLONE_VM and with no stack given this is fork: the child has a copy of all memory and
    // goes on behind the call. The process has one thread (it is started for this and starts none), so no
    // lock is held by a thread that the child lacks. The child leaves this function only by `_exit`.
    let pid = unsafe { libc::syscall(libc::SYS_clone, FLAGS as libc::c_ulong, stack, none, none, none) };
    match pid {
        0 => {
            let code = child();
            // SAFETY: ends the process at once; nothing of the parent's copy is flushed or dropped twice.
            unsafe { libc::_exit(code) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("clone gave no process")),
    }
}
