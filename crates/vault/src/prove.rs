//! Proofs that a file belongs to a tree with a known hash, checkable without store or key.

mod json;

use crate::{
    Vault, VaultError,
    error::Result,
    fetch::Fetcher,
    object_keys::SnapshotRef,
    tree::{
        Body, NodeRef, RootHash,
        hash::{directory_hash, entry_bytes, entry_hash, entry_hashes, meta_bytes},
        merkle,
    },
    wire::{Reader, WireError, Writer},
};
use std::path::Path;

const MAGIC: &[u8; 8] = b"FPVPROF1";
/// The most parts of a path in a proof.
const MAX_DEPTH: usize = 2048;

/// The way from a tree's hash to one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// From the top directory to the one that holds the entry.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// The directory's own metadata, as hashed.
    meta: Vec<u8>,
    /// How many entries it has, and which one is meant.
    count: u64,
    index: u64,
    /// The entry, as hashed.
    entry: Vec<u8>,
    /// Hashes beside the way up.
    beside: Vec<[u8; 32]>,
}

/// What a proof proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The path from the top, without a leading slash.
    pub path: Vec<u8>,
    /// For a regular file: its size in bytes and the digest of its content (plain BLAKE3 if it has no block of
    /// 64 KiB of zeros).
    pub file: Option<(u64, [u8; 32])>,
}

impl Vault {
    /// Proves that `path` (relative to the top of the tree) is in a stored tree.
    pub fn prove(&self, name: SnapshotRef, path: &Path) -> Result<InclusionProof> {
        let org = self.0.org(name.org)?.ok_or(VaultError::NotFound(name))?;
        let (_, top) = self.0.record(&org, name)?;
        let fetcher = Fetcher::new(&self.0, &org, None);
        let bytes = path.as_os_str().as_encoded_bytes();
        let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let missing = || VaultError::tree(bytes, "is not there");
        let (mut steps, mut at): (Vec<Step>, Option<NodeRef>) = (Vec::new(), Some(top));
        for part in parts {
            let node = fetcher.node(&at.take().ok_or_else(missing)?)?;
            let index = node.entries.binary_search_by(|entry| (*entry.name).cmp(part)).map_err(|_| missing())?;
            let hashes = entry_hashes(&node);
            steps.push(Step {
                meta: meta_bytes(&node.meta),
                count: node.entries.len() as u64,
                index: index as u64,
                entry: entry_bytes(&node.entries[index]),
                beside: merkle::path(&hashes, index),
            });
            if let Body::Directory(child) = &node.entries[index].body {
                at = Some(child.clone());
            }
        }
        if steps.is_empty() { Err(missing()) } else { Ok(InclusionProof { steps }) }
    }
}

impl InclusionProof {
    /// Checks the proof against the hash of a tree; tells what it proves.
    pub fn verify(&self, root: RootHash) -> Result<Proven> {
        let malformed = |problem: &str| VaultError::Malformed { what: "an inclusion proof", problem: problem.into() };
        let mut expected = root.0;
        let (mut path, mut file) = (Vec::new(), None);
        for (depth, step) in self.steps.iter().enumerate() {
            let last = depth + 1 == self.steps.len();
            let (index, count) = (usize::try_from(step.index), usize::try_from(step.count));
            let (Ok(index), Ok(count)) = (index, count) else { return Err(malformed("it counts too far")) };
            let top = merkle::climb(entry_hash(&step.entry), index, count, &step.beside)
                .ok_or_else(|| malformed("it has the wrong length"))?;
            if directory_hash(&step.meta, step.count, &top) != expected {
                return Err(malformed("it does not lead to the tree's hash"));
            }
            let entry = Hashed::read(&step.entry).map_err(|error| malformed(&format!("its entry {error}")))?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name);
            match (entry.directory, last) {
                (Some(hash), _) => expected = hash,
                (None, true) => file = entry.file,
                (None, false) => return Err(malformed("it goes on below a file")),
            }
        }
        if path.is_empty() { Err(malformed("it is empty")) } else { Ok(Proven { path, file }) }
    }

    /// The proof as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.fixed(MAGIC);
        to.int(self.steps.len() as u64);
        for step in &self.steps {
            to.counted(&step.meta);
            to.int(step.count);
            to.int(step.index);
            to.counted(&step.entry);
            to.int(step.beside.len() as u64);
            step.beside.iter().for_each(|hash| to.fixed(hash));
        }
        to.0
    }

    /// Reads a proof.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed =
            |error: WireError| VaultError::Malformed { what: "an inclusion proof", problem: format!("it {error}") };
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed(WireError("does not begin like one")))?;
        read_steps(body).map(|steps| Self { steps }).map_err(malformed)
    }
}

fn read_steps(body: &[u8]) -> std::result::Result<Vec<Step>, WireError> {
    let mut from = Reader(body);
    let count = from.count(5)?;
    if count > MAX_DEPTH {
        return Err(WireError("is too deep"));
    }
    let mut steps = Vec::new();
    for _ in 0..count {
        let meta = from.counted(usize::MAX)?.to_vec();
        let (count, index) = (from.int()?, from.int()?);
        let entry = from.counted(usize::MAX)?.to_vec();
        let hashes = from.count(32)?;
        if hashes > 64 {
            return Err(WireError("has too many hashes"));
        }
        let mut beside = Vec::with_capacity(hashes);
        for _ in 0..hashes {
            beside.push(from.fixed()?);
        }
        steps.push(Step { meta, count, index, entry, beside });
    }
    from.end()?;
    Ok(steps)
}

/// An entry as it is hashed, as far as a proof tells of it.
struct Hashed<'a> {
    name: &'a [u8],
    directory: Option<[u8; 32]>,
    file: Option<(u64, [u8; 32])>,
}

impl<'a> Hashed<'a> {
    fn read(bytes: &'a [u8]) -> std::result::Result<Self, WireError> {
        let mut from = Reader(bytes);
        let name = from.counted(255)?;
        crate::tree::codec::check_name(name)?;
        match from.byte()? {
            1 => Ok(Self { name, directory: Some(from.fixed()?), file: None }),
            2 => {
                // Mode, owner, group; time; attributes; link.
                for _ in 0..3 {
                    from.int()?;
                }
                from.signed()?;
                from.int()?;
                for _ in 0..from.count(2)? {
                    from.counted(usize::MAX)?;
                    from.counted(usize::MAX)?;
                }
                from.counted(16)?;
                let file = (from.int()?, from.fixed()?);
                from.end()?;
                Ok(Self { name, directory: None, file: Some(file) })
            }
            _ => Ok(Self { name, directory: None, file: None }),
        }
    }
}
