//! Packs: objects that hold many sealed chunks, a sealed index of them, and a footer.
//!
//! ```text
//! "FPVPACK1"  sealed chunk ...  sealed index  footer (32 bytes)
//! footer: index offset u64, index length u32, version u32, 8 bytes of BLAKE3 over these 16, "FPVPEND1"
//! ```
//!
//! A *bundle* is a chunk made of many small ones (its *parts*), compressed and sealed as one.

use crate::{
    VaultError,
    crypto::{ChunkId, MAX_CHUNK, OVERHEAD, OrgKeys},
    error::Result,
    object_keys::PackId,
    wire::{Reader, WireError, Writer},
};

pub(crate) const MAGIC: &[u8; 8] = b"FPVPACK1";
const END: &[u8; 8] = b"FPVPEND1";
pub(crate) const FOOTER: usize = 32;
const VERSION: u32 = 1;
/// The largest pack that is read.
pub(crate) const MAX_PACK: u64 = 128 << 20;
/// The most bytes of an index in clear.
const MAX_INDEX: usize = 48 << 20;

const DIRECT: u8 = 0;
const BUNDLE: u8 = 1;

/// A sealed stretch of a pack: a chunk of its own, or a bundle with its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) id: ChunkId,
    pub(crate) offset: u32,
    /// Sealed length.
    pub(crate) stored: u32,
    /// Length in clear.
    pub(crate) len: u32,
    /// Id and length of the parts, one after the other from the start; `None`: it is no bundle.
    pub(crate) parts: Option<Vec<(ChunkId, u32)>>,
}

/// What a pack holds: contents of files, or directories. Kept apart so that directories lie close together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stream {
    #[default]
    Data = 0,
    Tree = 1,
}

/// A pack's index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Contents {
    pub(crate) stream: Stream,
    pub(crate) stretches: Vec<Stretch>,
}

/// A pack being filled.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    bytes: Vec<u8>,
    /// How many bytes it will probably have.
    room: usize,
    contents: Contents,
}

impl PackBuilder {
    pub(crate) fn new(stream: Stream, room: usize) -> Self {
        Self { bytes: MAGIC.to_vec(), room, contents: Contents { stream, stretches: Vec::new() } }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.contents.stretches.is_empty()
    }

    /// Appends a sealed chunk or bundle.
    pub(crate) fn add(&mut self, id: ChunkId, len: u32, sealed: &[u8], parts: Option<Vec<(ChunkId, u32)>>) {
        let (offset, stored) = (self.bytes.len() as u32, sealed.len() as u32);
        if self.contents.stretches.is_empty() {
            // All at once: a vector that doubles would take up to three times as much.
            self.bytes.reserve_exact(self.room);
        }
        self.contents.stretches.push(Stretch { id, offset, stored, len, parts });
        self.bytes.extend_from_slice(sealed);
    }

    /// The whole object, and what is in it.
    pub(crate) fn finish(mut self, keys: &OrgKeys, pack: PackId) -> Result<(Vec<u8>, Contents)> {
        let index = keys.seal_index(&context(pack), &encode_index(&self.contents))?;
        let mut footer = Vec::with_capacity(FOOTER);
        footer.extend_from_slice(&(self.bytes.len() as u64).to_le_bytes());
        footer.extend_from_slice(&(index.len() as u32).to_le_bytes());
        footer.extend_from_slice(&VERSION.to_le_bytes());
        footer.extend_from_slice(&blake3::hash(&footer).as_bytes()[..8]);
        footer.extend_from_slice(END);
        self.bytes.extend_from_slice(&index);
        self.bytes.extend_from_slice(&footer);
        Ok((self.bytes, self.contents))
    }
}

fn context(pack: PackId) -> Vec<u8> {
    [b"pack index ".as_slice(), &pack.0].concat()
}

fn encode_index(contents: &Contents) -> Vec<u8> {
    let mut to = Writer::default();
    to.byte(contents.stream as u8);
    to.int(contents.stretches.len() as u64);
    for stretch in &contents.stretches {
        to.byte(if stretch.parts.is_some() { BUNDLE } else { DIRECT });
        to.fixed(&stretch.id.0);
        to.int(u64::from(stretch.offset));
        to.int(u64::from(stretch.stored));
        to.int(u64::from(stretch.len));
        if let Some(parts) = &stretch.parts {
            to.int(parts.len() as u64);
            for (id, len) in parts {
                to.fixed(&id.0);
                to.int(u64::from(*len));
            }
        }
    }
    to.0
}

