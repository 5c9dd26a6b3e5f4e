//! What can go wrong with control groups.

use std::io;
use std::path::PathBuf;

/// The result of working on control groups.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on control groups failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("control group name {0:?} must have 1 to 64 letters, digits, '-' or '_'")]
    Name(String),
    #[error(
        "no usable control groups: {missing}; needed are memory, cpu, pids (and freezer on version 1), each mounted"
    )]
    Missing { missing: String },
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} has unexpected content {content:?}", path.display())]
    Content { path: PathBuf, content: String },
    #[error(
        "enable controllers in {}: it holds processes itself ({pids} of them); move them into a child group, \
         as a service manager does",
        path.display()
    )]
    Occupied { path: PathBuf, pids: usize },
    #[error("{count} processes in {} did not end in time", path.display())]
    StillRunning { path: PathBuf, count: usize },
}

impl Error {
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    /// Whether something was to be made that is there already.
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}
