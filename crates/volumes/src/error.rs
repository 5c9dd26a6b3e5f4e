//! What can go wrong with layers and trees, each with where and what would be right.

use std::io;
use std::path::{Path, PathBuf};

use forkpoint_domain::stored::StoredFailure;
use rustix::io::Errno;
use uuid::Uuid;

use crate::store::DriverKind;

/// The result of everything this crate offers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed operation on a layer, a tree or the layer store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    /// No layer has this name.
    #[error("layer {0} does not exist")]
    NoLayer(Uuid),

    /// A layer has this name already; layers are never overwritten.
    #[error("layer {0} exists already")]
    LayerExists(Uuid),

    /// The tree holds more regular files and symlinks than allowed.
    #[error("more than {limit} files")]
    TooManyFiles { limit: u64 },

    /// The regular files' sizes sum up to more bytes than allowed.
    #[error("more than {limit} bytes of file content")]
    TooLarge { limit: u64 },

    /// A path below this one is longer than the kernel lets anyone name from the root.
    #[error("below {}: paths are longer than {limit} bytes; make the nesting flatter", path.display())]
    TooDeep { path: PathBuf, limit: usize },

    /// A walk met more directory entries than it is ready to look at.
    #[error("at {}: more than {limit} directory entries in one walk", path.display())]
    TooManyEntries { path: PathBuf, limit: u64 },

    /// A directory names a template directory that cannot be named.
    #[error("{}: redirected to {target:?}, which is no path inside the template", path.display())]
    BadRedirect { path: PathBuf, target: String },

    /// Somebody changed the tree under the walk; repeat it on a quiet tree.
    #[error("{} was replaced while it was being read", path.display())]
    Changed { path: PathBuf },

    /// An extended attribute is larger than the kernel's own limit or changes while it is read.
    #[error("{}: extended attributes cannot be read: {reason}", path.display())]
    BadXattr { path: PathBuf, reason: &'static str },

    /// A layer that is not on this machine cannot be read where it is kept.
    #[error("a stored layer cannot be read: {reason}")]
    Stored { reason: String },

    /// The chosen way to keep layers does not work here.
    #[error("layer driver {driver}: {reason}")]
    DriverUnavailable { driver: DriverKind, reason: String },

    /// No driver has this name.
    #[error("layer driver {name:?} is unknown; it is one of auto, btrfs, reflink, copy")]
    UnknownDriver { name: String },

    /// Something else is mounted where layers belong.
    #[error("{} has {found} mounted on it, not this data directory's layers.img; unmount it or choose another data directory", path.display())]
    ForeignMount { path: PathBuf, found: String },

    /// A helper program is missing or failed.
    #[error("{program}: {reason}")]
    Program { program: &'static str, reason: String },
}

impl Error {
    /// Wraps a failed call: what was being done, to which path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }

    /// True if the cause is a full file system or quota: nothing is broken, there is no room.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(Errno::from_io_error(source), Some(Errno::NOSPC | Errno::DQUOT)))
    }

    /// True if the tree itself, not the machine, is the cause: too big, too deep, malformed.
    pub fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::TooManyFiles { .. }
                | Self::TooLarge { .. }
                | Self::TooDeep { .. }
                | Self::TooManyEntries { .. }
                | Self::BadRedirect { .. }
        )
    }
}

impl From<StoredFailure> for Error {
    fn from(StoredFailure(reason): StoredFailure) -> Self {
        Self::Stored { reason }
    }
}

/// Adds the action and the path to a failed call.
pub(crate) trait At<T> {
    /// `path` is a host path.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
    /// `path` is a path inside a sandbox, any bytes.
    fn inside(self, action: &'static str, path: &[u8]) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(action, path, e))
    }

    fn inside(self, action: &'static str, path: &[u8]) -> Result<T> {
        self.map_err(|e| Error::io(action, sandbox_path(path), e))
    }
}

/// A sandbox path as a `PathBuf` for messages.
pub(crate) fn sandbox_path(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(if path.is_empty() { b"/" } else { path }))
}
