//! The new process between fork and exec.
//!
//! The agent has threads at times, so the child may only make system calls until its exec: no
//! allocation, no locks, and none of the C library's wrappers that speak to other threads
//! (`setuid` and its kin). Everything it needs is laid out before the fork. The fork is a plain
//! one, with memory of its own: a child that shared the agent's memory, as with `vfork`, would
//! stop the agent whenever somebody in the sandbox stops the child in time.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_long};
use std::os::fd::RawFd;
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, Rlimit};

use crate::users::Account;

/// Commands are this much more likely than the agent to be chosen when memory runs out.
const OOM_SCORE: &[u8] = b"300";

/// All that the child does, made before the fork.
pub(super) struct Plan {
    /// Programs to try in turn, each with its first argument.
    pub(super) programs: Vec<(CString, CString)>,
    /// Arguments after the first.
    pub(super) arguments: Vec<CString>,
    pub(super) variables: Vec<CString>,
    /// Directories to try in turn.
    pub(super) directories: Vec<CString>,
    pub(super) account: Account,
    /// False where the agent is that user already and no other can be had.
    pub(super) changes_user: bool,
    /// Become descriptors 0, 1, 2. All are above 2.
    pub(super) stdio: [RawFd; 3],
    /// Descriptor 0 is a terminal and becomes the session's own.
    pub(super) has_terminal: bool,
    /// Gets the report of a failure; closed by a successful exec.
    pub(super) report: RawFd,
    pub(super) files: Rlimit,
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Setup,
    User,
    Directory,
    Program,
}

/// Reads what a failed child has written.
pub(super) fn parse_report(bytes: [u8; 8]) -> Option<(Stage, Errno)> {
    let [stage, _, _, _, number @ ..] = bytes;
    let stage = match stage {
        0 => Stage::Setup,
        1 => Stage::User,
        2 => Stage::Directory,
        3 => Stage::Program,
        _ => return None,
    };
    Some((stage, Errno::from_raw_os_error(i32::from_le_bytes(number))))
}

/// Forks; the child goes through the plan. Its failures are reported by descriptor, not here.
pub(super) fn start(plan: Plan) -> Result<Pid, Errno> {
    // Slot 0 is for the shell that runs a program without an interpreter line, 1 for the program.
    let mut arguments: Vec<*const c_char> = vec![c"/bin/sh".as_ptr(), ptr::null()];
    arguments.extend(plan.arguments.iter().map(|text| text.as_ptr()));
    arguments.push(ptr::null());
    let mut variables: Vec<*const c_char> = plan.variables.iter().map(|text| text.as_ptr()).collect();
    variables.push(ptr::null());
    let files = libc::rlimit {
        rlim_cur: plan.files.current.unwrap_or(libc::RLIM_INFINITY),
        rlim_max: plan.files.maximum.unwrap_or(libc::RLIM_INFINITY),
    };
    // SAFETY: a fork without shared memory; the child runs only `become_command`, which keeps to
    // system calls, and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: this is the child; all pointers lead to memory of `plan` and the vectors above.
        unsafe { become_command(&plan, &mut arguments, &variables, &files) };
    }
    if pid < 0 {
        return Err(last_error());
    }
    Pid::from_raw(pid as i32).ok_or(Errno::CHILD)
}

