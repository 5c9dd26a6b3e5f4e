//! How one checkpoint differs from another.

use crate::env::EnvironmentDiff;

/// How two trees differ. Paths are absolute and sorted; names of any bytes are shown lossily as text at the edge only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeDiff {
    /// Only in the second.
    pub added: Vec<Vec<u8>>,
    /// Only in the first.
    pub removed: Vec<Vec<u8>>,
    /// In both with different content, target or type.
    pub modified: Vec<Vec<u8>>,
    /// Regular files that were removed at one path and added with the same content at another; both paths are in
    /// the lists above, too.
    pub renamed: Vec<Rename>,
    /// In both, of the same type, with another mode or owner. Directories too.
    pub attributes: Vec<AttributeChange>,
}

impl TreeDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty() && self.attributes.is_empty()
    }
}

/// A file that is at another path now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Its path in the first tree.
    pub from: Vec<u8>,
    /// Its path in the second.
    pub to: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
}

/// A file or directory with another mode or owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeChange {
    /// Where.
    pub path: Vec<u8>,
    /// In the first tree.
    pub old: Attributes,
    /// In the second.
    pub new: Attributes,
}

/// Who may do what with a file. The mode of a symbolic link is 0: it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
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
    /// How files differ by line, where that was asked for.
    pub contents: Option<ContentDiff>,
}

/// How the text of files differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentDiff {
    /// In the order of their paths.
    pub files: Vec<FileDiff>,
    /// Differing files that were not looked at, since the answer had its full size.
    pub left_out: u64,
}

/// How one file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDiff {
    /// Where.
    pub path: Vec<u8>,
    /// Its size in the first tree; `None`: it is not there, or no regular file.
    pub old_size: Option<u64>,
    /// Its size in the second.
    pub new_size: Option<u64>,
    /// Its lines.
    pub text: TextDiff,
}

/// What is shown of a file's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextDiff {
    /// A unified diff.
    Unified(String),
    /// It is no UTF-8 text, or no regular file.
    Binary,
    /// It is larger than files that are shown by line.
    TooLarge,
}
