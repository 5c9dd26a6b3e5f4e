//! System calls that no library of ours offers in a safe way. Nothing else in the jail is unsafe.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libc::{c_char, c_int, c_long};
use rustix::io::{Errno, Result};
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// `struct clone_args` of `clone3(2)`, as of its version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Since Linux 5.7, beyond the 32 bits of the other flags.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks into new namespaces (`CLONE_NEW*`), and into a control group of version 2 if one is given.
pub(crate) fn fork(namespaces: c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork> {
    let mut arguments =
        CloneArgs { flags: namespaces as u64, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure lives through the call and its size is given. Without CLONE_VM and with no stack this is
    // a fork: the child goes on here with a copy of all memory. There are no other threads whose locks could be held.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    let pid = check(pid)?;
    Ok(Pid::from_raw(pid as i32).map_or(Fork::Child, Fork::Parent))
}

/// Ends the process at once, without anything that was set up in another one being run.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// A new control group namespace for this process.
pub(crate) fn unshare_cgroup() -> Result<()> {
    // SAFETY: takes no pointers; the process has one thread and shares nothing.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Sets attributes of a mount that is not attached yet, with ids shifted by a user namespace if one is given.
pub(crate) fn set_mount_attributes(mount: &OwnedFd, set: MountAttrFlags, idmap: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut attributes = MountAttr { set: set.bits().into(), ..MountAttr::default() };
    if let Some(userns) = idmap {
        attributes.set |= u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attributes.userns_fd = userns.as_raw_fd() as u64;
    }
    // SAFETY: the path is a constant C string, the structure lives through the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// Makes this directory the root and puts the old root on top of it, see `pivot_root(2)` on `pivot_root(".", ".")`.
pub(crate) fn pivot_root_here() -> Result<()> {
    // SAFETY: both are constant C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Leaves the key ring inherited from whoever started the jail for an empty one.
pub(crate) fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for a new ring without a name.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>(), 0, 0, 0) };
    match check(result) {
        // A kernel without key rings has none to inherit.
        Ok(_) | Err(Errno::NOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// All signals as a fresh process has them: an ignored one would stay ignored in every program of the sandbox.
pub(crate) fn reset_signals() {
    // The kernel's `struct sigaction` with nothing set is the default action; its mask has 8 bytes. The C library's
    // call would keep its hands off the two signals that it uses itself.
    let (default, none) = ([0_u64; 4], 0_u64);
    for signal in 1..=64 {
        // SAFETY: the structure lives through the call and there is no handler. 9 and 19 are refused, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
    }
    // SAFETY: the set lives through the call.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, std::ptr::null::<u64>(), 8) };
}

/// The usual scheduling class, whatever the starting process has.
pub(crate) fn schedule_as_usual() -> Result<()> {
    let usual = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const usual) }).map(drop)
}

/// Closes all descriptors but the three standard ones.
pub(crate) fn close_foreign() -> Result<()> {
    // SAFETY: called first of all, when this program has not opened any.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }).map(drop)
}

/// Marks all descriptors from `first` on to be closed when the agent is started.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Makes `number` a copy of `descriptor` that the agent inherits.
pub(crate) fn hand_down(descriptor: &OwnedFd, number: RawFd) -> Result<()> {
    // SAFETY: whatever of ours had that number is used no more, since the agent is started next.
    check(unsafe { libc::syscall(libc::SYS_dup3, descriptor.as_raw_fd(), number, 0) }).map(drop)
}

/// Installs the system call filter for this process and all that come from it.
pub(crate) fn install_filter(program: &[u8]) -> Result<()> {
    let filters: Vec<libc::sock_filter> = program
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let length = filters.len().try_into().map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: filters.as_ptr().cast_mut() };
    // SAFETY: the program and the instructions it points to live through the call; the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result).map(drop)
}

/// Becomes the program behind `executable`, with no environment. Returns only if that fails.
pub(crate) fn execute(executable: impl AsFd, arguments: &[CString]) -> Errno {
    let environment = [std::ptr::null::<c_char>()];
    let arguments: Vec<*const c_char> =
        arguments.iter().map(|argument| CStr::as_ptr(argument)).chain([std::ptr::null()]).collect();
    // SAFETY: both arrays end with a null pointer, and they and their strings live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(result).err().unwrap_or(Errno::INVAL)
}

fn check(result: c_long) -> Result<c_long> {
    if result >= 0 {
        return Ok(result);
    }
    Err(std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}