/// # Safety
/// Only in a forked child. `arguments` and `variables` end in null and lead to C strings.
unsafe fn become_command(
    plan: &Plan,
    arguments: &mut [*const c_char],
    variables: &[*const c_char],
    files: &libc::rlimit,
) -> ! {
    // SAFETY: system calls on memory that lives until the exec, see above.
    let failure = unsafe {
        match prepare(plan, files) {
            Err(failure) => failure,
            Ok(()) => (Stage::Program, exec(plan, arguments, variables)),
        }
    };
    let (stage, errno) = failure;
    let mut report = [0u8; 8];
    report[0] = stage as u8;
    report[4..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    // SAFETY: writes from a local array; `_exit` runs nothing of the agent's.
    unsafe {
        libc::syscall(libc::SYS_write, c_long::from(plan.report), report.as_ptr(), report.len());
        loop {
            libc::syscall(libc::SYS_exit_group, 127 as c_long);
        }
    }
}

/// # Safety
/// As [`become_command`].
unsafe fn prepare(plan: &Plan, files: &libc::rlimit) -> Result<(), (Stage, Errno)> {
    let setup = |errno| (Stage::Setup, errno);
    let user = |errno| (Stage::User, errno);
    let account = &plan.account;
    // SAFETY: plain system calls; pointers are to locals or to the plan.
    unsafe {
        // All 64, also those that the C library keeps for itself and its `signal` would refuse. A
        // zeroed action of the kernel's own layout is the default action.
        let default = [0u64; 8];
        for signal in 1..=64 {
            let _ = call(libc::SYS_rt_sigaction, [signal, default.as_ptr() as c_long, 0, 8]);
        }
        let none = 0u64;
        call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as c_long, &raw const none as c_long, 0, 8])
            .map_err(setup)?;
        call(libc::SYS_setsid, [0; 4]).map_err(setup)?;
        for (target, fd) in plan.stdio.iter().enumerate() {
            call(libc::SYS_dup3, [*fd as c_long, target as c_long, 0, 0]).map_err(setup)?;
        }
        if plan.has_terminal {
            call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as c_long, 0, 0]).map_err(setup)?;
        }
        // Every descriptor of the agent closes itself at exec; this is for one that would not.
        let last = c_long::from(u32::MAX);
        let _ = call(libc::SYS_close_range, [3, last, libc::CLOSE_RANGE_CLOEXEC as c_long, 0]);
        let _ = call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as c_long, ptr::from_ref(files) as c_long, 0]);
        raise_oom_score();
        call(libc::SYS_umask, [0o022, 0, 0, 0]).map_err(setup)?;
        if plan.changes_user {
            let groups = account.groups.as_ptr() as c_long;
            call(libc::SYS_setgroups, [account.groups.len() as c_long, groups, 0, 0]).map_err(user)?;
            let gid = c_long::from(account.gid);
            call(libc::SYS_setresgid, [gid, gid, gid, 0]).map_err(user)?;
            let uid = c_long::from(account.uid);
            call(libc::SYS_setresuid, [uid, uid, uid, 0]).map_err(user)?;
        }
        let mut result = Err(Errno::NOENT);
        for directory in &plan.directories {
            result = call(libc::SYS_chdir, [directory.as_ptr() as c_long, 0, 0, 0]);
            if result.is_ok() {
                break;
            }
        }
        result.map_err(|errno| (Stage::Directory, errno))
    }
}

/// Returns only when no program could be executed, with the most telling reason.
///
/// # Safety
/// As [`become_command`].
unsafe fn exec(plan: &Plan, arguments: &mut [*const c_char], variables: &[*const c_char]) -> Errno {
    let mut reason = Errno::NOENT;
    for (program, name) in &plan.programs {
        arguments[1] = name.as_ptr();
        // SAFETY: both vectors end in null; a failed exec changes nothing.
        let errno = unsafe { execve(program, &arguments[1..], variables) };
        match errno {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => reason = errno,
            Errno::NOEXEC => {
                arguments[1] = program.as_ptr();
                // SAFETY: as above.
                unsafe { execve(c"/bin/sh", arguments, variables) };
                return Errno::NOEXEC;
            }
            _ => return errno,
        }
    }
    reason
}

/// # Safety
/// As [`become_command`].
unsafe fn execve(program: &CStr, arguments: &[*const c_char], variables: &[*const c_char]) -> Errno {
    let call_arguments = [program.as_ptr() as c_long, arguments.as_ptr() as c_long, variables.as_ptr() as c_long, 0];
    // SAFETY: the caller's promise.
    match unsafe { call(libc::SYS_execve, call_arguments) } {
        Ok(()) => Errno::NOEXEC,
        Err(errno) => errno,
    }
}

/// Best effort: without it the kernel's own choice is by size, which seldom is the agent.
///
/// # Safety
/// As [`become_command`].
unsafe fn raise_oom_score() {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: system calls with constant strings.
    unsafe {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let fd = libc::syscall(libc::SYS_openat, c_long::from(libc::AT_FDCWD), path, c_long::from(flags), 0 as c_long);
        if fd >= 0 {
            libc::syscall(libc::SYS_write, fd, OOM_SCORE.as_ptr(), OOM_SCORE.len());
            libc::syscall(libc::SYS_close, fd);
        }
    }
}

/// # Safety
/// The arguments must be what the system call expects.
unsafe fn call(number: c_long, arguments: [c_long; 4]) -> Result<(), Errno> {
    let [a, b, c, d] = arguments;
    // SAFETY: the caller's promise; unused arguments are zero.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

fn last_error() -> Errno {
    // SAFETY: the address of this thread's errno is always valid.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
