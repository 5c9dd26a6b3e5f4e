//! Keys of organisations, and how chunks and small objects are sealed under them.
//!
//! A chunk's id is a keyed hash of its plaintext, and its key is a keyed hash of its id: equal chunks of one
//! organisation meet, those of two organisations do not. The nonce is random all the same, because the sealed
//! bytes are *compressed* plaintext: another compressor or level makes other bytes out of the same plaintext,
//! and one key with one nonce must never seal two messages.

use crate::{MasterKey, VaultError, cut::Cut, error::Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// How much longer sealed bytes are than clear ones: nonce and tag.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;
/// The most bytes a chunk has in clear.
pub(crate) const MAX_CHUNK: usize = 4 << 20;

const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// Names a chunk: the keyed BLAKE3 of its plaintext.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkId(pub(crate) [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// What one organisation's data is named and sealed with.
pub(crate) struct OrgKeys {
    names: Zeroizing<[u8; 32]>,
    chunks: Zeroizing<[u8; 32]>,
    cut_seed: u64,
    indexes: LessSafeKey,
    records: LessSafeKey,
}

impl fmt::Debug for OrgKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrgKeys(hidden)")
    }
}

impl OrgKeys {
    /// Derives all keys of an organisation from its one secret.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let derive = |purpose| Zeroizing::new(blake3::derive_key(purpose, secret));
        let seed = derive("forkpoint vault 1 cut seed");
        let mut first = [0; 8];
        first.copy_from_slice(&seed[..8]);
        Self {
            cut_seed: u64::from_le_bytes(first),
            names: derive("forkpoint vault 1 chunk names"),
            chunks: derive("forkpoint vault 1 chunk keys"),
            indexes: aead(&derive("forkpoint vault 1 pack indexes")),
            records: aead(&derive("forkpoint vault 1 records")),
        }
    }

    /// How this organisation's files are cut.
    pub(crate) fn cut(&self) -> Cut {
        Cut::ByContent(self.cut_seed)
    }

    /// The name of a chunk with this plaintext.
    pub(crate) fn name(&self, clear: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.names, clear).as_bytes())
    }

    fn chunk_key(&self, id: &ChunkId) -> LessSafeKey {
        aead(blake3::keyed_hash(&self.chunks, &id.0).as_bytes())
    }

    /// Compresses where that helps, and seals.
    pub(crate) fn seal_chunk(&self, id: &ChunkId, clear: &[u8], level: i32) -> Result<Vec<u8>> {
        // Room for nonce, kind and tag, so that nothing is moved afterwards.
        let mut body = vec![0; NONCE_LEN + 1 + zstd::zstd_safe::compress_bound(clear.len()) + 16];
        let packed = zstd::bulk::compress_to_buffer(clear, &mut body[NONCE_LEN + 1..], level)
            .map_err(|_| VaultError::Broken("the compressor failed"))?;
        let length = if packed + packed / 32 < clear.len() {
            body[NONCE_LEN] = ZSTD;
            packed
        } else {
            body[NONCE_LEN] = STORED;
            body[NONCE_LEN + 1..NONCE_LEN + 1 + clear.len()].copy_from_slice(clear);
            clear.len()
        };
        body.truncate(NONCE_LEN + 1 + length);
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce)?;
        body[..NONCE_LEN].copy_from_slice(&nonce);
        let (_, message) = body.split_at_mut(NONCE_LEN);
        let tag = self
            .chunk_key(id)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&id.0), message)
            .map_err(|_| VaultError::Broken("sealing a chunk failed"))?;
        body.extend_from_slice(tag.as_ref());
        Ok(body)
    }

    /// Opens a sealed chunk of `length` bytes in clear; says what is wrong if it is not exactly that chunk.
    pub(crate) fn open_chunk(
        &self,
        id: &ChunkId,
        length: usize,
        sealed: &mut [u8],
    ) -> std::result::Result<Vec<u8>, &'static str> {
        if length > MAX_CHUNK || sealed.len() < OVERHEAD + 1 {
            return Err("a chunk has an impossible length");
        }
        let body = open_in_place(&self.chunk_key(id), &id.0, sealed).ok_or("a chunk's seal does not open")?;
        let clear = match body.split_first() {
            Some((&STORED, rest)) => rest.to_vec(),
            Some((&ZSTD, rest)) => zstd::bulk::decompress(rest, length).map_err(|_| "a chunk does not decompress")?,
            _ => return Err("a chunk has an unknown encoding"),
        };
        if clear.len() != length || self.name(&clear) != *id {
            return Err("a chunk's content does not have its hash");
        }
        Ok(clear)
    }

    /// Seals a chunk's body as it is, whatever it says.
    pub(crate) fn seal_body(&self, id: &ChunkId, body: &[u8]) -> Result<Vec<u8>> {
        seal(&self.chunk_key(id), &id.0, body)
    }

    pub(crate) fn seal_index(&self, context: &[u8], clear: &[u8]) -> Result<Vec<u8>> {
        seal(&self.indexes, context, clear)
    }

    pub(crate) fn open_index(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.indexes, context, sealed)
    }

    pub(crate) fn seal_record(&self, context: &[u8], clear: &[u8]) -> Result<Vec<u8>> {
        seal(&self.records, context, clear)
    }

    pub(crate) fn open_record(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.records, context, sealed)
    }
}

