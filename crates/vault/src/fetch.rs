//! Gets chunks out of packs. What does not open as exactly the chunk that was asked for is never handed on.

use crate::{
    VaultError,
    crypto::ChunkId,
    error::Result,
    index::Place,
    object_keys::{ObjectKey, PackId},
    org::{Org, short},
    session::Progress,
    store::StoreError,
    tree::{Node, NodeRef, Piece, codec, hash},
    vault::Inner,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Opened bundles that are kept, in bytes.
const CACHE: usize = 24 << 20;
/// The most bytes read in one go.
pub(crate) const RUN: u32 = 4 << 20;

type Key = (PackId, u32);

/// Reads chunks of one organisation.
#[derive(Debug)]
pub(crate) struct Fetcher<'v> {
    pub(crate) vault: &'v Inner,
    pub(crate) org: &'v Org,
    pub(crate) progress: Option<&'v Progress>,
    recent: Arc<Mutex<Recent>>,
}

/// Opened stretches, newest first, and how many bytes they have.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    bytes: usize,
    stretches: VecDeque<(Key, Arc<Vec<u8>>)>,
}

impl<'v> Fetcher<'v> {
    pub(crate) fn new(vault: &'v Inner, org: &'v Org, progress: Option<&'v Progress>) -> Self {
        Self::sharing(vault, org, progress, Arc::default())
    }

    /// The same with what others that share `recent` have opened lately.
    pub(crate) fn sharing(
        vault: &'v Inner,
        org: &'v Org,
        progress: Option<&'v Progress>,
        recent: Arc<Mutex<Recent>>,
    ) -> Self {
        Self { vault, org, progress, recent }
    }

    /// Where a chunk lies; learns of new packs if it is unknown.
    pub(crate) fn place(&self, id: &ChunkId) -> Result<Place> {
        if let Some(place) = self.org.index().find(id) {
            return Ok(place);
        }
        let refreshed = self.org.refresh(self.vault)?;
        let found = self.org.index().find(id);
        found.ok_or_else(|| match refreshed.damaged.into_iter().next() {
            // The chunk may well be in there.
            Some((_, error)) => error,
            None => VaultError::ChunkMissing { org: self.org.id, chunk: id.to_string() },
        })
    }

    /// Runs `read` on a chunk's place; once more if the pack was removed in favour of another meanwhile, or is damaged
    /// and the chunk is elsewhere too.
    pub(crate) fn at_place<T>(&self, id: &ChunkId, mut read: impl FnMut(Place) -> Result<T>) -> Result<T> {
        let place = self.place(id)?;
        match read(place) {
            Err(VaultError::Store(StoreError::Missing { .. })) => {
                self.org.refresh(self.vault)?;
                read(self.place(id)?)
            }
            Err(error @ VaultError::Corrupt { .. }) => {
                self.org.suspect(self.vault, place.pack);
                self.org.refresh(self.vault)?;
                match self.place(id)? {
                    other if other.pack != place.pack => read(other),
                    _ => Err(error),
                }
            }
            other => other,
        }
    }

    /// Reads stretches that lie one behind the other in one pack, in one go; opens each. A pack that gives wrong bytes
    /// is marked.
    pub(crate) fn run(&self, places: &[Place]) -> Result<Vec<Vec<u8>>> {
        let opened = self.open_run(places);
        if let (Err(VaultError::Corrupt { .. }), Some(first)) = (&opened, places.first()) {
            self.org.suspect(self.vault, first.pack);
        }
        opened
    }

    fn open_run(&self, places: &[Place]) -> Result<Vec<Vec<u8>>> {
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Vec::new()) };
        let key = ObjectKey::Pack(self.org.id, first.pack).to_string();
        let range = u64::from(first.offset)..u64::from(last.offset) + u64::from(last.stored);
        self.vault.twice(|| {
            let bytes = self.vault.store.get(&key, Some(range.clone())).map_err(|error| short(error, &key))?;
            if let Some(progress) = self.progress {
                Progress::add(&progress.bytes_moved, bytes.len() as u64);
            }
            // The store's bytes are ours alone most of the time; then they are opened where they are.
            let mut bytes = bytes.try_into_mut().map_or_else(|shared| shared.to_vec(), |own| own.into());
            let mut opened = Vec::with_capacity(places.len());
            for place in places {
                let at = (place.offset - first.offset) as usize;
                let sealed = bytes
                    .get_mut(at..at + place.stored as usize)
                    .ok_or_else(|| VaultError::corrupt(&key, "it is cut short"))?;
                let clear = self.org.keys.open_chunk(&place.id, place.len as usize, sealed);
                opened.push(
                    clear.map_err(|problem| VaultError::corrupt(&key, format!("{problem} (at {})", place.offset)))?,
                );
            }
            Ok(opened)
        })
    }

    /// One chunk in clear; bundles and their like are kept for a while.
    pub(crate) fn piece(&self, piece: &Piece) -> Result<Vec<u8>> {
        self.at_place(&piece.id, |place| {
            let stretch = self.stretch(&place)?;
            self.part(&place, piece, &stretch)
        })
    }

    /// The part of an opened stretch that is `piece`, checked.
    pub(crate) fn part(&self, place: &Place, piece: &Piece, stretch: &[u8]) -> Result<Vec<u8>> {
        let damaged = |problem| VaultError::corrupt(ObjectKey::Pack(self.org.id, place.pack).to_string(), problem);
        let bytes = match place.part {
            None => stretch,
            Some((at, len)) => {
                let part = stretch.get(at as usize..at as usize + len as usize);
                let part = part.ok_or_else(|| damaged("a part lies outside its bundle"))?;
                if self.org.keys.name(part) != piece.id {
                    return Err(damaged("a part does not have its hash"));
                }
                part
            }
        };
        if bytes.len() != piece.len as usize {
            return Err(damaged("a chunk has another length than its manifest says"));
        }
        Ok(bytes.to_vec())
    }

    fn stretch(&self, place: &Place) -> Result<Arc<Vec<u8>>> {
        let key = (place.pack, place.offset);
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = recent().stretches.iter().find(|(have, _)| *have == key) {
            return Ok(bytes.clone());
        }
        let opened = self.run(&[*place])?.pop().ok_or(VaultError::Broken("a chunk was read and is not there"))?;
        let opened = Arc::new(opened);
        let mut recent = recent();
        recent.bytes += opened.len();
        recent.stretches.push_front((key, opened.clone()));
        while recent.bytes > CACHE
            && let Some((_, old)) = recent.stretches.pop_back()
        {
            recent.bytes -= old.len();
        }
        Ok(opened)
    }

    /// A directory, with its hash recomputed.
    pub(crate) fn node(&self, from: &NodeRef) -> Result<Node> {
        let mut bytes = Vec::new();
        for piece in &from.pieces {
            bytes.extend(self.piece(piece)?);
        }
        // Every chunk was what its name says: what is wrong here was written wrong.
        let object = || from.pieces.first().map_or_else(String::new, |piece| self.object_of(&piece.id));
        let node = codec::decode(&bytes).map_err(|e| VaultError::corrupt(object(), format!("a directory {e}")))?;
        if hash::node_hash(&node).0 != from.hash {
            return Err(VaultError::corrupt(object(), "a directory does not have its hash"));
        }
        Ok(node)
    }

    /// The key of the object that a chunk lies in, for messages.
    pub(crate) fn object_of(&self, id: &ChunkId) -> String {
        let place = self.org.index().find(id);
        place.map_or_else(String::new, |place| ObjectKey::Pack(self.org.id, place.pack).to_string())
    }
}
