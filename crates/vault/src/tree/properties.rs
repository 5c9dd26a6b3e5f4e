//! Properties of stored directories: they read back, and whatever differs has another hash.

use super::{
    Body, Content, Entry, Leaf, LeafKind, Meta, Node, NodeRef, Piece, Segment, codec,
    content::BLOCK,
    hash::{entry_bytes, node_hash},
};
use crate::crypto::ChunkId;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..12).prop_filter("a file name", |name| codec::check_name(name).is_ok())
}

fn meta() -> impl Strategy<Value = Meta> {
    let xattrs = prop::collection::btree_map(
        prop::collection::vec(1..=255u8, 1..10),
        prop::collection::vec(any::<u8>(), 0..20),
        0..3,
    );
    (0..0o10000u32, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanos, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime: (seconds, nanos),
            xattrs: xattrs.into_iter().collect(),
        },
    )
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (any::<[u8; 32]>(), 1..100_000u32).prop_map(|(id, len)| Piece { id: ChunkId(id), len });
    prop::collection::vec(piece, 1..4)
}

/// Segments at whole blocks with at least one block between them, and a size that has room for all.
fn content() -> impl Strategy<Value = Content> {
    let segments = prop::collection::vec((1..9u64, pieces()), 0..4);
    (any::<[u8; 32]>(), segments, 0..1000u64).prop_map(|(digest, parts, more)| {
        let (mut segments, mut end) = (Vec::new(), 0u64);
        for (gap, pieces) in parts {
            let offset = (end.div_ceil(BLOCK as u64) + gap) * BLOCK as u64;
            end = offset + pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>();
            segments.push(Segment { offset, pieces });
        }
        Content { size: end + more, digest, segments }
    })
}

fn body() -> impl Strategy<Value = Body> {
    let kind = prop_oneof![
        content().prop_map(LeafKind::File),
        prop::collection::vec(1..=255u8, 1..20).prop_map(LeafKind::Symlink),
        Just(LeafKind::Fifo),
        Just(LeafKind::Whiteout),
    ];
    prop_oneof![
        (any::<[u8; 32]>(), pieces()).prop_map(|(hash, pieces)| Body::Directory(NodeRef { hash, pieces })),
        (meta(), prop::option::of(any::<[u8; 16]>()), kind).prop_map(|(meta, link, kind)| Body::Leaf(Leaf {
            meta,
            link,
            kind
        })),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    (meta(), prop::collection::btree_map(name(), body(), 0..6)).prop_map(
        |(meta, entries): (Meta, BTreeMap<Vec<u8>, Body>)| Node {
            meta,
            entries: entries.into_iter().map(|(name, body)| Entry { name, body }).collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn directories_read_back_and_every_prefix_is_refused(node in node(), cut: usize) {
        let bytes = codec::encode(&node);
        prop_assert_eq!(&codec::decode(&bytes).unwrap(), &node);
        prop_assert!(codec::decode(&bytes[..cut % bytes.len()]).is_err());
        prop_assert!(codec::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_is_read_from_changed_bytes_has_one_form_and_another_hash_if_it_differs(
        node in node(), at: usize, bit in 0..8u32,
    ) {
        let mut bytes = codec::encode(&node);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(read) = codec::decode(&bytes) {
            prop_assert_eq!(codec::encode(&read), bytes);
            // Where contents lie is no part of the hash: everything else is.
            let hashed = |node: &Node| (node.meta.clone(), node.entries.iter().map(entry_bytes).collect::<Vec<_>>());
            prop_assert_eq!(hashed(&read) == hashed(&node), node_hash(&read) == node_hash(&node));
        }
    }
}
