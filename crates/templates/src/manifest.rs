//! `template.json`: what a template is, written last, so that its presence means that the tree is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// File name beside `rootfs`.
pub(crate) const FILE: &str = "template.json";

/// The only format there is so far; another number means a newer program wrote it.
const FORMAT: u32 = 1;

/// Description of one template's tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this file, 1.
    pub format: u32,
    /// Template name.
    pub name: String,
    /// Digest of the contents: first 32 hex digits of a BLAKE3 over every path, type, mode, owner and content; for
    /// one that belongs to an organisation, of a BLAKE3 over the organisation and that (and user and services, where
    /// there are any).
    pub digest: String,
    /// Digest of the recipe that it was made by, 32 hex digits; empty if it was imported or published otherwise.
    pub recipe: String,
    /// Distribution release, such as `bookworm`; empty if unknown.
    pub release: String,
    /// Entries that are not directories.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Sum of the sizes of regular files, hard-linked ones once.
    pub bytes: u64,
    /// When it was built, seconds since 1970. Later versions of one template have later times.
    pub built_at: u64,
    /// What else is known of it.
    #[serde(default)]
    pub details: Details,
}

/// What people and programs are told of a template, and whose it is. Everything may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The organisation that alone sees it, as its id is written; none: everybody does, since the operator made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it is for.
    pub description: String,
    /// A word to look for it by.
    pub category: String,
    /// More words.
    pub tags: Vec<String>,
    /// Where it came from, for people.
    pub origin: String,
    /// Environment variables of sandboxes made from it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Such variables that may be secret, encrypted by whoever published it, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_env: Option<String>,
    /// Who commands in its sandboxes run as; none: `sandbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What runs in its sandboxes from their start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// A command that runs in a template's sandboxes from their start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, for people.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Who it runs as; none: who commands run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where it starts; none: where commands do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Variables laid over the sandbox's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Manifest {
    pub(crate) fn new(name: &str, recipe: &str, release: &str, measure: &crate::tree::Measure) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            format: FORMAT,
            name: name.to_owned(),
            digest: measure.digest.clone(),
            recipe: recipe.to_owned(),
            release: release.to_owned(),
            files: measure.files,
            directories: measure.directories,
            bytes: measure.bytes,
            built_at: now.map_or(0, |d| d.as_secs()),
            details: Details::default(),
        }
    }

    /// Reads the manifest in `dir`; `None` if there is none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io { action: "open", path, source });
            }
        };
        let mut text = String::new();
        let bad = |reason: String| Error::BadManifest { path: path.clone(), reason };
        // Variables alone may take 256 KiB, and JSON can make six of each byte.
        file.take(4 * 1024 * 1024).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("format {} is not {FORMAT}", manifest.format)));
        }
        if !is_digest(&manifest.digest) {
            return Err(bad("digest is not 32 hex digits".to_owned()));
        }
        Ok(Some(manifest))
    }

    /// Writes the manifest into `dir` so that after a crash it is there whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let beside = dir.join(".template.json.new");
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::BadManifest { path: path.clone(), reason: e.to_string() })?;
        text.push('\n');
        let mut file = File::create(&beside).map_err(Error::io("create", &beside))?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &beside))?;
        file.sync_all().map_err(Error::io("sync", &beside))?;
        fs::rename(&beside, &path).map_err(Error::io("rename to", &path))?;
        sync_dir(dir)
    }
}

/// Whether `text` is a digest as it occurs in paths here.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let file = File::open(dir).map_err(Error::io("open", dir))?;
    file.sync_all().map_err(Error::io("sync", dir))
}
