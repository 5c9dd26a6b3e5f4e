//! Writes a stored tree into an empty directory.

use crate::{
    Vault, VaultError,
    error::Result,
    fetch::Fetcher,
    files::{Root, apply_meta, join},
    object_keys::SnapshotRef,
    reading::{FileJob, Take, read_files},
    session::Progress,
    tree::{Body, Content, Leaf, LeafKind, Node, NodeRef, RootHash},
};
use rustix::{
    fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    fs::File,
    num::NonZeroU64,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

/// How many directories are kept open.
const OPEN: usize = 128;
/// So many bytes of a file begin to go to the disk at once: else all waits for the end, when nothing else is done.
const WRITE_OUT: u64 = 128 << 10;

/// What writing a tree took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materialized {
    /// The hash of the tree.
    pub root: RootHash,
    /// Files, links and other leaves.
    pub entries: u64,
    /// Bytes of content written, hard links once.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Vault {
    /// Writes a stored tree into the empty directory `into`, which becomes its top: owners, modes, times,
    /// attributes, hard links, holes, whiteouts. Every chunk, directory and file is checked on the way. What was
    /// written is on stable storage when this returns; after a failure the directory is empty again.
    pub fn materialize(&self, name: SnapshotRef, into: &Path, progress: &Progress) -> Result<Materialized> {
        let began = Instant::now();
        let org = self.0.org(name.org)?.ok_or(VaultError::NotFound(name))?;
        let (stored, top) = self.0.record(&org, name)?;
        let root = Root::open(into)?;
        if !is_empty(&root).map_err(|e| VaultError::files("list", into.as_os_str().as_encoded_bytes(), e))? {
            return Err(VaultError::Files {
                action: "write a tree into",
                path: into.display().to_string(),
                problem: "the directory is not empty".into(),
            });
        }
        progress.files_total.store(stored.entries, Ordering::Relaxed);
        progress.bytes_total.store(stored.bytes, Ordering::Relaxed);
        let fetcher = Fetcher::new(&self.0, &org, Some(progress));
        match write(&fetcher, &top, &root) {
            Ok(bytes) => {
                Ok(Materialized { root: stored.root, entries: stored.entries, bytes, duration: began.elapsed() })
            }
            Err(error) => {
                clear(into);
                Err(error)
            }
        }
    }
}

fn is_empty(root: &Root) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(root)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Empties a directory that could not be filled.
fn clear(into: &Path) {
    for entry in std::fs::read_dir(into).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "half-written tree was not removed");
        }
    }
}

fn write(fetcher: &Fetcher<'_>, top: &NodeRef, root: &Root) -> Result<u64> {
    let tree = Tree { directories: load(fetcher, top)?, root, open: Mutex::default() };
    tree.make_directories()?;
    let mut firsts: HashMap<[u8; 16], (usize, usize)> = HashMap::new();
    let (mut files, mut others, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (_, node)) in tree.directories.iter().enumerate() {
        for (at, entry) in node.entries.iter().enumerate() {
            let Body::Leaf(leaf) = &entry.body else { continue };
            let first = leaf.link.map(|link| *firsts.entry(link).or_insert((number, at)));
            match (&leaf.kind, first) {
                (_, Some(first)) if first != (number, at) => again.push((first, (number, at))),
                (LeafKind::File(content), _) => files.push(((number, at), content)),
                _ => others.push((number, at)),
            }
        }
    }
    let contents = Contents { tree: &tree, files: &files };
    let (empty, full): (Vec<usize>, Vec<usize>) =
        (0..files.len()).partition(|number| files[*number].1.segments.is_empty());
    empty.into_iter().try_for_each(|number| contents.done(number))?;
    let jobs: Vec<FileJob<'_>> =
        full.iter().map(|number| FileJob { number: *number, content: files[*number].1 }).collect();
    read_files(fetcher, &jobs, &contents)?;
    for place in others {
        tree.make_other(place)?;
    }
    for (first, name) in again {
        tree.link(first, name)?;
    }
    tree.finish_directories()?;
    rustix::fs::syncfs(root).map_err(|e| VaultError::files("sync", "", e))?;
    Ok(files.iter().flat_map(|(_, content)| content.pieces()).map(|piece| u64::from(piece.len)).sum())
}

/// All directories with their relative paths, parents first.
fn load(fetcher: &Fetcher<'_>, top: &NodeRef) -> Result<Vec<(Vec<u8>, Node)>> {
    let mut all = Vec::new();
    let mut pending = vec![(Vec::new(), top.clone())];
    while let Some((path, from)) = pending.pop() {
        fetcher.progress.map_or(Ok(()), Progress::go_on)?;
        let node = fetcher.node(&from)?;
        for entry in node.entries.iter().rev() {
            if let Body::Directory(child) = &entry.body {
                pending.push((join(&path, &entry.name), child.clone()));
            }
        }
        all.push((path, node));
    }
    Ok(all)
}

struct Tree<'a> {
    directories: Vec<(Vec<u8>, Node)>,
    root: &'a Root,
    open: Mutex<HashMap<usize, Arc<OwnedFd>>>,
}

