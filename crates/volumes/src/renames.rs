//! Which of the files that came are files that went, at another path.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;

use forkpoint_domain::diff::Rename;

use crate::error::{At, Result};
use crate::look::{Looker, Place};
use crate::tree::Source;
use crate::tree::dir::{FileKind, Metadata};

/// The most files that are looked at; beyond, none is taken for moved.
const MAX_CANDIDATES: usize = 10_000;

/// The most bytes that are read to find out; files beyond are not taken for moved.
const MAX_READ: u64 = 256 * 1024 * 1024;

type Digest = [u8; 32];

/// Files that are in one tree only, with their sizes. Empty files are all alike and stay out of it.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    added: Vec<(Vec<u8>, u64)>,
    removed: Vec<(Vec<u8>, u64)>,
}

impl Moved {
    pub(crate) fn added(&mut self, path: &[u8], meta: &Metadata) {
        keep(&mut self.added, path, meta);
    }

    pub(crate) fn removed(&mut self, path: &[u8], meta: &Metadata) {
        keep(&mut self.removed, path, meta);
    }
}

fn keep(list: &mut Vec<(Vec<u8>, u64)>, path: &[u8], meta: &Metadata) {
    if meta.kind == FileKind::File && meta.size > 0 {
        list.push((path.to_vec(), meta.size));
    }
}

/// Pairs files of equal content: of several, those of the same name first, then in the order of their paths.
pub(crate) fn find(moved: Moved, a: &Source<'_>, b: &Source<'_>) -> Result<Vec<Rename>> {
    let sizes = |list: &[(Vec<u8>, u64)]| list.iter().map(|(_, size)| *size).collect::<std::collections::HashSet<_>>();
    let (went, came) = (sizes(&moved.removed), sizes(&moved.added));
    let with = |list: Vec<(Vec<u8>, u64)>, other: &std::collections::HashSet<u64>| {
        let mut kept: Vec<_> = list.into_iter().filter(|(_, size)| other.contains(size)).collect();
        kept.sort_unstable();
        kept
    };
    let (removed, added) = (with(moved.removed, &came), with(moved.added, &went));
    if added.is_empty() || added.len() + removed.len() > MAX_CANDIDATES {
        return Ok(Vec::new());
    }
    // Where a layer is stored, its digests are the ones that both sides are looked at by.
    let stored = a.stored().or(b.stored());
    let mut left = MAX_READ;
    let mut hash = |file: &File, size: u64| -> Result<Option<Digest>> {
        if size > left {
            return Ok(None);
        }
        left -= size;
        match stored {
            Some(layer) => Ok(Some(layer.digest(file, size)?)),
            None => plain_digest(file, size).at("read", std::path::Path::new("a moved file")).map(Some),
        }
    };
    let mut gone: HashMap<(u64, Digest), BTreeMap<Vec<u8>, ()>> = HashMap::new();
    let mut looker = Looker::new(a);
    for (path, size) in removed {
        if let Some(digest) = digest(&mut looker, &path, size, &mut hash)? {
            gone.entry((size, digest)).or_default().insert(path, ());
        }
    }
    let mut looker = Looker::new(b);
    let mut renamed = Vec::new();
    for (to, size) in added {
        let Some(digest) = digest(&mut looker, &to, size, &mut hash)? else { continue };
        let Some(paths) = gone.get_mut(&(size, digest)) else { continue };
        let same_name = paths.keys().find(|path| base(path) == base(&to)).cloned();
        if let Some(from) = same_name.or_else(|| paths.keys().next().cloned()) {
            paths.remove(&from);
            renamed.push(Rename { from, to, size });
        }
    }
    Ok(renamed)
}

fn digest(
    looker: &mut Looker<'_>,
    path: &[u8],
    size: u64,
    hash: &mut dyn FnMut(&File, u64) -> Result<Option<Digest>>,
) -> Result<Option<Digest>> {
    match looker.file(path)? {
        Some((_, Place::Stored { digest, .. })) => Ok(Some(digest)),
        Some((meta, Place::Here(file))) if meta.size == size => hash(&file, size),
        _ => Ok(None),
    }
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn plain_digest(file: &File, size: u64) -> std::io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(size))?;
    Ok(*hasher.finalize().as_bytes())
}
