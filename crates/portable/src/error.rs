//! Why a checkpoint cannot leave or come in.

use std::io;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure; the message alone tells what was wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint holds something that no image layer can hold.
    #[error("{path:?} cannot be in an image: {reason}")]
    NotPortable {
        /// Path inside, with what is not UTF-8 replaced.
        path: String,
        /// Why not, and what would be right.
        reason: &'static str,
    },
    /// The archive is not that of a checkpoint.
    #[error("the archive is not that of a checkpoint: {0}")]
    NotACheckpoint(String),
    /// What an archive holds is not what it says.
    #[error(
        "the archive's files have the hash {found}, and its manifest says {expected}: it is damaged or was changed"
    )]
    WrongHash {
        /// As its manifest says.
        expected: String,
        /// As computed.
        found: String,
    },
    /// What is being written is not what was looked through before.
    #[error("the {0} changed while it was being exported")]
    Changed(&'static str),
    /// An archive was refused, or could not be unpacked.
    #[error(transparent)]
    Archive(#[from] forkpoint_templates::Error),
    /// A layer or template cannot be read.
    #[error(transparent)]
    Tree(#[from] forkpoint_volumes::Error),
    /// The hash of a tree cannot be computed.
    #[error(transparent)]
    Hash(forkpoint_vault::VaultError),
    /// Reading a file or writing the archive failed.
    #[error("{action}: {source}")]
    Io {
        /// A bare action.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Stopped,
}

impl Error {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// Whether the cause is the archive that was given.
    #[must_use]
    pub fn is_about_archive(&self) -> bool {
        match self {
            Self::NotACheckpoint(_) | Self::WrongHash { .. } => true,
            Self::Archive(error) => error.is_about_content(),
            _ => false,
        }
    }

    /// Whether the root of this failure is a full filesystem.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_full(),
            Self::Tree(error) => error.is_out_of_space(),
            Self::Hash(error) => matches!(error, forkpoint_vault::VaultError::NoSpace { .. }),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

impl From<forkpoint_vault::VaultError> for Error {
    fn from(error: forkpoint_vault::VaultError) -> Self {
        match error {
            forkpoint_vault::VaultError::Cancelled => Self::Stopped,
            error => Self::Hash(error),
        }
    }
}