impl Tree<'_> {
    fn folder(&self, number: usize) -> Result<Arc<OwnedFd>> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = open().get(&number) {
            return Ok(fd.clone());
        }
        let fd = Arc::new(self.root.directory(&self.directories[number].0)?);
        let mut open = open();
        if open.len() >= OPEN {
            open.clear();
        }
        open.insert(number, fd.clone());
        Ok(fd)
    }

    fn name(&self, (number, at): (usize, usize)) -> &[u8] {
        &self.directories[number].1.entries[at].name
    }

    fn failed(&self, action: &'static str, place: (usize, usize)) -> impl FnOnce(Errno) -> VaultError {
        let path = join(&self.directories[place.0].0, self.name(place));
        move |error| VaultError::files(action, path, error)
    }

    fn leaf(&self, (number, at): (usize, usize)) -> Result<&Leaf> {
        match &self.directories[number].1.entries[at].body {
            Body::Leaf(leaf) => Ok(leaf),
            Body::Directory(_) => Err(VaultError::Broken("a directory was taken for a file")),
        }
    }

    fn make_directories(&self) -> Result<()> {
        for (number, (_, node)) in self.directories.iter().enumerate() {
            for (at, entry) in node.entries.iter().enumerate() {
                if matches!(entry.body, Body::Directory(_)) {
                    rustix::fs::mkdirat(&*self.folder(number)?, &*entry.name, Mode::RWXU)
                        .map_err(self.failed("make directory", (number, at)))?;
                }
            }
        }
        Ok(())
    }

    fn make_other(&self, place: (usize, usize)) -> Result<()> {
        let (folder, leaf) = (self.folder(place.0)?, self.leaf(place)?);
        let name = self.name(place);
        let mode = Mode::RUSR | Mode::WUSR;
        match &leaf.kind {
            LeafKind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), &*folder, name),
            LeafKind::Fifo => rustix::fs::mknodat(&*folder, name, FileType::Fifo, mode, 0),
            LeafKind::Whiteout => rustix::fs::mknodat(&*folder, name, FileType::CharacterDevice, mode, 0),
            LeafKind::File(_) => Ok(()),
        }
        .map_err(self.failed("make", place))?;
        self.apply(place)
    }

    fn apply(&self, place: (usize, usize)) -> Result<()> {
        let (folder, leaf) = (self.folder(place.0)?, self.leaf(place)?);
        let is_link = matches!(leaf.kind, LeafKind::Symlink(_));
        apply_meta(folder.as_fd(), self.name(place), &leaf.meta, is_link)
            .map_err(self.failed("give owner and mode to", place))
    }

    fn link(&self, first: (usize, usize), name: (usize, usize)) -> Result<()> {
        let (from, to) = (self.folder(first.0)?, self.folder(name.0)?);
        rustix::fs::linkat(&*from, self.name(first), &*to, self.name(name), AtFlags::empty())
            .map_err(self.failed("link", name))
    }

    /// Last, and children first: making entries changes the times of their directory.
    fn finish_directories(&self) -> Result<()> {
        for (path, node) in self.directories.iter().rev() {
            let fd = self.root.directory(path)?;
            apply_meta(fd.as_fd(), b".", &node.meta, false)
                .map_err(|e| VaultError::files("give owner and mode to", path, e))?;
        }
        Ok(())
    }
}

/// Begins to write what is dirty of a file, and waits for nothing; a hint. What is clean by then may leave memory.
fn write_out(file: &File, offset: u64, length: Option<NonZeroU64>) {
    let _ = rustix::fs::fadvise(file, offset, length, Advice::DontNeed);
}

/// Writes contents as they come.
struct Contents<'a> {
    tree: &'a Tree<'a>,
    files: &'a [((usize, usize), &'a Content)],
}

impl Contents<'_> {
    fn open(&self, place: (usize, usize)) -> Result<File> {
        let folder = self.tree.folder(place.0)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*folder, self.tree.name(place), flags, Mode::from_raw_mode(0o600));
        Ok(fd.map_err(self.tree.failed("make file", place))?.into())
    }
}

impl Take for Contents<'_> {
    fn write(&self, number: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.files[number].0;
        let file = self.open(place)?;
        file.write_all_at(bytes, offset).map_err(|error| {
            let path = join(&self.tree.directories[place.0].0, self.tree.name(place));
            VaultError::files("write", path, error)
        })?;
        if bytes.len() as u64 >= WRITE_OUT {
            write_out(&file, offset, NonZeroU64::new(bytes.len() as u64));
        }
        Ok(())
    }

    fn done(&self, number: usize) -> Result<()> {
        let (place, content) = self.files[number];
        if content.size >= WRITE_OUT {
            write_out(&self.open(place)?, 0, None);
        }
        let last = content.segments.last();
        let end =
            last.map_or(0, |last| last.offset + last.pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>());
        if end != content.size || last.is_none() {
            let file = self.open(place)?;
            rustix::fs::ftruncate(&file, content.size).map_err(self.tree.failed("size", place))?;
        }
        self.tree.apply(place)
    }
}
