//! Pseudo-terminals for commands that want one.

use std::os::fd::{AsFd, OwnedFd};

use forkpoint_protocol::PtySize;
use rustix::fs::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::failure::Failure;
use crate::users::Account;

/// A new terminal of this size: its master, and the slave, which belongs to the user.
pub(super) fn open(size: PtySize, account: &Account) -> Result<(OwnedFd, OwnedFd), Failure> {
    let failed = |errno| Failure::doing("open a terminal", errno);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).map_err(failed)?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    resize(&master, size.rows, size.cols);
    rustix::fs::fchown(&slave, Some(Uid::from_raw(account.uid)), None::<Gid>).map_err(failed)?;
    Ok((master, slave))
}

/// Tells the terminal's processes of a new size.
pub(super) fn resize(master: impl AsFd, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // Fails only for what is no terminal.
    let _ = rustix::termios::tcsetwinsize(master, size);
}