/// Reads an index in clear; `end` is where in the pack the chunks end.
pub(crate) fn decode_index(bytes: &[u8], end: u64) -> std::result::Result<Contents, WireError> {
    let mut from = Reader(bytes);
    let stream = match from.byte()? {
        0 => Stream::Data,
        1 => Stream::Tree,
        _ => return Err(WireError("has an unknown kind of pack")),
    };
    let count = from.count(36)?;
    let mut stretches = Vec::with_capacity(count);
    let mut expected = MAGIC.len() as u64;
    for _ in 0..count {
        let kind = from.byte()?;
        let (id, offset, stored, len) = (ChunkId(from.fixed()?), from.int32()?, from.int32()?, from.int32()?);
        if u64::from(offset) != expected || (stored as usize) <= OVERHEAD || len == 0 || len as usize > MAX_CHUNK {
            return Err(WireError("has a chunk out of place"));
        }
        expected += u64::from(stored);
        let parts = match kind {
            DIRECT => None,
            BUNDLE => {
                let count = from.count(33)?;
                let mut parts = Vec::with_capacity(count);
                let mut sum = 0u64;
                for _ in 0..count {
                    let part = (ChunkId(from.fixed()?), from.int32()?);
                    if part.1 == 0 {
                        return Err(WireError("has an empty part"));
                    }
                    sum += u64::from(part.1);
                    parts.push(part);
                }
                if sum != u64::from(len) {
                    return Err(WireError("has parts that do not fill their bundle"));
                }
                Some(parts)
            }
            _ => return Err(WireError("has an unknown kind of chunk")),
        };
        stretches.push(Stretch { id, offset, stored, len, parts });
    }
    from.end()?;
    if expected != end {
        return Err(WireError("does not cover its pack"));
    }
    Ok(Contents { stream, stretches })
}

/// Where the index of a pack of `size` bytes lies, from its last [`FOOTER`] bytes.
pub(crate) fn read_footer(object: &str, footer: &[u8], size: u64) -> Result<std::ops::Range<u64>> {
    let corrupt = |problem| VaultError::corrupt(object, problem);
    let (Ok(footer), true) = (<&[u8; FOOTER]>::try_from(footer), size <= MAX_PACK) else {
        return Err(corrupt("it has an impossible size"));
    };
    if &footer[24..] != END || blake3::hash(&footer[..16]).as_bytes()[..8] != footer[16..24] {
        return Err(corrupt("its footer is not that of a pack"));
    }
    let mut from = Reader(footer);
    let (Ok(offset), Ok(length), Ok(version)) = (from.fixed::<8>(), from.fixed::<4>(), from.fixed::<4>()) else {
        return Err(corrupt("its footer is too short"));
    };
    let (offset, length) = (u64::from_le_bytes(offset), u64::from(u32::from_le_bytes(length)));
    let version = u32::from_le_bytes(version);
    if version != VERSION {
        return Err(VaultError::Version { object: object.into(), found: version, known: VERSION });
    }
    let fits = offset >= MAGIC.len() as u64
        && length as usize <= MAX_INDEX
        && offset.checked_add(length + FOOTER as u64) == Some(size);
    if fits { Ok(offset..offset + length) } else { Err(corrupt("its footer names an index that does not fit")) }
}

/// Opens the sealed index of a pack; `end` is where it begins.
pub(crate) fn open_index(keys: &OrgKeys, object: &str, pack: PackId, sealed: &[u8], end: u64) -> Result<Contents> {
    let clear = keys
        .open_index(&context(pack), sealed)
        .ok_or_else(|| VaultError::corrupt(object, "the seal of its index does not open"))?;
    decode_index(&clear, end).map_err(|e| VaultError::corrupt(object, format!("its index {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_found_again(lengths in prop::collection::vec(1..5000usize, 0..20), bundled: bool) {
            let keys = OrgKeys::new(&[3; 32]);
            let mut builder = PackBuilder::new(Stream::Tree, 0);
            for (n, length) in lengths.iter().enumerate() {
                let clear = vec![n as u8; *length];
                let id = keys.name(&clear);
                let parts = bundled.then(|| vec![(id, *length as u32)]);
                builder.add(id, *length as u32, &keys.seal_chunk(&id, &clear, 1).unwrap(), parts);
            }
            let pack = PackId([9; 16]);
            let (bytes, contents) = builder.finish(&keys, pack).unwrap();
            let size = bytes.len() as u64;
            let index = read_footer("p", &bytes[bytes.len() - FOOTER..], size).unwrap();
            let sealed = &bytes[index.start as usize..index.end as usize];
            prop_assert_eq!(open_index(&keys, "p", pack, sealed, index.start).unwrap(), contents);
            prop_assert!(open_index(&keys, "p", PackId([8; 16]), sealed, index.start).is_err());
            prop_assert!(read_footer("p", &bytes[bytes.len() - FOOTER..], size - 1).is_err());
        }

        #[test]
        fn random_indexes_and_footers_never_panic(bytes: Vec<u8>, size: u64) {
            let _ = decode_index(&bytes, size);
            let _ = read_footer("p", &bytes, size);
        }
    }
}
