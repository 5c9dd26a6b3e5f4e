//! Stores a layer: looks at every name, reads what changed, sends what is unknown, and records it last.

use crate::{
    Vault, VaultError,
    cut::{self, Cut, CutError},
    error::Result,
    fetch::Fetcher,
    files::{self, Root, join},
    hints::{Hints, path_key},
    object_keys::{ObjectKey, SnapshotRef},
    pack::Stream,
    record::{self, Header, Stored},
    scan::{self, Found, FoundKind, Scan},
    session::{Progress, Session},
    sink::{Bundler, Sink, with_sink},
    store::Keep,
    tree::{Body, Content, Entry, Leaf, LeafKind, Node, NodeRef, RootHash, codec, content::BLOCK, hash},
    vault::Inner,
};
use forkpoint_engine::failpoint::{Point, pass};
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Files from this size on are a piece of work of their own.
const LARGE: u64 = 1 << 20;
/// Small files are taken in batches of about this many bytes and at most this many files.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_FILES: usize = 128;
/// The kernel stamps files with a clock that stands still for up to some milliseconds.
const CLOCK_STEP: Duration = Duration::from_millis(200);

/// What is to be stored.
#[derive(Debug, Clone)]
pub struct PersistJob {
    /// The layer: a directory on this machine that nothing changes meanwhile.
    pub tree: PathBuf,
    /// What to keep with it; names it, too.
    pub header: Header,
    /// A stored checkpoint that this one probably resembles: its files are not read again where this machine
    /// remembers them. It must be of the same organisation; if it is gone, all is read.
    pub parent: Option<SnapshotRef>,
    /// A moment that is certainly *not after* the capture of the layer. Files changed shortly before it, or later,
    /// will be read again next time, for a later change might bear the same time stamp. Too early costs reading;
    /// too late can miss a change.
    pub captured_after: Timestamp,
    /// Relative paths of files that are cut at fixed distances: memory images.
    pub images: Vec<PathBuf>,
    /// How far it is; also the way to stop it.
    pub progress: Arc<Progress>,
}

/// What storing a layer took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persisted {
    /// The hash of its tree.
    pub root: RootHash,
    /// Files, links and other leaves.
    pub entries: u64,
    /// Leaves taken over from the parent without reading them.
    pub entries_reused: u64,
    /// Bytes of its files without zero blocks, hard links once.
    pub bytes_total: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Bytes written to the store: packs as they are stored.
    pub bytes_sent: u64,
    /// Chunks that were unknown.
    pub chunks_new: u64,
    /// Chunks that the organisation had already.
    pub chunks_known: u64,
    /// Packs written.
    pub packs: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Vault {
    /// Stores a layer and its header. When this returns, all of it is written and synced in the store, but not
    /// read back: see [`Vault::verify`]. After a failure, or a crash, nothing counts as stored; it can be tried
    /// again under the same name, and unneeded packs go with a later collection.
    pub fn persist(&self, job: &PersistJob) -> Result<Persisted> {
        let (began, vault) = (Instant::now(), &*self.0);
        let name = job.header.name();
        let org = vault.org_or_new(name.org)?;
        let session = Session::begin(vault, org)?;
        let root = Root::open(&job.tree)?;
        let scan = scan::scan(&root)?;
        job.progress.files_total.store(scan.entries, Ordering::Relaxed);
        let mut work = Work::new(vault, &session, job, &root, &scan);
        work.reuse_parent()?;
        let read = AtomicUsize::new(0);
        let ((top, bytes_total), sent) = with_sink(&session, &job.progress, |sink| {
            work.read_all(sink, &read)?;
            work.write_directories(sink)
        })?;
        let stored = Stored {
            header: job.header.clone(),
            root: RootHash(top.hash),
            entries: work.leaves,
            bytes: bytes_total,
            stored_at: Timestamp::now(),
        };
        session.check()?;
        job.progress.go_on()?;
        let bytes = record::seal(&session.org.keys, &stored, &top.pieces)?;
        vault.store.put(&ObjectKey::Record(name).to_string(), bytes.into(), Keep::Always)?;
        pass(Point::VaultRecorded);
        if let Some(cache) = &vault.cache {
            remember(&scan, stored.root, job.captured_after).save(cache, name);
        }
        Ok(Persisted {
            root: stored.root,
            entries: work.leaves,
            entries_reused: work.reused,
            bytes_total,
            bytes_read: read.into_inner() as u64,
            bytes_sent: sent.bytes.into_inner(),
            chunks_new: sent.chunks_new.into_inner(),
            chunks_known: sent.chunks_known.into_inner(),
            packs: sent.packs.into_inner(),
            duration: began.elapsed(),
        })
    }
}

