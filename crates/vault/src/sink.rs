//! Where a writer's chunks go: unknown ones are sealed, gathered into packs and uploaded, a few at a time.
//!
//! Memory is bounded: two packs being filled, one waiting, and one per uploading thread. Whoever has a full pack
//! waits for a place.

use crate::{
    VaultError,
    crypto::ChunkId,
    error::Result,
    object_keys::{ObjectKey, PackId},
    pack::{PackBuilder, Stream},
    session::{Progress, Session},
    store::Keep,
    tree::Piece,
};
use forkpoint_engine::failpoint::{Point, pass};
use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

/// A bundle is sealed once it has this many bytes in clear.
const BUNDLE: usize = 512 << 10;

/// Counts of what a writer has sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: AtomicU64,
    pub(crate) packs: AtomicU64,
    pub(crate) chunks_new: AtomicU64,
    pub(crate) chunks_known: AtomicU64,
}

/// Takes chunks.
#[derive(Debug)]
pub(crate) struct Sink<'s, 'v> {
    pub(crate) session: &'s Session<'v>,
    progress: &'s Progress,
    claimed: Mutex<HashSet<ChunkId>>,
    building: [Mutex<PackBuilder>; 2],
    /// Taken away when nothing more comes.
    full: Mutex<Option<SyncSender<PackBuilder>>>,
    failed: AtomicBool,
    failure: Mutex<Option<VaultError>>,
    pub(crate) sent: Sent,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement; a panic elsewhere fails the writer anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` with a sink; everything it gave away is durable in the store when this returns.
pub(crate) fn with_sink<T>(
    session: &Session<'_>,
    progress: &Progress,
    work: impl FnOnce(&Sink<'_, '_>) -> Result<T>,
) -> Result<(T, Sent)> {
    let (full, waiting) = sync_channel(1);
    let room = room(session);
    let sink = Sink {
        session,
        progress,
        claimed: Mutex::default(),
        building: [Stream::Data, Stream::Tree].map(|stream| Mutex::new(PackBuilder::new(stream, room))),
        full: Mutex::new(Some(full)),
        failed: AtomicBool::new(false),
        failure: Mutex::default(),
        sent: Sent::default(),
    };
    let waiting = Mutex::new(waiting);
    let value: Result<T> = std::thread::scope(|scope| {
        // The channel is closed also when `work` panics, or the threads would wait for ever.
        let _close = Close(&sink);
        for _ in 0..session.vault.store.parallelism() {
            scope.spawn(|| sink.upload_all(&waiting));
        }
        let value = work(&sink)?;
        sink.flush()?;
        Ok(value)
    });
    // The first failure of an upload says more than what followed from it.
    match lock(&sink.failure).take() {
        Some(error) => Err(error),
        None => Ok((value?, sink.sent)),
    }
}

/// A pack is closed after the chunk that fills it.
fn room(session: &Session<'_>) -> usize {
    session.vault.pack_bytes + (1 << 20)
}

struct Close<'a, 's, 'v>(&'a Sink<'s, 'v>);

impl Drop for Close<'_, '_, '_> {
    fn drop(&mut self) {
        lock(&self.0.full).take();
    }
}

impl Sink<'_, '_> {
    /// Fails if an upload has failed, the writer was stopped, or its lease is lost.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(lock(&self.failure).clone().unwrap_or(VaultError::Broken("an upload failed")));
        }
        self.progress.go_on()
    }

    /// Whether this chunk has to be stored by whoever asks; each unknown chunk is given to one asker only.
    pub(crate) fn claim(&self, id: ChunkId) -> bool {
        let known = self.session.org.index().rely_on(&id, &mut self.session.held()).is_some();
        let new = !known && lock(&self.claimed).insert(id);
        Progress::add(if new { &self.sent.chunks_new } else { &self.sent.chunks_known }, 1);
        new
    }

    /// Stores a chunk on its own, unless it is known.
    pub(crate) fn chunk(&self, stream: Stream, clear: &[u8]) -> Result<Piece> {
        self.go_on()?;
        let keys = &self.session.org.keys;
        let piece = Piece { id: keys.name(clear), len: clear.len() as u32 };
        if self.claim(piece.id) {
            let sealed = keys.seal_chunk(&piece.id, clear, self.session.vault.level)?;
            self.add(stream, piece.id, piece.len, &sealed, None)?;
        }
        Ok(piece)
    }

    /// Stores a chunk once more, although it is known somewhere else.
    pub(crate) fn copy(&self, stream: Stream, id: ChunkId, clear: &[u8]) -> Result<()> {
        self.go_on()?;
        if !lock(&self.claimed).insert(id) {
            return Ok(());
        }
        let sealed = self.session.org.keys.seal_chunk(&id, clear, self.session.vault.level)?;
        self.add(stream, id, clear.len() as u32, &sealed, None)
    }

    fn add(
        &self,
        stream: Stream,
        id: ChunkId,
        len: u32,
        sealed: &[u8],
        parts: Option<Vec<(ChunkId, u32)>>,
    ) -> Result<()> {
        let full = {
            let room = room(self.session);
            let mut building = lock(&self.building[stream as usize]);
            building.add(id, len, sealed, parts);
            let enough = building.len() >= self.session.vault.pack_bytes;
            enough.then(|| std::mem::replace(&mut *building, PackBuilder::new(stream, room)))
        };
        full.map_or(Ok(()), |pack| self.hand_over(pack))
    }

    fn hand_over(&self, pack: PackBuilder) -> Result<()> {
        let full = lock(&self.full).clone();
        match full.map(|full| full.send(pack)) {
            Some(Ok(())) => Ok(()),
            _ => Err(VaultError::Broken("the uploading threads ended")),
        }
    }

    /// Hands over what is in packs that are not full.
    fn flush(&self) -> Result<()> {
        for stream in [Stream::Data, Stream::Tree] {
            let room = 0;
            let pack = std::mem::replace(&mut *lock(&self.building[stream as usize]), PackBuilder::new(stream, room));
            if !pack.is_empty() {
                self.hand_over(pack)?;
            }
        }
        Ok(())
    }

    /// What an uploading thread does. After a failure packs are taken and dropped, so that nobody waits.
    fn upload_all(&self, waiting: &Mutex<Receiver<PackBuilder>>) {
        loop {
            let Ok(pack) = lock(waiting).recv() else { return };
            if self.failed.load(Ordering::Acquire) {
                continue;
            }
            if let Err(error) = self.upload(pack) {
                lock(&self.failure).get_or_insert(error);
                self.failed.store(true, Ordering::Release);
            }
        }
    }

    fn upload(&self, pack: PackBuilder) -> Result<()> {
        let (session, id) = (self.session, PackId::random());
        let key = ObjectKey::Pack(session.org.id, id).to_string();
        let (bytes, contents) = pack.finish(&session.org.keys, id)?;
        let size = bytes.len() as u64;
        session.vault.store.put(&key, bytes.into(), Keep::Always)?;
        pass(Point::VaultPacked);
        let mut index = session.org.index();
        index.add(id, contents);
        index.hold(id, &mut session.held());
        drop(index);
        Progress::add(&self.sent.bytes, size);
        Progress::add(&self.sent.packs, 1);
        Progress::add(&self.progress.bytes_moved, size);
        session.keep_alive()
    }
}

/// Gathers small chunks into bundles; each working thread has its own.
#[derive(Debug)]
pub(crate) struct Bundler<'a, 's, 'v> {
    sink: &'a Sink<'s, 'v>,
    stream: Stream,
    clear: Vec<u8>,
    parts: Vec<(ChunkId, u32)>,
}

impl<'a, 's, 'v> Bundler<'a, 's, 'v> {
    pub(crate) fn new(sink: &'a Sink<'s, 'v>, stream: Stream) -> Self {
        Self { sink, stream, clear: Vec::new(), parts: Vec::new() }
    }

    /// Stores a small chunk with others, unless it is known.
    pub(crate) fn part(&mut self, clear: &[u8]) -> Result<Piece> {
        self.sink.go_on()?;
        let piece = Piece { id: self.sink.session.org.keys.name(clear), len: clear.len() as u32 };
        if self.sink.claim(piece.id) {
            self.clear.extend_from_slice(clear);
            self.parts.push((piece.id, piece.len));
            if self.clear.len() >= BUNDLE {
                self.flush()?;
            }
        }
        Ok(piece)
    }

    /// Stores a small chunk once more, although it is known somewhere else; refuses one that is not what it is
    /// called.
    pub(crate) fn copy(&mut self, id: ChunkId, clear: &[u8]) -> Result<()> {
        if self.sink.session.org.keys.name(clear) != id {
            return Err(VaultError::Broken("a part does not have its hash"));
        }
        if lock(&self.sink.claimed).insert(id) {
            self.clear.extend_from_slice(clear);
            self.parts.push((id, clear.len() as u32));
            if self.clear.len() >= BUNDLE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Seals what has gathered. To be called at the end; what is dropped before is lost.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let keys = &self.sink.session.org.keys;
        let id = keys.name(&self.clear);
        let sealed = keys.seal_chunk(&id, &self.clear, self.sink.session.vault.level)?;
        let parts = std::mem::take(&mut self.parts);
        self.sink.add(self.stream, id, self.clear.len() as u32, &sealed, Some(parts))?;
        self.clear.clear();
        Ok(())
    }
}
