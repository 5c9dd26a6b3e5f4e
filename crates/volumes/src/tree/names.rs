//! Listings: the names in up to three directories, in one sorted run without an allocation each.

use std::mem::MaybeUninit;

use forkpoint_domain::stored::{StoredDirectory, StoredKind};
use rustix::fs::{FileType, RawDir, SeekFrom};

use super::MAX_ENTRIES;
use super::dir::Dir;
use crate::error::{At, Error, Result, sandbox_path};

/// In which directories of a place a name was met.
pub(crate) const IN_UPPER: u8 = 1;
pub(crate) const IN_LOWER: u8 = 2;
pub(crate) const IN_BASE: u8 = 4;

/// A name and where it was met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) bytes: &'a [u8],
    /// `IN_…` bits of the listings that have it.
    pub(crate) seen: u8,
    /// The type in the topmost listing that has it; unknown where the file system does not say.
    pub(crate) kind: FileType,
    /// The inode number in that listing; of a mount point the covered directory's.
    pub(crate) inode: u64,
}

impl Name<'_> {
    pub(crate) fn in_upper(&self) -> bool {
        self.seen & IN_UPPER != 0
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    start: u32,
    len: u16,
    seen: u8,
    kind: FileType,
    inode: u64,
}

/// The names of one merged directory, sorted by bytes.
#[derive(Debug, Default)]
pub(crate) struct Names {
    arena: Vec<u8>,
    slots: Vec<Slot>,
    sources: u32,
}

impl Names {
    /// Adds the names of one more directory. Add the topmost first; `path` is for messages.
    pub(crate) fn add(&mut self, dir: &Dir, bit: u8, path: &[u8]) -> Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        rustix::fs::seek(dir, SeekFrom::Start(0)).inside("list", path)?;
        let mut raw = RawDir::new(dir, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry.inside("list", path)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let too_many = || Error::TooManyEntries { path: sandbox_path(path), limit: MAX_ENTRIES };
            if self.slots.len() as u64 >= MAX_ENTRIES {
                return Err(too_many());
            }
            let start = u32::try_from(self.arena.len()).map_err(|_| too_many())?;
            let len = u16::try_from(name.len()).map_err(|_| too_many())?;
            self.arena.extend_from_slice(name);
            self.slots.push(Slot { start, len, seen: bit, kind: entry.file_type(), inode: entry.ino() });
        }
        self.sources += 1;
        Ok(())
    }

    /// Adds the names of a directory of a stored layer, as the topmost.
    pub(crate) fn add_stored(&mut self, dir: &StoredDirectory, bit: u8, path: &[u8]) -> Result<()> {
        let too_many = || Error::TooManyEntries { path: sandbox_path(path), limit: MAX_ENTRIES };
        if dir.entries.len() as u64 > MAX_ENTRIES {
            return Err(too_many());
        }
        for entry in &dir.entries {
            let kind = match entry.kind {
                StoredKind::Directory { .. } => FileType::Directory,
                StoredKind::File { .. } => FileType::RegularFile,
                StoredKind::Symlink { .. } => FileType::Symlink,
                StoredKind::Fifo => FileType::Fifo,
                StoredKind::Whiteout => FileType::CharacterDevice,
            };
            let start = u32::try_from(self.arena.len()).map_err(|_| too_many())?;
            let len = u16::try_from(entry.name.len()).map_err(|_| too_many())?;
            self.arena.extend_from_slice(&entry.name);
            self.slots.push(Slot { start, len, seen: bit, kind, inode: 0 });
        }
        self.sources += 1;
        Ok(())
    }

    /// Sorts and makes one entry of each name. Call once, after the last `add`.
    pub(crate) fn settle(mut self) -> Self {
        let arena = &self.arena;
        let bytes = |s: &Slot| &arena[s.start as usize..s.start as usize + usize::from(s.len)];
        // The lowest bit is the topmost directory.
        self.slots.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)).then(a.seen.cmp(&b.seen)));
        if self.sources > 1 {
            self.slots.dedup_by(|next, kept| {
                let same = bytes(next) == bytes(kept);
                if same {
                    kept.seen |= next.seen;
                }
                same
            });
        }
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Name<'_>> {
        self.slots.iter().map(|s| Name {
            bytes: &self.arena[s.start as usize..s.start as usize + usize::from(s.len)],
            seen: s.seen,
            kind: s.kind,
            inode: s.inode,
        })
    }
}

/// Both runs in step: each name once, with what either side knows of it.
pub(crate) fn in_step<'a>(
    a: &'a Names,
    b: &'a Names,
) -> impl Iterator<Item = (&'a [u8], Option<Name<'a>>, Option<Name<'a>>)> {
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(l), Some(r)) => l.bytes.cmp(r.bytes),
        };
        let l = if order.is_le() { left.next() } else { None };
        let r = if order.is_ge() { right.next() } else { None };
        l.or(r).map(|name| (name.bytes, l, r))
    })
}