/// The stamps that are safe to rely on next time.
fn remember(scan: &Scan, root: RootHash, captured_after: Timestamp) -> Hints {
    let limit = captured_after.saturating_sub(CLOCK_STEP).unwrap_or(Timestamp::MIN);
    let limit = (limit.as_second(), limit.subsec_nanosecond().max(0) as u32);
    let mut stamps = HashMap::with_capacity(scan.entries as usize);
    for directory in &scan.directories {
        for entry in &directory.entries {
            if !matches!(entry.kind, FoundKind::Directory(_)) && entry.stamp.ctime < limit {
                stamps.insert(path_key(&directory.path, &entry.name), entry.stamp);
            }
        }
    }
    Hints { root, stamps }
}

/// A leaf that has to be looked into: directory and entry.
type Task = Vec<(usize, usize)>;

struct Work<'a> {
    vault: &'a Inner,
    session: &'a Session<'a>,
    job: &'a PersistJob,
    root: &'a Root,
    scan: &'a Scan,
    images: HashSet<Vec<u8>>,
    /// For each directory, its leaves as far as they are known.
    known: Vec<Mutex<Vec<Option<Leaf>>>>,
    leaves: u64,
    reused: u64,
}

impl<'a> Work<'a> {
    fn new(vault: &'a Inner, session: &'a Session<'a>, job: &'a PersistJob, root: &'a Root, scan: &'a Scan) -> Self {
        let known = scan.directories.iter().map(|directory| Mutex::new(vec![None; directory.entries.len()])).collect();
        let leaves = scan.entries - (scan.directories.len() as u64 - 1);
        let images = job.images.iter().map(|path| path.as_os_str().as_encoded_bytes().to_vec()).collect();
        Self { vault, session, job, root, scan, images, known, leaves, reused: 0 }
    }

