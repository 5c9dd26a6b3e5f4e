//! Trees as manifests know them: directories, their entries, and the hashes over them.

pub(crate) mod codec;
pub(crate) mod content;
pub(crate) mod hash;
pub(crate) mod merkle;
#[cfg(test)]
mod properties;

use crate::crypto::ChunkId;
use std::fmt;

/// The hash of a whole tree: equal trees have equal hashes, whoever stored them. Written `b3:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash(pub [u8; 32]);

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for RootHash {
    type Err = crate::VaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; 32];
        let digits = text.strip_prefix("b3:").filter(|digits| !digits.bytes().any(|b| b.is_ascii_uppercase()));
        match digits.map(|digits| hex::decode_to_slice(digits, &mut hash)) {
            Some(Ok(())) => Ok(Self(hash)),
            _ => {
                Err(crate::VaultError::Malformed { what: "a checksum", problem: "is not b3: and 64 hex digits".into() })
            }
        }
    }
}

/// Owner, mode, time and attributes of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Names and values, sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    /// Sorted by name; no two alike.
    pub(crate) entries: Vec<Entry>,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) body: Body,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Directory(NodeRef),
    Leaf(Leaf),
}

/// A directory somewhere in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeRef {
    /// The hash of the tree below it.
    pub(crate) hash: [u8; 32],
    /// The chunks of its encoding.
    pub(crate) pieces: Vec<Piece>,
}

/// Anything but a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) meta: Meta,
    /// What all names of one inode have in common, if there are several in the tree: a hash of the first one's path.
    pub(crate) link: Option<[u8; 16]>,
    pub(crate) kind: LeafKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeafKind {
    File(Content),
    Symlink(Vec<u8>),
    Fifo,
    /// The character device 0/0 by which a layer hides a name of what lies below it.
    Whiteout,
}

/// What a regular file holds. What no segment covers is zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) digest: [u8; 32],
    /// In order, not touching each other.
    pub(crate) segments: Vec<Segment>,
}

/// A run of a file that has no whole block of zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it begins; a multiple of the block size.
    pub(crate) offset: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// A chunk and its length in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: ChunkId,
    pub(crate) len: u32,
}

impl Content {
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.segments.iter().flat_map(|segment| &segment.pieces)
    }
}

impl Leaf {
    /// The chunks it needs.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        match &self.kind {
            LeafKind::File(content) => Some(content.pieces()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}
