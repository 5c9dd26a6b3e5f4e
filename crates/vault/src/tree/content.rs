//! File contents: which runs of a file are stored, and the digest over all of it.
//!
//! A file is looked at in blocks of 64 KiB. Maximal runs of blocks that are not all zero are its *segments*; the
//! rest is not stored, whether it was a hole or written zeros. The digest of a file with one segment over all of
//! it, or of an empty file, is the plain BLAKE3 of its bytes; else it is BLAKE3 over its size and the offset, length
//! and BLAKE3 of each segment. So it does not depend on holes, and costs nothing for what is not there.

use crate::wire::Writer;

/// How finely zeros are found, in bytes.
pub(crate) const BLOCK: usize = 64 << 10;
const SPARSE: &str = "forkpoint vault 1 sparse content";

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<64>();
    words.iter().all(|word| word == &[0; 64]) && tail.iter().all(|byte| *byte == 0)
}

/// Computes a file's digest from its segments, given in order.
#[derive(Debug)]
pub(crate) struct Digest {
    size: u64,
    /// Offset, length and hash of each segment that has ended.
    ended: Vec<(u64, u64, [u8; 32])>,
    open: Option<(u64, u64, Box<blake3::Hasher>)>,
}

impl Digest {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, ended: Vec::new(), open: None }
    }

    /// Begins a segment at `offset`.
    pub(crate) fn begin(&mut self, offset: u64) {
        self.close();
        self.open = Some((offset, 0, Box::default()));
    }

    /// Goes on with the segment.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some((_, length, hasher)) = &mut self.open {
            *length += bytes.len() as u64;
            hasher.update(bytes);
        }
    }

    fn close(&mut self) {
        if let Some((offset, length, hasher)) = self.open.take() {
            self.ended.push((offset, length, *hasher.finalize().as_bytes()));
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.close();
        match &self.ended[..] {
            [] if self.size == 0 => *blake3::hash(b"").as_bytes(),
            [(0, length, hash)] if *length == self.size => *hash,
            segments => {
                let mut to = Writer::default();
                to.fixed(&self.size.to_le_bytes());
                for (offset, length, hash) in segments {
                    to.fixed(&offset.to_le_bytes());
                    to.fixed(&length.to_le_bytes());
                    to.fixed(hash);
                }
                blake3::derive_key(SPARSE, &to.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dense_file_has_its_plain_hash() {
        let mut digest = Digest::new(5);
        digest.begin(0);
        digest.update(b"he");
        digest.update(b"llo");
        assert_eq!(digest.finish(), *blake3::hash(b"hello").as_bytes());
        assert_eq!(Digest::new(0).finish(), *blake3::hash(b"").as_bytes());
    }

    #[test]
    fn size_and_places_of_segments_count() {
        let sparse = |size, offset| {
            let mut digest = Digest::new(size);
            digest.begin(offset);
            digest.update(b"x");
            digest.finish()
        };
        let all = [sparse(1 << 20, 0), sparse(1 << 20, 65_536), sparse(2 << 20, 0), Digest::new(1 << 20).finish()];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }

    #[test]
    fn zeros_are_seen_at_every_length() {
        for length in [0, 1, 63, 64, 65, 4096, BLOCK] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "{length} {at}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
