//! Why a request is answered with an error.

use std::fmt;
use std::io;

use forkpoint_protocol::ErrorKind;
use rustix::io::Errno;

/// Kind and message as they go to the host.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Invalid, message)
    }

    /// `action path: reason`, with the kind that the reason stands for.
    pub(crate) fn at(action: &str, path: &[u8], reason: impl Into<Reason>) -> Failure {
        let Reason { kind, text } = reason.into();
        Failure::new(kind, format!("{action} {}: {text}", shown(path)))
    }

    /// `action: reason`.
    pub(crate) fn doing(action: &str, reason: impl Into<Reason>) -> Failure {
        let Reason { kind, text } = reason.into();
        Failure::new(kind, format!("{action}: {text}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An operating system's error as kind and words.
pub(crate) struct Reason {
    kind: ErrorKind,
    text: String,
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Reason {
        let full = io::Error::from(errno).to_string();
        let text = full.split(" (os error").next().unwrap_or(&full).to_owned();
        Reason { kind: kind_of(errno), text }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Reason {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Reason { kind: ErrorKind::Other, text: error.to_string() },
        }
    }
}

/// The kind that an error number stands for.
pub(crate) fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::PermissionDenied,
        Errno::EXIST => ErrorKind::Exists,
        Errno::NOTDIR => ErrorKind::NotADirectory,
        Errno::ISDIR => ErrorKind::IsADirectory,
        Errno::NOTEMPTY => ErrorKind::NotEmpty,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        Errno::FBIG | Errno::NAMETOOLONG | Errno::TOOBIG | Errno::MLINK => ErrorKind::TooLarge,
        Errno::INVAL | Errno::LOOP => ErrorKind::Invalid,
        Errno::BUSY | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::TXTBSY => ErrorKind::Busy,
        _ => ErrorKind::Other,
    }
}

/// A path for a message: readable, and not longer than a message should be.
pub(crate) fn shown(path: &[u8]) -> String {
    const MOST: usize = 512;
    let cut = &path[..path.len().min(MOST)];
    let text: String =
        String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if path.len() > MOST { format!("{text}...") } else { text }
}
