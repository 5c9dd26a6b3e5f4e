//! A stored layer as comparing reads it: directory by directory, as far as it must.

use crate::{
    Vault, VaultError,
    crypto::ChunkId,
    cut::{self, Cut, CutError},
    error::Result,
    fetch::{Fetcher, Recent},
    object_keys::SnapshotRef,
    org::Org,
    reading::{FileJob, Take, read_files},
    tree::{Body, Content, Entry, LeafKind, Meta, Node, NodeRef, Piece},
};
use forkpoint_domain::{
    diff::Attributes,
    stored::{StoredDirectory, StoredEntry, StoredFailure, StoredKey, StoredKind, StoredLayer},
};
use std::{
    fs::File,
    sync::{Arc, Mutex, PoisonError},
};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";

impl Vault {
    /// The stored tree of a checkpoint, to be looked at without writing it anywhere. Its record is read now, all
    /// else when it is asked for; every directory and file is checked by its hash.
    pub fn browse(&self, name: SnapshotRef) -> Result<Browser> {
        let org = self.0.org(name.org)?.ok_or(VaultError::NotFound(name))?;
        let (_, top) = self.0.record(&org, name)?;
        Ok(Browser { vault: self.clone(), org, top, recent: Arc::default() })
    }
}

/// See [`Vault::browse`].
#[derive(Debug)]
pub struct Browser {
    vault: Vault,
    org: Arc<Org>,
    top: NodeRef,
    recent: Arc<Mutex<Recent>>,
}

impl Browser {
    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher::sharing(&self.vault.0, &self.org, None, self.recent.clone())
    }
}

impl StoredLayer for Browser {
    fn directory(&self, at: Option<&StoredKey>) -> std::result::Result<StoredDirectory, StoredFailure> {
        let at = match at {
            None => &self.top,
            Some(key) => key.downcast_ref::<NodeRef>().ok_or_else(strange)?,
        };
        let Node { meta, entries } = self.fetcher().node(at).map_err(failure)?;
        Ok(StoredDirectory {
            hash: at.hash,
            attributes: attributes(&meta),
            opaque: attribute(&meta, OPAQUE).is_some_and(|value| value == b"y"),
            redirect: attribute(&meta, REDIRECT).map(<[u8]>::to_vec),
            entries: entries.into_iter().map(told).collect(),
        })
    }

    fn content(&self, file: &StoredKey) -> std::result::Result<Vec<u8>, StoredFailure> {
        let content = file.downcast_ref::<Content>().ok_or_else(strange)?;
        let whole = Whole(Mutex::new(vec![0; usize::try_from(content.size).map_err(|_| strange())?]));
        if !content.segments.is_empty() {
            read_files(&self.fetcher(), &[FileJob { number: 0, content }], &whole).map_err(failure)?;
        }
        Ok(whole.0.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn digest(&self, file: &File, size: u64) -> std::result::Result<[u8; 32], StoredFailure> {
        let mut take = |clear: &[u8]| Ok(Piece { id: ChunkId([0; 32]), len: clear.len() as u32 });
        match cut::read(file, size, Cut::Fixed, &mut Vec::new(), &mut take) {
            Ok(content) => Ok(content.digest),
            Err(CutError::Read(error)) => Err(StoredFailure(format!("read a file to compare it: {error}"))),
            Err(CutError::Take(error)) => Err(failure(error)),
        }
    }
}

fn told(entry: Entry) -> StoredEntry {
    let (attributes, kind) = match entry.body {
        Body::Directory(node) => (None, StoredKind::Directory { hash: node.hash, key: Arc::new(node) }),
        Body::Leaf(leaf) => {
            let kind = match leaf.kind {
                LeafKind::File(content) => {
                    StoredKind::File { size: content.size, digest: content.digest, key: Arc::new(content) }
                }
                LeafKind::Symlink(target) => StoredKind::Symlink { target },
                LeafKind::Fifo => StoredKind::Fifo,
                LeafKind::Whiteout => StoredKind::Whiteout,
            };
            (Some(attributes(&leaf.meta)), kind)
        }
    };
    StoredEntry { name: entry.name, attributes, kind }
}

fn attributes(meta: &Meta) -> Attributes {
    Attributes { mode: meta.mode, uid: meta.uid, gid: meta.gid }
}

fn attribute<'m>(meta: &'m Meta, name: &[u8]) -> Option<&'m [u8]> {
    meta.xattrs.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_slice())
}

fn failure(error: VaultError) -> StoredFailure {
    StoredFailure(error.to_string())
}

fn strange() -> StoredFailure {
    StoredFailure("it was asked for something that is not its own".into())
}

/// Takes one file into memory; what no segment covers stays zero.
struct Whole(Mutex<Vec<u8>>);

impl Take for Whole {
    fn write(&self, _: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut whole = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(offset).ok();
        let place = at.and_then(|at| whole.get_mut(at..at.checked_add(bytes.len())?));
        // Segments end within the file: the manifest was refused otherwise.
        place.ok_or(VaultError::Broken("a segment lies outside its file"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn done(&self, _: usize) -> Result<()> {
        Ok(())
    }
}
