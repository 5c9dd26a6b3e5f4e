//! The few calls at start that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;

/// Signals that must not end the agent where it is not process 1, and that a broken pipe or
/// terminal sends. Commands get them back at their defaults.
pub(crate) const IGNORED_SIGNALS: [libc::c_int; 10] = [
    libc::SIGPIPE,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTTOU,
    libc::SIGTTIN,
    libc::SIGTSTP,
];

/// Ignores [`IGNORED_SIGNALS`].
pub(crate) fn ignore_signals() {
    for signal in IGNORED_SIGNALS {
        // SAFETY: setting SIG_IGN installs no code; the numbers are valid signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// One heap for all threads: the few short-lived ones need no arenas of their own.
pub(crate) fn limit_heaps() {
    // SAFETY: called before any other thread exists; it only sets allocator parameters.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Opens `/dev/null` where descriptors 0 to 2 are closed, so that no later file gets these numbers.
pub(crate) fn fill_standard_descriptors() -> io::Result<()> {
    loop {
        let fd = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if fd.as_raw_fd() > 2 {
            return Ok(());
        }
        let _kept_open = fd.into_raw_fd();
    }
}

/// Takes over an inherited descriptor and keeps it from commands. Fails if it is not open.
pub(crate) fn take_descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads flags, of whatever number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, was inherited at exec, and is taken at this one place.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Writes to standard error as far as it takes it.
pub(crate) fn print_error(message: &str) {
    // SAFETY: fill_standard_descriptors ran or failed; either way nothing owns descriptor 2.
    let stderr = unsafe { std::os::fd::BorrowedFd::borrow_raw(2) };
    let _ = rustix::io::write(stderr, message.as_bytes());
}
