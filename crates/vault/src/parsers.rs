//! Entry points for what feeds the vault's parsers with hostile bytes; no promise is made about them.
//!
//! What lies sealed in a store is read here as if whoever wrote it had the key: the seal is made around the bytes.

use crate::{
    InclusionProof, SnapshotRef,
    crypto::{ChunkId, OrgKeys},
    files::Root,
    hints::Hints,
    object_keys::{ObjectKey, PackId},
    pack::{self, FOOTER},
    record, scan,
    tree::codec,
};
use forkpoint_domain::ids::{CheckpointId, OrgId};
use std::path::Path;

/// The secret of the documented test vectors: 00 01 … 1f.
fn keys() -> OrgKeys {
    let mut secret = [0; 32];
    (0..).zip(&mut secret).for_each(|(n, byte)| *byte = n);
    OrgKeys::new(&secret)
}

/// Reads a stored directory; says whether it was accepted and wrote back as the same bytes.
pub fn directory(bytes: &[u8]) -> Option<bool> {
    let node = codec::decode(bytes).ok()?;
    Some(codec::encode(&node) == bytes)
}

/// Reads a pack's index in clear and a pack's footer.
pub fn index(bytes: &[u8], size: u64) -> bool {
    pack::decode_index(bytes, size).is_ok() | pack::read_footer("fuzz", bytes, size).is_ok()
}

/// Reads a whole pack with the name 16 times 7 under the keys of the documented vectors, and opens its chunks.
pub fn pack(bytes: &[u8]) -> bool {
    let (keys, size) = (keys(), bytes.len() as u64);
    let Some(footer) = bytes.len().checked_sub(FOOTER).map(|at| &bytes[at..]) else { return false };
    let Ok(range) = pack::read_footer("fuzz", footer, size) else { return false };
    let sealed = &bytes[range.start as usize..range.end as usize];
    let Ok(contents) = pack::open_index(&keys, "fuzz", PackId([7; 16]), sealed, range.start) else { return false };
    contents.stretches.iter().all(|stretch| {
        let mut sealed = bytes[stretch.offset as usize..(stretch.offset + stretch.stored) as usize].to_vec();
        keys.open_chunk(&stretch.id, stretch.len as usize, &mut sealed).is_ok()
    })
}

/// Opens a chunk whose body is these bytes, and whose length in clear is said to be `length`.
pub fn chunk(bytes: &[u8], length: u32) -> bool {
    let (keys, id) = (keys(), ChunkId([1; 32]));
    let Ok(mut sealed) = keys.seal_body(&id, bytes) else { return false };
    keys.open_chunk(&id, length as usize, &mut sealed).is_ok()
}

/// Reads a record whose JSON is these bytes.
pub fn record(bytes: &[u8]) -> bool {
    let org = "org_00000000-0000-0000-0000-000000000001".parse::<OrgId>();
    let checkpoint = "cp-00000000-0000-0000-0000-000000000002".parse::<CheckpointId>();
    let (Ok(org), Ok(checkpoint)) = (org, checkpoint) else { return false };
    let name = SnapshotRef { org, checkpoint };
    let keys = keys();
    record::seal_text(&keys, name, bytes).is_ok_and(|sealed| record::open(&keys, name, &sealed).is_ok())
}

/// Reads a hint file, and one whose hash is right.
pub fn hints(bytes: &[u8]) -> bool {
    let whole = [bytes, blake3::hash(bytes).as_bytes()].concat();
    Hints::decode(bytes).is_some() | Hints::decode(&whole).is_some()
}

/// Reads an inclusion proof.
pub fn proof(bytes: &[u8]) -> bool {
    InclusionProof::from_bytes(bytes).is_ok()
}

/// Reads an object's key.
pub fn object_key(key: &str) -> bool {
    ObjectKey::parse(key).is_some()
}

/// Looks at every name of a layer; how many there are, if it is one that can be stored.
pub fn walk(layer: &Path) -> Option<u64> {
    let root = Root::open(layer).ok()?;
    Some(scan::scan(&root).ok()?.entries)
}