/// What the master key seals in the vault: the key check and the organisations' secrets.
pub(crate) struct MasterSeal(LessSafeKey);

impl fmt::Debug for MasterSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSeal(hidden)")
    }
}

impl MasterSeal {
    pub(crate) fn new(master: &MasterKey) -> Self {
        Self(aead(&master.derive("vault organisation keys")))
    }

    pub(crate) fn seal(&self, context: &[u8], clear: &[u8]) -> Result<Vec<u8>> {
        seal(&self.0, context, clear)
    }

    pub(crate) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        open(&self.0, context, sealed).map(Zeroizing::new)
    }
}

/// Fills with random bytes.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| VaultError::Broken("the system gives no random bytes"))
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    // A key of exactly 32 bytes is the one thing AES-256 asks for.
    let Ok(key) = UnboundKey::new(&AES_256_GCM, key) else { unreachable!("AES-256 takes 32 bytes") };
    LessSafeKey::new(key)
}

fn seal(key: &LessSafeKey, context: &[u8], clear: &[u8]) -> Result<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    random(&mut nonce)?;
    let mut sealed = Vec::with_capacity(clear.len() + OVERHEAD);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(clear);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed[NONCE_LEN..])
        .map_err(|_| VaultError::Broken("sealing failed"))?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

fn open(key: &LessSafeKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut copy = sealed.to_vec();
    open_in_place(key, context, &mut copy).map(|clear| clear.to_vec())
}

fn open_in_place<'a>(key: &LessSafeKey, context: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
    if sealed.len() < OVERHEAD {
        return None;
    }
    let (nonce, body) = sealed.split_at_mut(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    key.open_in_place(nonce, Aad::from(context), body).ok().map(|clear| &*clear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_opens_only_as_itself_and_only_for_its_organisation() {
        let keys = OrgKeys::new(&[1; 32]);
        for clear in [vec![7; 100_000], (0..=255u8).collect(), vec![1]] {
            let id = keys.name(&clear);
            let sealed = keys.seal_chunk(&id, &clear, 3).unwrap();
            assert_eq!(keys.open_chunk(&id, clear.len(), &mut sealed.clone()).unwrap(), clear);
            assert!(keys.open_chunk(&id, clear.len() + 1, &mut sealed.clone()).is_err());
            assert!(keys.open_chunk(&keys.name(b"other"), clear.len(), &mut sealed.clone()).is_err());
            assert!(OrgKeys::new(&[2; 32]).open_chunk(&id, clear.len(), &mut sealed.clone()).is_err());
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 0x10;
                assert!(keys.open_chunk(&id, clear.len(), &mut changed).is_err(), "byte {at}");
            }
            assert!(keys.open_chunk(&id, clear.len(), &mut sealed[..sealed.len() - 1].to_vec()).is_err());
        }
    }

    #[test]
    fn sealing_the_same_chunk_twice_never_reuses_a_nonce() {
        let keys = OrgKeys::new(&[1; 32]);
        let id = keys.name(b"x");
        let (first, second) = (keys.seal_chunk(&id, b"x", 3).unwrap(), keys.seal_chunk(&id, b"x", 9).unwrap());
        assert_ne!(first[..NONCE_LEN], second[..NONCE_LEN]);
    }
}