    /// Takes over from the parent what has not changed.
    fn reuse_parent(&mut self) -> Result<()> {
        let Some((parent, cache)) = self.job.parent.zip(self.vault.cache.as_ref()) else { return Ok(()) };
        let Some(hints) = Hints::load(cache, parent).filter(|_| parent.org == self.job.header.org) else {
            return Ok(());
        };
        let org = &*self.session.org;
        let top = match self.vault.record(org, parent) {
            Ok((stored, top)) if stored.root == hints.root => top,
            // It only would have saved work.
            Ok(_) | Err(VaultError::NotFound(_)) => return Ok(()),
            Err(error) => {
                tracing::warn!(parent = %parent, %error, "parent is not used");
                return Ok(());
            }
        };
        let fetcher = Fetcher::new(self.vault, org, Some(&self.job.progress));
        let mut parents: Vec<Option<NodeRef>> = vec![None; self.scan.directories.len()];
        parents[0] = Some(top);
        for (number, directory) in self.scan.directories.iter().enumerate() {
            self.job.progress.go_on()?;
            let Some(from) = parents[number].take() else { continue };
            let node = match fetcher.node(&from) {
                Ok(node) => node,
                Err(error) => {
                    // Its files are read again and stored anew; checking the parent is another's work.
                    tracing::warn!(parent = %parent, %error, "a directory of the parent is not used");
                    continue;
                }
            };
            let mut known = self.known[number].lock().unwrap_or_else(PoisonError::into_inner);
            let mut old = node.entries.into_iter().peekable();
            for (at, found) in directory.entries.iter().enumerate() {
                while old.next_if(|entry| *entry.name < *found.name).is_some() {}
                let Some(entry) = old.next_if(|entry| *entry.name == *found.name) else { continue };
                match (entry.body, found.kind) {
                    (Body::Directory(node), FoundKind::Directory(child)) => parents[child as usize] = Some(node),
                    (Body::Leaf(leaf), kind) if !matches!(kind, FoundKind::Directory(_)) => {
                        let same = hints.stamps.get(&path_key(&directory.path, &found.name)) == Some(&found.stamp);
                        if same && kind_of(&leaf.kind) == kind && self.rely_on(&leaf) {
                            known[at] = Some(Leaf { link: found.link, ..leaf });
                            self.reused += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
        Progress::add(&self.job.progress.files_done, self.reused);
        Ok(())
    }

    /// Whether every chunk of a leaf is in the store and stays there while we write.
    fn rely_on(&self, leaf: &Leaf) -> bool {
        let (mut index, mut held) = (self.session.org.index(), self.session.held());
        leaf.pieces().all(|piece| index.rely_on(&piece.id, &mut held).is_some())
    }

    /// Looks into all leaves that are not known, by several threads.
    fn read_all(&self, sink: &Sink<'_, '_>, read: &AtomicUsize) -> Result<()> {
        let tasks = self.tasks();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..self.vault.threads.min(tasks.len()))
                .map(|_| {
                    scope.spawn(|| {
                        let mut reader = LeafReader {
                            work: self,
                            sink,
                            bundler: Bundler::new(sink, Stream::Data),
                            buffer: Vec::new(),
                            read,
                        };
                        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                            reader.read(task)?;
                        }
                        reader.bundler.flush()
                    })
                })
                .collect();
            // All are waited for; the first failure stops the others through the sink or the end of tasks.
            let mut outcome = Ok(());
            for thread in working {
                let ended = thread.join().unwrap_or(Err(VaultError::Broken("a thread that reads files panicked")));
                if ended.is_err() {
                    // The others see no more tasks.
                    next.store(tasks.len(), Ordering::Relaxed);
                }
                outcome = outcome.and(ended);
            }
            outcome
        })
    }

    /// What there is to do: large files one by one and first, the others in batches in the order of the walk.
    /// Of several names of one file, the first.
    fn tasks(&self) -> Vec<Task> {
        let (mut large, mut small, mut batch, mut bytes): (Vec<Task>, Vec<Task>, Task, u64) = Default::default();
        let mut linked: HashSet<[u8; 16]> = HashSet::new();
        let mut total = 0;
        for (number, directory) in self.scan.directories.iter().enumerate() {
            let known = self.known[number].lock().unwrap_or_else(PoisonError::into_inner);
            for (at, found) in directory.entries.iter().enumerate() {
                let leaf = !matches!(found.kind, FoundKind::Directory(_)) && known[at].is_none();
                if !leaf || found.link.is_some_and(|link| !linked.insert(link)) {
                    continue;
                }
                let size = if found.kind == FoundKind::File { found.stamp.size } else { 0 };
                total += size;
                if size >= LARGE {
                    large.push(vec![(number, at)]);
                    continue;
                }
                batch.push((number, at));
                bytes += size;
                if bytes >= BATCH_BYTES || batch.len() >= BATCH_FILES {
                    small.push(std::mem::take(&mut batch));
                    bytes = 0;
                }
            }
        }
        small.push(batch);
        self.job.progress.bytes_total.store(total, Ordering::Relaxed);
        large.extend(small);
        large
    }

    /// Writes the directories, deepest first, and answers the top one and the bytes of all files.
    fn write_directories(&self, sink: &Sink<'_, '_>) -> Result<(NodeRef, u64)> {
        let mut bundler = Bundler::new(sink, Stream::Tree);
        let mut written: Vec<NodeRef> = vec![NodeRef::default(); self.scan.directories.len()];
        let firsts = self.first_names();
        let mut bytes_total = 0u64;
        // A directory comes after its parent in the walk.
        for (number, directory) in self.scan.directories.iter().enumerate().rev() {
            sink.go_on()?;
            let mut known = std::mem::take(&mut *self.known[number].lock().unwrap_or_else(PoisonError::into_inner));
            let mut entries = Vec::with_capacity(directory.entries.len());
            for (at, found) in directory.entries.iter().enumerate() {
                let body = match found.kind {
                    FoundKind::Directory(child) => Body::Directory(std::mem::take(&mut written[child as usize])),
                    _ => {
                        let first = found.link.and_then(|link| firsts.get(&link));
                        let mut leaf = known[at].take();
                        if let Some((first_place, shared)) = first {
                            leaf = Some(shared.clone());
                            if *first_place == (number, at) {
                                bytes_total += content_bytes(shared);
                            }
                        }
                        let leaf = leaf.ok_or(VaultError::Broken("a file was not read"))?;
                        if first.is_none() {
                            bytes_total += content_bytes(&leaf);
                        }
                        Body::Leaf(leaf)
                    }
                };
                entries.push(Entry { name: found.name.to_vec(), body });
            }
            let node = Node { meta: directory.meta.clone(), entries };
            let bytes = codec::encode(&node);
            if bytes.len() > codec::MAX_NODE {
                return Err(VaultError::tree(
                    &directory.path,
                    format!("has names and attributes of over {} bytes", codec::MAX_NODE),
                ));
            }
            let pieces = match bytes.len() <= BLOCK {
                true => vec![bundler.part(&bytes)?],
                false => cut::bytes(&bytes, self.session.org.keys.cut(), &mut |clear| sink.chunk(Stream::Tree, clear))?,
            };
            written[number] = NodeRef { hash: hash::node_hash(&node).0, pieces };
        }
        bundler.flush()?;
        Ok((std::mem::take(&mut written[0]), bytes_total))
    }

    /// The leaf of each file with several names: where it was read or taken over.
    fn first_names(&self) -> HashMap<[u8; 16], ((usize, usize), Leaf)> {
        let mut firsts: HashMap<[u8; 16], ((usize, usize), Leaf)> = HashMap::new();
        for (number, directory) in self.scan.directories.iter().enumerate() {
            for (at, found) in directory.entries.iter().enumerate() {
                let Some(link) = found.link else { continue };
                let known = self.known[number].lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(leaf) = &known[at] {
                    firsts.entry(link).or_insert_with(|| ((number, at), leaf.clone()));
                }
            }
        }
        firsts
    }
}

fn kind_of(kind: &LeafKind) -> FoundKind {
    match kind {
        LeafKind::File(_) => FoundKind::File,
        LeafKind::Symlink(_) => FoundKind::Symlink,
        LeafKind::Fifo => FoundKind::Fifo,
        LeafKind::Whiteout => FoundKind::Whiteout,
    }
}

fn content_bytes(leaf: &Leaf) -> u64 {
    leaf.pieces().map(|piece| u64::from(piece.len)).sum()
}

/// One thread's means of reading leaves.
struct LeafReader<'w, 'a, 's, 'v> {
    work: &'w Work<'a>,
    sink: &'w Sink<'s, 'v>,
    bundler: Bundler<'w, 's, 'v>,
    buffer: Vec<u8>,
    read: &'w AtomicUsize,
}

impl LeafReader<'_, '_, '_, '_> {
    fn read(&mut self, task: &Task) -> Result<()> {
        let mut open: Option<(usize, std::os::fd::OwnedFd)> = None;
        for &(number, at) in task {
            self.sink.go_on()?;
            let directory = &self.work.scan.directories[number];
            if open.as_ref().is_none_or(|(have, _)| *have != number) {
                open = Some((number, self.work.root.directory(&directory.path)?));
            }
            let Some((_, fd)) = &open else { continue };
            let found = &directory.entries[at];
            let leaf = self.leaf(fd.as_fd(), &directory.path, found)?;
            self.work.known[number].lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(leaf);
            Progress::add(&self.work.job.progress.files_done, 1);
        }
        Ok(())
    }

