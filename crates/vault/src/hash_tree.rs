//! The hash of a tree on this machine, without a store: what storing it would give it as its checksum.

use crate::{
    VaultError,
    crypto::ChunkId,
    cut::{self, Cut, CutError},
    error::Result,
    files::{self, Root, join},
    scan::{self, Found, FoundKind},
    tree::{Body, Content, Entry, Leaf, LeafKind, Node, NodeRef, Piece, RootHash, hash},
};
use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// Computes the hash of the tree at `tree`, a directory that nothing changes meanwhile. Equal trees have equal
/// hashes, and the same as when they are stored. Ends with [`VaultError::Cancelled`] once `stop` says so.
pub fn hash_tree(tree: &Path, stop: &dyn Fn() -> bool) -> Result<RootHash> {
    let root = Root::open(tree)?;
    let scan = scan::scan(&root)?;
    let mut hashes: Vec<[u8; 32]> = vec![[0; 32]; scan.directories.len()];
    // The leaf of an inode with several names; each of them has its own entry and the same hash.
    let mut linked: HashMap<[u8; 16], Leaf> = HashMap::new();
    let mut buffer = Vec::new();
    // A directory comes after its parent in the walk.
    for (number, directory) in scan.directories.iter().enumerate().rev() {
        let fd = root.directory(&directory.path)?;
        let mut entries = Vec::with_capacity(directory.entries.len());
        for found in &directory.entries {
            go_on(stop)?;
            let known = found.link.and_then(|link| linked.get(&link)).cloned();
            let body = match (found.kind, known) {
                (FoundKind::Directory(child), _) => {
                    Body::Directory(NodeRef { hash: hashes[child as usize], pieces: Vec::new() })
                }
                (_, Some(leaf)) => Body::Leaf(leaf),
                (_, None) => {
                    let leaf = read_leaf(fd.as_fd(), &directory.path, found, &mut buffer, stop)?;
                    if let Some(link) = found.link {
                        linked.insert(link, leaf.clone());
                    }
                    Body::Leaf(leaf)
                }
            };
            entries.push(Entry { name: found.name.to_vec(), body });
        }
        hashes[number] = hash::node_hash(&Node { meta: directory.meta.clone(), entries }).0;
    }
    Ok(RootHash(hashes[0]))
}

/// The digest of one file's content, as trees have it: plain BLAKE3 unless it has a block of 64 KiB of zeros.
pub fn hash_file(path: &Path) -> Result<(u64, [u8; 32])> {
    let name = path.as_os_str().as_encoded_bytes();
    let file = std::fs::File::open(path).map_err(|e| VaultError::files("open", name, e))?;
    let stat = file.metadata().map_err(|e| VaultError::files("stat", name, e))?;
    if !stat.is_file() {
        return Err(VaultError::Malformed { what: "the content", problem: "it is not a regular file".into() });
    }
    let content = read_content(&file, stat.len(), &mut Vec::new(), &|| false);
    match content {
        Ok(content) => Ok((content.size, content.digest)),
        Err(CutError::Take(error)) => Err(error),
        Err(CutError::Read(error)) => Err(VaultError::files("read", name, error)),
    }
}

fn go_on(stop: &dyn Fn() -> bool) -> Result<()> {
    if stop() { Err(VaultError::Cancelled) } else { Ok(()) }
}

fn read_leaf(
    folder: BorrowedFd<'_>,
    path: &[u8],
    found: &Found,
    buffer: &mut Vec<u8>,
    stop: &dyn Fn() -> bool,
) -> Result<Leaf> {
    let failed = |action, e: rustix::io::Errno| VaultError::files(action, join(path, &found.name), e);
    let xattrs_of = || files::xattrs_of(folder, &found.name).map_err(|e| failed("read attributes of", e));
    let (kind, xattrs) = match found.kind {
        FoundKind::File => {
            let file = files::open_file(folder, &found.name, found.stamp.inode).map_err(|e| failed("open", e))?;
            let xattrs = files::xattrs(file.as_fd()).map_err(|e| failed("read attributes of", e))?;
            let content = read_content(&file, found.stamp.size, buffer, stop).map_err(|error| match error {
                CutError::Take(error) => error,
                CutError::Read(error) => VaultError::files("read", join(path, &found.name), error),
            })?;
            (LeafKind::File(content), xattrs)
        }
        FoundKind::Symlink => {
            let target = rustix::fs::readlinkat(folder, &*found.name, Vec::new());
            (LeafKind::Symlink(target.map_err(|e| failed("read link", e))?.into_bytes()), xattrs_of()?)
        }
        FoundKind::Fifo => (LeafKind::Fifo, xattrs_of()?),
        FoundKind::Whiteout => (LeafKind::Whiteout, xattrs_of()?),
        FoundKind::Directory(_) => return Err(VaultError::Broken("a directory was taken for a file")),
    };
    Ok(Leaf { meta: found.meta(xattrs), link: found.link, kind })
}

fn read_content(
    file: &std::fs::File,
    size: u64,
    buffer: &mut Vec<u8>,
    stop: &dyn Fn() -> bool,
) -> std::result::Result<Content, CutError> {
    let mut content = cut::read(file, size, Cut::Fixed, buffer, &mut |clear| {
        go_on(stop)?;
        Ok(Piece { id: ChunkId([0; 32]), len: clear.len() as u32 })
    })?;
    // Only what is hashed is of use here.
    content.segments = Vec::new();
    Ok(content)
}
