//! Single files of a tree by their paths, wherever the tree's layer is.

use std::fs::File;
use std::io::Read;

use forkpoint_domain::stored::{StoredKey, StoredKind};

use crate::error::{At, Result};
use crate::tree::dir::{FileKind, Metadata};
use crate::tree::place;
use crate::tree::{MAX_PATH, Source};

/// Where the content of a file is.
#[derive(Debug)]
pub(crate) enum Place {
    Here(File),
    Stored { digest: [u8; 32], key: StoredKey },
}

/// Finds files by path; quick where paths come sorted. Nothing is followed, and nothing but regular
/// files is opened.
#[derive(Debug)]
pub(crate) struct Looker<'a> {
    source: &'a Source<'a>,
    /// The directory of the path before.
    last: Option<(Vec<u8>, place::Place)>,
}

impl<'a> Looker<'a> {
    pub(crate) fn new(source: &'a Source<'a>) -> Self {
        Self { source, last: None }
    }

    /// The regular file at an absolute path; `None`: there is none.
    pub(crate) fn file(&mut self, path: &[u8]) -> Result<Option<(Metadata, Place)>> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return Ok(None) };
        let (dir, name) = (&path[..slash], &path[slash + 1..]);
        if path.len() > MAX_PATH || path.contains(&0) {
            return Ok(None);
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != dir) {
            let mut place = place::Place::root_of(self.source)?;
            for part in dir.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
                if part == b"." || part == b".." || !place.is_visible() {
                    return Ok(None);
                }
                place = place.child(part, dir)?;
            }
            self.last = Some((dir.to_vec(), place));
        }
        let Some((_, place)) = &self.last else { return Ok(None) };
        if name.is_empty() || name == b"." || name == b".." {
            return Ok(None);
        }
        let Some(item) = place.visible(name, path)?.filter(|item| item.meta.kind == FileKind::File) else {
            return Ok(None);
        };
        let found = match (place.on(item.side), place.entry(name).map(|entry| &entry.kind)) {
            (Some(dir), _) => Place::Here(dir.open_file(name, &item.meta).inside("open", path)?),
            (None, Some(StoredKind::File { digest, key, .. })) => Place::Stored { digest: *digest, key: key.clone() },
            (None, _) => return Ok(None),
        };
        Ok(Some((item.meta, found)))
    }
}

/// A regular file, and its content unless it is larger than was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub size: u64,
    pub content: Option<Vec<u8>>,
}

/// Reads the regular files at these absolute paths, as far as they have at most `limit` bytes;
/// `None` where there is no regular file.
pub fn read_files<'a>(source: impl Into<Source<'a>>, paths: &[Vec<u8>], limit: u64) -> Result<Vec<Option<Found>>> {
    let source = source.into();
    let mut looker = Looker::new(&source);
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let Some((meta, place)) = looker.file(path)? else {
            found.push(None);
            continue;
        };
        let content = match place {
            _ if meta.size > limit => None,
            Place::Here(file) => {
                let mut content = Vec::new();
                file.take(meta.size).read_to_end(&mut content).inside("read", path)?;
                Some(content)
            }
            Place::Stored { key, .. } => match source.stored() {
                Some(layer) => Some(layer.content(&key)?),
                None => None,
            },
        };
        found.push(Some(Found { size: meta.size, content }));
    }
    Ok(found)
}