    fn leaf(&mut self, folder: std::os::fd::BorrowedFd<'_>, path: &[u8], found: &Found) -> Result<Leaf> {
        let failed = |action, e: rustix::io::Errno| match e {
            rustix::io::Errno::STALE | rustix::io::Errno::NOENT => {
                VaultError::tree(join(path, &found.name), "was changed while it was being stored")
            }
            e => VaultError::files(action, join(path, &found.name), e),
        };
        let (kind, xattrs) = match found.kind {
            FoundKind::File => {
                let file = files::open_file(folder, &found.name, found.stamp.inode).map_err(|e| failed("open", e))?;
                let xattrs = files::xattrs(file.as_fd()).map_err(|e| failed("read attributes of", e))?;
                (LeafKind::File(self.content(&file, path, found)?), xattrs)
            }
            other => {
                let xattrs = files::xattrs_of(folder, &found.name).map_err(|e| failed("read attributes of", e))?;
                let kind = match other {
                    FoundKind::Symlink => {
                        let target = rustix::fs::readlinkat(folder, &*found.name, Vec::new());
                        LeafKind::Symlink(target.map_err(|e| failed("read link", e))?.into_bytes())
                    }
                    FoundKind::Fifo => LeafKind::Fifo,
                    _ => LeafKind::Whiteout,
                };
                (kind, xattrs)
            }
        };
        Ok(Leaf { meta: found.meta(xattrs), link: found.link, kind })
    }

    fn content(&mut self, file: &std::fs::File, path: &[u8], found: &Found) -> Result<Content> {
        let size = found.stamp.size;
        let image = !self.work.images.is_empty() && self.work.images.contains(&join(path, &found.name));
        let (sink, bundler) = (self.sink, &mut self.bundler);
        let done = &self.work.job.progress.bytes_done;
        let read = self.read;
        let cut = if image { Cut::Fixed } else { sink.session.org.keys.cut() };
        let content = cut::read(file, size, cut, &mut self.buffer, &mut |clear| {
            Progress::add(done, clear.len() as u64);
            read.fetch_add(clear.len(), Ordering::Relaxed);
            if size <= BLOCK as u64 { bundler.part(clear) } else { sink.chunk(Stream::Data, clear) }
        });
        // A layer is never stored with a file that grew or shrank under the reader.
        let whole = rustix::fs::fstat(file).is_ok_and(|stat| stat.st_size as u64 == size);
        match content {
            Ok(content) if whole => Ok(content),
            Err(CutError::Take(error)) => Err(error),
            Err(CutError::Read(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                Err(VaultError::files("read", join(path, &found.name), error))
            }
            _ => Err(VaultError::tree(join(path, &found.name), "was changed while it was being stored")),
        }
    }
}
