//! How one checkpoint differs from another.

use crate::env::EnvironmentDiff;

/// Paths that differ between two trees. Absolute, sorted; names of any bytes are shown lossily as text at the edge only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeDiff {
    /// Only in the second.
    pub added: Vec<Vec<u8>>,
    /// Only in the first.
    pub removed: Vec<Vec<u8>>,
    /// In both with different content, target or type.
    pub modified: Vec<Vec<u8>>,
}

/// How the second of two checkpoints differs from the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointDiff {
    /// Files and symbolic links.
    pub files: TreeDiff,
    /// Environment variables.
    pub env: EnvironmentDiff,
    /// Size of the second minus size of the first.
    pub size_change_bytes: i64,
}
