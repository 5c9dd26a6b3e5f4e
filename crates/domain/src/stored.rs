//! A layer that is not on this machine, as whoever keeps it tells of it, directory by directory.

use crate::diff::Attributes;
use std::{any::Any, fmt, fs::File, sync::Arc};

/// Names a directory or the content of a file to whoever told of it; nobody else looks into it.
pub type StoredKey = Arc<dyn Any + Send + Sync>;

/// Reads a stored layer. Every call may block and fetch; what it gives was checked against the layer's hash.
pub trait StoredLayer: Send + Sync + fmt::Debug {
    /// A directory; `None`: the top.
    fn directory(&self, at: Option<&StoredKey>) -> Result<StoredDirectory, StoredFailure>;

    /// All of a regular file. The caller knows its size and whether it wants so much.
    fn content(&self, file: &StoredKey) -> Result<Vec<u8>, StoredFailure>;

    /// The digest that a stored file would have with the content of a file of this machine.
    fn digest(&self, file: &File, size: u64) -> Result<[u8; 32], StoredFailure>;
}

/// Why a stored layer could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoredFailure(pub String);

/// One directory of a layer.
#[derive(Debug, Default)]
pub struct StoredDirectory {
    /// The hash of all that is below it: equal directories have equal ones.
    pub hash: [u8; 32],
    /// Its own mode and owner.
    pub attributes: Attributes,
    /// Whether it hides what the template has below it.
    pub opaque: bool,
    /// The template directory that shows through it instead of the one of its name.
    pub redirect: Option<Vec<u8>>,
    /// Sorted by name, no two alike.
    pub entries: Vec<StoredEntry>,
}

/// One name of a directory.
#[derive(Debug)]
pub struct StoredEntry {
    /// Any bytes but `/` and 0.
    pub name: Vec<u8>,
    /// Mode and owner; `None` for a directory, which tells them itself.
    pub attributes: Option<Attributes>,
    /// What it is.
    pub kind: StoredKind,
}

/// What a name stands for.
pub enum StoredKind {
    /// A directory, with the hash of all that is below it.
    Directory { hash: [u8; 32], key: StoredKey },
    /// A regular file; equal contents have equal sizes and digests, and no others have.
    File { size: u64, digest: [u8; 32], key: StoredKey },
    /// A symbolic link and its target.
    Symlink { target: Vec<u8> },
    /// A named pipe.
    Fifo,
    /// The mark that hides a name of the template.
    Whiteout,
}

impl StoredDirectory {
    /// The entry of that name.
    pub fn find(&self, name: &[u8]) -> Option<&StoredEntry> {
        let at = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get(at)
    }
}

impl fmt::Debug for StoredKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory { .. } => "Directory",
            Self::File { .. } => "File",
            Self::Symlink { .. } => "Symlink",
            Self::Fifo => "Fifo",
            Self::Whiteout => "Whiteout",
        })
    }
}
