//! Everything that reads bytes or trees from outside, as functions of bytes: the fuzzers of `fuzz/` call them, and
//! so does a test of this crate, with their corpus and changes of it.
//!
//! A target panics when a parser does, or when what it accepted breaks a promise.

mod checkpoint;
mod layer;

use forkpoint_templates::Limits;
use forkpoint_vault::parsers;

/// A target: its name, which is that of its corpus too, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("directory", directory),
    ("index", index),
    ("pack", pack),
    ("chunk", chunk),
    ("record", record),
    ("hints", hints),
    ("proof", proof),
    ("object_key", object_key),
    ("archive", archive),
    ("checkpoint", checkpoint::checkpoint),
    ("change_walk", layer::change_walk),
];

pub use checkpoint::checkpoint;
pub use layer::change_walk;

/// A stored directory: what is accepted has exactly one form.
pub fn directory(bytes: &[u8]) {
    assert_ne!(parsers::directory(bytes), Some(false), "a directory was accepted that is written in another way");
}

/// A pack's index in clear, and its footer; the first 8 bytes say how large the pack is.
pub fn index(bytes: &[u8]) {
    if let Some((size, rest)) = bytes.split_first_chunk::<8>() {
        parsers::index(rest, u64::from_le_bytes(*size));
    }
}

/// A whole pack.
pub fn pack(bytes: &[u8]) {
    parsers::pack(bytes);
}

/// What is in a sealed chunk; the first 4 bytes say how long it should be in clear.
pub fn chunk(bytes: &[u8]) {
    if let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        parsers::chunk(rest, u32::from_le_bytes(*length));
    }
}

/// The JSON of a record.
pub fn record(bytes: &[u8]) {
    parsers::record(bytes);
}

/// What this machine remembers of a stored layer.
pub fn hints(bytes: &[u8]) {
    parsers::hints(bytes);
}

/// An inclusion proof.
pub fn proof(bytes: &[u8]) {
    parsers::proof(bytes);
}

/// The key of an object in the store.
pub fn object_key(bytes: &[u8]) {
    parsers::object_key(&String::from_utf8_lossy(bytes));
}

/// An archive that is imported: a tar archive, compressed or not, an OCI layout or what `docker save` makes.
/// Nothing may appear outside of the directory that it is unpacked into.
pub fn archive(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (file, below) = (folder.path().join("archive"), folder.path().join("into"));
    if std::fs::write(&file, bytes).is_err() || std::fs::create_dir(&below).is_err() {
        return;
    }
    let limits = Limits { max_entries: 2000, max_bytes: 16 << 20, max_ratio: 200, max_layers: 16, max_names: 16 << 20 };
    forkpoint_templates::parsers::archive(&file, &below, &limits);
    let beside = std::fs::read_dir(folder.path()).map_or(0, Iterator::count);
    assert_eq!(beside, 2, "something was unpacked beside its directory");
}
