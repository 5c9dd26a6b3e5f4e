//! The stored form of one directory. Reading accepts exactly what writing makes, and checks every name.

use super::{
    Body, Content, Entry, Leaf, LeafKind, Meta, Node, NodeRef, Piece, Segment,
    content::BLOCK,
    hash::{KIND_DIRECTORY, KIND_FIFO, KIND_FILE, KIND_SYMLINK, KIND_WHITEOUT, write_meta},
};
use crate::{
    crypto::{ChunkId, MAX_CHUNK},
    wire::{Reader, WireError, Writer},
};

/// The most bytes the stored form of one directory may have.
pub(crate) const MAX_NODE: usize = 64 << 20;
const VERSION: u8 = 1;
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4096;
/// The kernel's own bounds on attributes.
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 65_536;

type Result<T> = std::result::Result<T, WireError>;

/// The stored form of a directory.
pub(crate) fn encode(node: &Node) -> Vec<u8> {
    let mut to = Writer(Vec::with_capacity(64 + node.entries.len() * 128));
    to.byte(VERSION);
    write_meta(&mut to, &node.meta);
    to.int(node.entries.len() as u64);
    for entry in &node.entries {
        to.counted(&entry.name);
        match &entry.body {
            Body::Directory(node) => {
                to.byte(KIND_DIRECTORY);
                write_node_ref(&mut to, node);
            }
            Body::Leaf(leaf) => write_leaf(&mut to, leaf),
        }
    }
    to.0
}

fn write_leaf(to: &mut Writer, leaf: &Leaf) {
    let kind = match leaf.kind {
        LeafKind::File(_) => KIND_FILE,
        LeafKind::Symlink(_) => KIND_SYMLINK,
        LeafKind::Fifo => KIND_FIFO,
        LeafKind::Whiteout => KIND_WHITEOUT,
    };
    to.byte(kind);
    write_meta(to, &leaf.meta);
    to.counted(leaf.link.as_ref().map_or(&[], |link| &link[..]));
    match &leaf.kind {
        LeafKind::File(content) => {
            to.int(content.size);
            to.fixed(&content.digest);
            to.int(content.segments.len() as u64);
            for segment in &content.segments {
                to.int(segment.offset);
                write_pieces(to, &segment.pieces);
            }
        }
        LeafKind::Symlink(target) => to.counted(target),
        LeafKind::Fifo | LeafKind::Whiteout => {}
    }
}

pub(crate) fn write_node_ref(to: &mut Writer, node: &NodeRef) {
    to.fixed(&node.hash);
    write_pieces(to, &node.pieces);
}

fn write_pieces(to: &mut Writer, pieces: &[Piece]) {
    to.int(pieces.len() as u64);
    for piece in pieces {
        to.fixed(&piece.id.0);
        to.int(u64::from(piece.len));
    }
}

/// Reads a directory's stored form.
pub(crate) fn decode(bytes: &[u8]) -> Result<Node> {
    let mut from = Reader(bytes);
    if from.byte()? != VERSION {
        return Err(WireError("has an unknown version"));
    }
    let meta = read_meta(&mut from)?;
    let count = from.count(3)?;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let name = from.counted(MAX_NAME)?.to_vec();
        check_name(&name)?;
        if entries.last().is_some_and(|last| last.name >= name) {
            return Err(WireError("has names out of order"));
        }
        let body = match from.byte()? {
            KIND_DIRECTORY => Body::Directory(read_node_ref(&mut from)?),
            kind => Body::Leaf(read_leaf(&mut from, kind)?),
        };
        entries.push(Entry { name, body });
    }
    from.end()?;
    Ok(Node { meta, entries })
}

/// A name that stays in its directory.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty()
        || name.len() > MAX_NAME
        || name == b"."
        || name == b".."
        || name.iter().any(|b| matches!(b, 0 | b'/'))
    {
        return Err(WireError("has a name that is no file name"));
    }
    Ok(())
}

fn read_leaf(from: &mut Reader<'_>, kind: u8) -> Result<Leaf> {
    let meta = read_meta(from)?;
    let link = match from.counted(16)? {
        [] => None,
        link => Some(link.try_into().map_err(|_| WireError("has a short link name"))?),
    };
    let kind = match kind {
        KIND_FILE => LeafKind::File(read_content(from)?),
        KIND_SYMLINK => {
            let target = from.counted(MAX_TARGET)?.to_vec();
            if target.is_empty() || target.contains(&0) {
                return Err(WireError("has a symbolic link to nowhere"));
            }
            LeafKind::Symlink(target)
        }
        KIND_FIFO => LeafKind::Fifo,
        KIND_WHITEOUT => LeafKind::Whiteout,
        _ => return Err(WireError("has an unknown kind of entry")),
    };
    Ok(Leaf { meta, link, kind })
}

fn read_content(from: &mut Reader<'_>) -> Result<Content> {
    let size = from.int()?;
    if size > i64::MAX as u64 {
        return Err(WireError("has an impossible size"));
    }
    let digest = from.fixed()?;
    let count = from.count(35)?;
    let (mut segments, mut end) = (Vec::with_capacity(count.min(1024)), None);
    for _ in 0..count {
        let offset = from.int()?;
        let pieces = read_pieces(from)?;
        let length: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        // A gap of at least one block lies between two segments, or they would be one.
        let apart = end.is_none_or(|end: u64| offset >= end.saturating_add(BLOCK as u64));
        if length == 0 || !offset.is_multiple_of(BLOCK as u64) || !apart {
            return Err(WireError("has segments out of order"));
        }
        end = offset.checked_add(length).filter(|end| *end <= size);
        if end.is_none() {
            return Err(WireError("has a segment beyond the end of its file"));
        }
        segments.push(Segment { offset, pieces });
    }
    Ok(Content { size, digest, segments })
}

pub(crate) fn read_node_ref(from: &mut Reader<'_>) -> Result<NodeRef> {
    let (hash, pieces) = (from.fixed()?, read_pieces(from)?);
    if pieces.iter().map(|piece| piece.len as usize).sum::<usize>() > MAX_NODE {
        return Err(WireError("has a directory too large"));
    }
    Ok(NodeRef { hash, pieces })
}

fn read_pieces(from: &mut Reader<'_>) -> Result<Vec<Piece>> {
    let count = from.count(33)?;
    let mut pieces = Vec::with_capacity(count);
    for _ in 0..count {
        let piece = Piece { id: ChunkId(from.fixed()?), len: from.int32()? };
        if piece.len == 0 || piece.len as usize > MAX_CHUNK {
            return Err(WireError("has a chunk of impossible length"));
        }
        pieces.push(piece);
    }
    Ok(pieces)
}

fn read_meta(from: &mut Reader<'_>) -> Result<Meta> {
    let (mode, uid, gid) = (from.int32()?, from.int32()?, from.int32()?);
    let mtime = (from.signed()?, from.int32()?);
    if mode > 0o7777 || mtime.1 >= 1_000_000_000 {
        return Err(WireError("has an impossible mode or time"));
    }
    let count = from.count(2)?;
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for _ in 0..count {
        let name = from.counted(MAX_XATTR_NAME)?.to_vec();
        let value = from.counted(MAX_XATTR_VALUE)?.to_vec();
        if name.is_empty() || name.contains(&0) || xattrs.last().is_some_and(|last| last.0 >= name) {
            return Err(WireError("has attributes out of order"));
        }
        xattrs.push((name, value));
    }
    Ok(Meta { mode, uid, gid, mtime, xattrs })
}
