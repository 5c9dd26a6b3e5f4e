//! Where objects lie: a directory of this machine, or an object store of a cloud.
//!
//! Everything here blocks, as everything in the vault does.

use bytes::Bytes;
use std::{fmt, ops::Range, sync::Arc, time::SystemTime};

pub mod local;
pub mod remote;
pub mod retrying;
mod url;

pub use local::LocalStore;
pub use remote::RemoteStore;
pub use retrying::Retrying;
pub use url::open;

/// A store of whole, immutable objects under slash-separated keys of `a-z 0-9 . _ - /`.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Writes an object, replacing one of that name. Readers see the old or the new, never a part.
    /// With [`Keep::Always`] it survives a loss of power once this returns.
    fn put(&self, key: &str, body: Bytes, keep: Keep) -> Result<(), StoreError>;

    /// Writes an object durably unless there is one of that name; says whether it did.
    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError>;

    /// Reads an object, or a part of it. A range beyond the end gives [`StoreError::Short`].
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;

    /// Tells of every object whose key starts with `prefix` (which ends in a slash), in no order.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError>;

    /// Removes an object; one that is not there is removed already.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Removes what writers that died have left half-written.
    fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// How many objects are best written or read at the same time.
    fn parallelism(&self) -> usize {
        2
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn put(&self, key: &str, body: Bytes, keep: Keep) -> Result<(), StoreError> {
        (**self).put(key, body, keep)
    }

    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError> {
        (**self).put_new(key, body)
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        (**self).get(key, range)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        (**self).list(prefix, each)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        (**self).delete(key)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        (**self).tidy()
    }

    fn parallelism(&self) -> usize {
        (**self).parallelism()
    }
}

/// How long an object has to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For ever.
    Always,
    /// While its writer lives; it may be lost with the machine.
    WhileRunning,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its whole key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// Why a store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("object {key} is missing from the store")]
    Missing {
        /// Its key.
        key: String,
    },
    /// The object is shorter than it must be.
    #[error("object {key} is shorter than it must be")]
    Short {
        /// Its key.
        key: String,
    },
    /// The store has no room.
    #[error("the store has no room to {action} {key}")]
    NoSpace {
        /// A bare action.
        action: &'static str,
        /// Which object.
        key: String,
    },
    /// It did not work now; it may work later.
    #[error("the store does not {action} {key}: {problem}")]
    Unavailable {
        /// A bare action.
        action: &'static str,
        /// Which object or prefix.
        key: String,
        /// What it answered.
        problem: String,
    },
    /// It will not work unless something is changed (address, permission, bucket).
    #[error("the store refuses to {action} {key}: {problem}")]
    Refused {
        /// A bare action.
        action: &'static str,
        /// Which object or prefix.
        key: String,
        /// What it answered.
        problem: String,
    },
}

impl StoreError {
    /// Whether asking again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Short { .. })
    }
}
