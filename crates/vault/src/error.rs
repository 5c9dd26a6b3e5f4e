//! What can go wrong with stored checkpoints.

use crate::{object_keys::SnapshotRef, store::StoreError};
use forkpoint_domain::ids::OrgId;
use std::io;

/// The vault's results.
pub type Result<T> = std::result::Result<T, VaultError>;

/// Why the vault refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VaultError {
    /// The store does not do what is asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored bytes are not what was written. They were not used.
    #[error("stored object {object} is damaged: {problem}")]
    Corrupt {
        /// The object's key in the store.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A chunk that a manifest names is in no pack.
    #[error("chunk {chunk} is in no pack of organisation {org}")]
    ChunkMissing {
        /// Whose chunk.
        org: OrgId,
        /// Its id, in hex.
        chunk: String,
    },
    /// The vault was made with another master key.
    #[error("the vault at {store} was made with another master key; start with the key file it was made with")]
    WrongKey {
        /// Which store.
        store: String,
    },
    /// The organisation's key was destroyed, or taken away: its data cannot be read.
    #[error("organisation {0} has no key in the vault: what it stored was destroyed")]
    KeyDestroyed(OrgId),
    /// The object was written by a later version.
    #[error("stored object {object} has format version {found}; this program knows version {known}")]
    Version {
        /// The object's key in the store.
        object: String,
        /// Its version.
        found: u32,
        /// The version that is understood.
        known: u32,
    },
    /// The vault holds no such checkpoint.
    #[error("the vault holds no checkpoint {0}")]
    NotFound(SnapshotRef),
    /// The tree that was to be stored has something that cannot be stored.
    #[error("{path:?} in the layer {problem}")]
    Tree {
        /// Path inside the layer, escaped.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A local file or directory cannot be read or written.
    #[error("{action} {path:?}: {problem}")]
    Files {
        /// A bare action.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        problem: String,
    },
    /// This machine has no room left.
    #[error("no space left on this machine to {action} {path:?}")]
    NoSpace {
        /// A bare action.
        action: &'static str,
        /// On what.
        path: String,
    },
    /// Bytes from outside (a proof, an archive) are not well-formed.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// What was to be read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The store was so slow that others may hold this writer for dead; nothing was recorded, try again.
    #[error("writing took a pause of more than {0} seconds; nothing was recorded, try again")]
    LeaseLost(u64),
    /// Another process collects or mends what an organisation has stored.
    #[error("what {org} has stored is being collected or mended by another process ({holder}); try again later")]
    Busy {
        /// Whose data.
        org: OrgId,
        /// The lease of that process.
        holder: String,
    },
    /// A part of the vault's own machinery gave up.
    #[error("{0}")]
    Broken(&'static str),
}

impl VaultError {
    pub(crate) fn corrupt(object: impl Into<String>, problem: impl ToString) -> Self {
        Self::Corrupt { object: object.into(), problem: problem.to_string() }
    }

    pub(crate) fn files(action: &'static str, path: impl AsRef<[u8]>, error: impl Into<io::Error>) -> Self {
        let (path, error) = (shown(path.as_ref()), error.into());
        match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Self::NoSpace { action, path },
            _ => Self::Files { action, path, problem: error.to_string() },
        }
    }

    pub(crate) fn tree(path: impl AsRef<[u8]>, problem: impl ToString) -> Self {
        Self::Tree { path: shown(path.as_ref()), problem: problem.to_string() }
    }

    /// Whether the same call may succeed later with nothing else changed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store(StoreError::Unavailable { .. } | StoreError::NoSpace { .. }) | Self::NoSpace { .. })
            || matches!(self, Self::LeaseLost(_) | Self::Busy { .. } | Self::Cancelled)
    }

    /// Whether something that was stored is not there.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::ChunkMissing { .. } | Self::NotFound(_))
    }

    /// The stored object that this says is damaged, if it names one.
    pub fn damaged_object(&self) -> Option<&str> {
        match self {
            Self::Corrupt { object, .. } => Some(object),
            _ => None,
        }
    }
}

/// A path of any bytes, as text of bounded length.
pub(crate) fn shown(path: &[u8]) -> String {
    let cut = &path[..path.len().min(512)];
    String::from_utf8_lossy(cut).into_owned()
}
