//! What this machine remembers of a layer it has stored, so that unchanged files are not read again.
//!
//! A hint only ever saves work: it is kept outside the store, a lost or damaged one is as good as none, and
//! contents always come from the parent's own manifest.

use crate::{
    object_keys::SnapshotRef,
    scan::Stamp,
    tree::RootHash,
    wire::{Reader, WireError, Writer},
};
use std::{
    collections::HashMap,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"FPVHINT1";
/// The largest hint file that is read.
const MAX_BYTES: u64 = 512 << 20;

/// Names a file of a layer: a hash of its path.
pub(crate) type PathKey = [u8; 16];

/// The stamps that files of one stored layer had.
#[derive(Debug)]
pub(crate) struct Hints {
    /// The tree they were seen in.
    pub(crate) root: RootHash,
    pub(crate) stamps: HashMap<PathKey, Stamp>,
}

/// The key of a path given as directory and name.
pub(crate) fn path_key(folder: &[u8], name: &[u8]) -> PathKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(folder).update(b"/").update(name);
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// Where the hints of a stored checkpoint lie.
pub(crate) fn file(cache: &Path, name: SnapshotRef) -> PathBuf {
    cache.join("hints").join(name.org.to_string()).join(name.checkpoint.to_string())
}

impl Hints {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer(Vec::with_capacity(64 + self.stamps.len() * 48));
        to.fixed(MAGIC);
        to.fixed(&self.root.0);
        to.int(self.stamps.len() as u64);
        for (key, stamp) in &self.stamps {
            to.fixed(key);
            to.int(stamp.inode);
            to.int(stamp.size);
            for (seconds, nanos) in [stamp.mtime, stamp.ctime] {
                to.signed(seconds);
                to.int(u64::from(nanos));
            }
        }
        let hash = blake3::hash(&to.0);
        to.fixed(hash.as_bytes());
        to.0
    }

    /// `None` if these are not whole hints.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, hash) = bytes.split_last_chunk::<32>()?;
        let whole = body.starts_with(MAGIC) && blake3::hash(body).as_bytes() == hash;
        whole.then(|| Self::decode_body(&body[MAGIC.len()..]).ok()).flatten()
    }

    fn decode_body(body: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader(body);
        let root = RootHash(from.fixed()?);
        let count = from.count(22)?;
        let mut stamps = HashMap::with_capacity(count);
        for _ in 0..count {
            let key = from.fixed()?;
            let (inode, size) = (from.int()?, from.int()?);
            let (mtime, ctime) = ((from.signed()?, from.int32()?), (from.signed()?, from.int32()?));
            stamps.insert(key, Stamp { inode, size, mtime, ctime });
        }
        from.end()?;
        Ok(Self { root, stamps })
    }

    pub(crate) fn load(cache: &Path, name: SnapshotRef) -> Option<Self> {
        let path = file(cache, name);
        let small = path.metadata().ok()?.len() <= MAX_BYTES;
        small.then(|| std::fs::read(path).ok()).flatten().and_then(|bytes| Self::decode(&bytes))
    }

    pub(crate) fn save(&self, cache: &Path, name: SnapshotRef) {
        write_beside(&file(cache, name), &self.encode());
    }
}

/// Writes a file of the cache whole or not at all. A failure is only logged: the cache saves work, no more.
pub(crate) fn write_beside(path: &Path, bytes: &[u8]) {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let beside = path.with_extension(format!("{:016x}", rand::random::<u64>()));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let done = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| std::fs::rename(&beside, path));
        if done.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        done
    };
    if let Err(error) = written() {
        tracing::warn!(path = %path.display(), %error, "cache file was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_read_back_and_damaged_ones_do_not() {
        let stamp = Stamp { inode: 7, size: 9, mtime: (-5, 3), ctime: (1 << 40, 999_999_999) };
        let hints = Hints { root: RootHash([4; 32]), stamps: HashMap::from([(path_key(b"a", b"b"), stamp)]) };
        let bytes = hints.encode();
        let read = Hints::decode(&bytes).unwrap();
        assert_eq!((read.root, read.stamps), (hints.root, hints.stamps));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Hints::decode(&changed).is_none() && Hints::decode(&bytes[..at]).is_none());
        }
    }
}
