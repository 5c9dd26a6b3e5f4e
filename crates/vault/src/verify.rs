//! Reads a stored tree back and hashes all of it again.

use crate::{
    Vault, VaultError,
    crypto::ChunkId,
    error::Result,
    fetch::Fetcher,
    object_keys::SnapshotRef,
    reading::{FileJob, Take, read_files},
    session::Progress,
    tree::{Body, Content, LeafKind, RootHash},
    walk,
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// What was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The hash of the tree, as computed from what the store gave.
    pub root: RootHash,
    /// Directories whose hash was computed.
    pub directories: u64,
    /// Files whose digest was computed from their chunks.
    pub files: u64,
    /// Files not read because all their chunks belong to the trusted checkpoint.
    pub files_trusted: u64,
    /// Bytes of content read back.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

struct Nothing;

impl Take for Nothing {
    fn write(&self, _: usize, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn done(&self, _: usize) -> Result<()> {
        Ok(())
    }
}

impl Vault {
    /// Reads a checkpoint back from the store: opens and hashes every chunk, computes the digest of every file and
    /// the hash of every directory. Files made only of chunks that `trusted` (a checkpoint of the same
    /// organisation, verified before) has too are not read again; `None`: everything is.
    pub fn verify(&self, name: SnapshotRef, trusted: Option<SnapshotRef>, progress: &Progress) -> Result<Verified> {
        let began = Instant::now();
        let org = self.0.org(name.org)?.ok_or(VaultError::NotFound(name))?;
        let (stored, top) = self.0.record(&org, name)?;
        let fetcher = Fetcher::new(&self.0, &org, Some(progress));
        let mut known: HashSet<ChunkId> = HashSet::new();
        if let Some(trusted) = trusted.filter(|trusted| trusted.org == name.org && *trusted != name) {
            match self.0.record(&org, trusted) {
                Ok((_, top)) => walk::mark(&fetcher, &top, &mut known, &mut HashSet::new())?,
                Err(VaultError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut verified = Verified {
            root: stored.root,
            directories: 0,
            files: 0,
            files_trusted: 0,
            bytes: 0,
            duration: Duration::ZERO,
        };
        let mut contents: Vec<Content> = Vec::new();
        let mut links = HashSet::new();
        walk::directories(&fetcher, &top, &mut |_| true, &mut |_, node| {
            verified.directories += 1;
            for entry in &node.entries {
                let Body::Leaf(leaf) = &entry.body else { continue };
                let LeafKind::File(content) = &leaf.kind else { continue };
                if leaf.link.is_some_and(|link| !links.insert(link)) {
                    continue;
                }
                if !content.segments.is_empty() && content.pieces().all(|piece| known.contains(&piece.id)) {
                    // That the chunks are still there is checked all the same.
                    content.pieces().try_for_each(|piece| fetcher.place(&piece.id).map(|_| ()))?;
                    verified.files_trusted += 1;
                } else {
                    verified.files += 1;
                    verified.bytes += content.pieces().map(|piece| u64::from(piece.len)).sum::<u64>();
                    contents.push(content.clone());
                }
            }
            Ok(())
        })?;
        let jobs: Vec<_> = contents.iter().enumerate().map(|(number, content)| FileJob { number, content }).collect();
        read_files(&fetcher, &jobs, &Nothing)?;
        verified.duration = began.elapsed();
        Ok(verified)
    }
}
