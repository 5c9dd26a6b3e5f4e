//! What a store holds that nobody will use: unfinished imports, and cached trees of former recipes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{TemplateStore, directory_names};
use crate::lock::Lock;
use crate::manifest::{Manifest, is_digest};
use crate::name::TemplateName;
use crate::recipe::Recipe;
use crate::staging::PREFIX;
use crate::{Error, Result};

/// Something that nobody will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// `unfinished template` or `cached template`.
    pub kind: &'static str,
    /// The directory.
    pub path: PathBuf,
    /// Bytes on disk that removing it gives back: files with other names elsewhere count nothing.
    pub bytes: u64,
}

impl TemplateStore {
    /// Finds, and unless `dry_run` removes, what killed builds and imports left and what is cached of recipes that are
    /// no longer this program's. What somebody is at work on is passed over.
    ///
    /// # Errors
    /// [`Error::Io`], and those of reading the host's package sources.
    pub fn clean(&self, dry_run: bool) -> Result<Vec<Stale>> {
        let current = Recipe::standard(&self.apt.identity()?);
        let mut found = Vec::new();
        for (folder, is_cache) in [(&self.data, false), (&self.cache, true)] {
            for name in directory_names(folder)? {
                let directory = folder.join(&name);
                if name.parse::<TemplateName>().is_err() || !directory.is_dir() {
                    continue;
                }
                let Some(_lock) = Lock::try_take(&directory)? else { continue };
                for entry in directory_names(&directory)? {
                    let path = directory.join(&entry);
                    let former = is_cache && name == current.name && entry != current.digest;
                    let kind = if entry.starts_with(PREFIX) {
                        "unfinished template"
                    } else if !is_digest(&entry) {
                        continue;
                    } else if Manifest::read(&path).is_ok_and(|manifest| manifest.is_none()) {
                        // A removal that was cut short takes the manifest first.
                        "unfinished template"
                    } else if former {
                        "cached template"
                    } else {
                        continue;
                    };
                    let bytes = own_bytes(&path)?;
                    if !dry_run {
                        tracing::info!(path = %path.display(), bytes, kind, "removing what nobody will use");
                        super::discard(&directory, &path)?;
                    }
                    found.push(Stale { kind, path, bytes });
                }
            }
        }
        Ok(found)
    }
}

/// Bytes on disk of what has no other name elsewhere.
fn own_bytes(root: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Somebody else's cleaning up, or a path longer than can be named: what is below is not counted.
            Err(_) if folder != root => continue,
            Err(e) => return Err(Error::io("list", &folder)(e)),
        };
        for entry in entries.flatten() {
            let Ok(stat) = entry.metadata() else { continue };
            if stat.is_dir() {
                folders.push(entry.path());
            } else if stat.nlink() == 1 {
                bytes += stat.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}
