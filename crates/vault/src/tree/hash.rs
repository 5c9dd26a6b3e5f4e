//! What the hash of a tree covers: names, kinds, owners, modes, times, attributes, contents. Nothing of how or
//! under which key it is stored.

use super::{Body, Entry, LeafKind, Meta, Node, RootHash, merkle};
use crate::wire::Writer;

/// Names of the hash functions; a change of what they cover changes them.
const ENTRY: &str = "forkpoint vault 1 entry";
const DIRECTORY: &str = "forkpoint vault 1 directory";

pub(super) const KIND_DIRECTORY: u8 = 1;
pub(super) const KIND_FILE: u8 = 2;
pub(super) const KIND_SYMLINK: u8 = 3;
pub(super) const KIND_FIFO: u8 = 4;
pub(super) const KIND_WHITEOUT: u8 = 5;

pub(super) fn write_meta(to: &mut Writer, meta: &Meta) {
    to.int(u64::from(meta.mode));
    to.int(u64::from(meta.uid));
    to.int(u64::from(meta.gid));
    to.signed(meta.mtime.0);
    to.int(u64::from(meta.mtime.1));
    to.int(meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        to.counted(name);
        to.counted(value);
    }
}

/// What of an entry is hashed, as bytes.
pub(crate) fn entry_bytes(entry: &Entry) -> Vec<u8> {
    let mut to = Writer::default();
    to.counted(&entry.name);
    match &entry.body {
        Body::Directory(node) => {
            to.byte(KIND_DIRECTORY);
            to.fixed(&node.hash);
        }
        Body::Leaf(leaf) => {
            to.byte(match leaf.kind {
                LeafKind::File(_) => KIND_FILE,
                LeafKind::Symlink(_) => KIND_SYMLINK,
                LeafKind::Fifo => KIND_FIFO,
                LeafKind::Whiteout => KIND_WHITEOUT,
            });
            write_meta(&mut to, &leaf.meta);
            to.counted(leaf.link.as_ref().map_or(&[], |link| &link[..]));
            match &leaf.kind {
                LeafKind::File(content) => {
                    to.int(content.size);
                    to.fixed(&content.digest);
                }
                LeafKind::Symlink(target) => to.counted(target),
                LeafKind::Fifo | LeafKind::Whiteout => {}
            }
        }
    }
    to.0
}

pub(crate) fn entry_hash(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key(ENTRY, bytes)
}

/// The hash of a directory from its own metadata, the number of its entries and the root over their hashes.
pub(crate) fn directory_hash(meta: &[u8], count: u64, root: &[u8; 32]) -> [u8; 32] {
    let mut to = Writer::default();
    to.counted(meta);
    to.int(count);
    to.fixed(root);
    blake3::derive_key(DIRECTORY, &to.0)
}

pub(crate) fn meta_bytes(meta: &Meta) -> Vec<u8> {
    let mut to = Writer::default();
    write_meta(&mut to, meta);
    to.0
}

pub(crate) fn entry_hashes(node: &Node) -> Vec<[u8; 32]> {
    node.entries.iter().map(|entry| entry_hash(&entry_bytes(entry))).collect()
}

/// The hash of the tree below a directory.
pub(crate) fn node_hash(node: &Node) -> RootHash {
    let leaves = entry_hashes(node);
    RootHash(directory_hash(&meta_bytes(&node.meta), leaves.len() as u64, &merkle::root(&leaves)))
}
