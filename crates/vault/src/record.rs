//! What is stored of a checkpoint besides its tree, so that rows can be made again from the store alone.

use crate::{
    VaultError,
    crypto::{ChunkId, OrgKeys},
    error::Result,
    object_keys::{ObjectKey, SnapshotRef},
    tree::{NodeRef, Piece, RootHash},
};
use forkpoint_domain::ids::{CheckpointId, OrgId, SandboxId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The largest record that is read, in bytes.
pub(crate) const MAX_RECORD: usize = 16 << 20;
const MAGIC: &[u8; 8] = b"FPVRECD1";
const VERSION: u32 = 1;

/// What the vault keeps of a checkpoint without looking into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Whose it is.
    pub org: OrgId,
    /// Which.
    pub checkpoint: CheckpointId,
    /// The sandbox it was captured from.
    pub sandbox: SandboxId,
    /// The checkpoint that the sandbox's layer came from.
    pub parent: Option<CheckpointId>,
    /// The template's name.
    pub template_name: String,
    /// The template's digest.
    pub template_digest: String,
    /// What it captured, as the domain writes it.
    pub scope: serde_json::Value,
    /// Everything else of its row that a rebuilt row needs (name, description, caller's metadata, counts, …).
    pub metadata: serde_json::Value,
    /// The captured environment, sealed by its own sealer; `None`: none was captured.
    #[serde(with = "hex_option")]
    pub env: Option<Vec<u8>>,
    /// When it was captured.
    pub created_at: Timestamp,
}

impl Header {
    /// The name under which it is stored.
    pub fn name(&self) -> SnapshotRef {
        SnapshotRef { org: self.org, checkpoint: self.checkpoint }
    }
}

/// A stored checkpoint as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What was given when it was stored.
    pub header: Header,
    /// The hash of its tree.
    pub root: RootHash,
    /// Files, symbolic links and other leaves of its tree.
    pub entries: u64,
    /// Bytes of its regular files without their zero blocks, hard links once.
    pub bytes: u64,
    /// When it was stored.
    pub stored_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    header: Header,
    root: String,
    pieces: Vec<(String, u32)>,
    entries: u64,
    bytes: u64,
    stored_at: Timestamp,
}

/// The bytes of a record.
pub(crate) fn seal(keys: &OrgKeys, stored: &Stored, pieces: &[Piece]) -> Result<Vec<u8>> {
    let body = Body {
        version: VERSION,
        header: stored.header.clone(),
        root: stored.root.to_string(),
        pieces: pieces.iter().map(|piece| (piece.id.to_string(), piece.len)).collect(),
        entries: stored.entries,
        bytes: stored.bytes,
        stored_at: stored.stored_at,
    };
    let clear = serde_json::to_vec(&body).map_err(|_| VaultError::Broken("a record cannot be written as JSON"))?;
    let bytes = seal_text(keys, stored.header.name(), &clear)?;
    if bytes.len() > MAX_RECORD {
        return Err(VaultError::Malformed { what: "a record", problem: format!("has over {MAX_RECORD} bytes") });
    }
    Ok(bytes)
}

/// The bytes of a record with this JSON.
pub(crate) fn seal_text(keys: &OrgKeys, name: SnapshotRef, clear: &[u8]) -> Result<Vec<u8>> {
    Ok([&MAGIC[..], &keys.seal_record(&context(name), clear)?].concat())
}

/// Reads a record, and where its root directory lies.
pub(crate) fn open(keys: &OrgKeys, name: SnapshotRef, bytes: &[u8]) -> Result<(Stored, NodeRef)> {
    let object = ObjectKey::Record(name).to_string();
    let corrupt = |problem: &str| VaultError::corrupt(object.clone(), problem);
    let sealed =
        bytes.strip_prefix(MAGIC).filter(|_| bytes.len() <= MAX_RECORD).ok_or_else(|| corrupt("it is no record"))?;
    let clear = keys.open_record(&context(name), sealed).ok_or_else(|| corrupt("its seal does not open"))?;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(&clear).map_err(|e| corrupt(&e.to_string()))?;
    if version != VERSION {
        return Err(VaultError::Version { object: object.clone(), found: version, known: VERSION });
    }
    let body: Body = serde_json::from_slice(&clear).map_err(|e| corrupt(&e.to_string()))?;
    let root: RootHash = body.root.parse().map_err(|_| corrupt("its root is no hash"))?;
    let mut pieces = Vec::with_capacity(body.pieces.len());
    for (id, len) in body.pieces {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&id, &mut bytes).map_err(|_| corrupt("it names no chunk"))?;
        pieces.push(Piece { id: ChunkId(bytes), len });
    }
    let fits = pieces.iter().all(|piece| piece.len as usize <= crate::crypto::MAX_CHUNK)
        && pieces.iter().map(|piece| piece.len as usize).sum::<usize>() <= crate::tree::codec::MAX_NODE;
    if body.header.name() != name || !fits {
        return Err(corrupt("it does not fit its name"));
    }
    let stored =
        Stored { header: body.header, root, entries: body.entries, bytes: body.bytes, stored_at: body.stored_at };
    Ok((stored, NodeRef { hash: root.0, pieces }))
}

fn context(name: SnapshotRef) -> Vec<u8> {
    format!("record {}", ObjectKey::Record(name)).into_bytes()
}

/// Bytes as hex digits in JSON.
mod hex_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(hex::encode).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| hex::decode(text).map_err(D::Error::custom)).transpose()
    }
}
