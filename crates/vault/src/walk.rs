//! Walks over stored manifests.

use crate::{
    crypto::ChunkId,
    error::Result,
    fetch::Fetcher,
    tree::{Body, Node, NodeRef, Piece},
};
use std::collections::HashSet;

/// Calls `visit` for every directory below `root` (and `root` itself), parents first. `enter` says whether a
/// directory is to be looked at at all.
pub(crate) fn directories(
    fetcher: &Fetcher<'_>,
    root: &NodeRef,
    enter: &mut dyn FnMut(&NodeRef) -> bool,
    visit: &mut dyn FnMut(&NodeRef, &Node) -> Result<()>,
) -> Result<()> {
    let mut pending = vec![root.clone()];
    while let Some(next) = pending.pop() {
        if !enter(&next) {
            continue;
        }
        if let Some(progress) = fetcher.progress {
            progress.go_on()?;
        }
        let node = fetcher.node(&next)?;
        visit(&next, &node)?;
        for entry in node.entries.into_iter().rev() {
            if let Body::Directory(child) = entry.body {
                pending.push(child);
            }
        }
    }
    Ok(())
}

/// Names one stored form of a directory: equal trees may be stored in several.
pub(crate) fn identity(node: &NodeRef) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.hash);
    node.pieces.iter().for_each(|piece| {
        hasher.update(&piece.id.0);
    });
    *hasher.finalize().as_bytes()
}

/// All chunks that directories and files of a node need.
pub(crate) fn pieces<'a>(from: &'a NodeRef, node: &'a Node) -> impl Iterator<Item = &'a Piece> {
    let files = node.entries.iter().flat_map(|entry| match &entry.body {
        Body::Leaf(leaf) => Some(leaf.pieces()),
        Body::Directory(_) => None,
    });
    from.pieces.iter().chain(files.flatten())
}

/// Adds every chunk below `root` to `live`; directories in `seen` are known to be in it.
pub(crate) fn mark(
    fetcher: &Fetcher<'_>,
    root: &NodeRef,
    live: &mut HashSet<ChunkId>,
    seen: &mut HashSet<[u8; 32]>,
) -> Result<()> {
    directories(fetcher, root, &mut |node| seen.insert(identity(node)), &mut |from, node| {
        live.extend(pieces(from, node).map(|piece| piece.id));
        Ok(())
    })
}
