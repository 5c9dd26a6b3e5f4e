//! Reads a file and cuts what is in it into chunks: where the content says so, or at fixed distances.

use crate::{
    error::Result,
    tree::{
        Content, Piece, Segment,
        content::{BLOCK, Digest, is_zero},
    },
};
use fastcdc::v2020::{FastCDC, Normalization};
use rustix::{fs::SeekFrom, io::Errno};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Chunk sizes in bytes: least, wanted, most. Changing them changes no root, but equal data meets less often.
const LEAST: usize = 128 << 10;
const WANTED: usize = 512 << 10;
const MOST: usize = 2 << 20;
/// Chunk size of memory images, whose pages stay where they are.
const FIXED: usize = 256 << 10;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Where the content says so, under the organisation's seed: chunk lengths tell outsiders nothing.
    ByContent(u64),
    Fixed,
}

/// Why a file was not read to its end.
#[derive(Debug)]
pub(crate) enum CutError {
    Read(io::Error),
    Take(crate::VaultError),
}

impl From<crate::VaultError> for CutError {
    fn from(error: crate::VaultError) -> Self {
        Self::Take(error)
    }
}

/// Length of the first chunk of `bytes`; there must be at least [`MOST`] of them, or these are the last.
fn first(bytes: &[u8], cut: Cut) -> usize {
    match cut {
        Cut::Fixed => bytes.len().min(FIXED),
        Cut::ByContent(seed) => {
            FastCDC::with_level_and_seed(bytes, LEAST, WANTED, MOST, Normalization::Level1, seed).cut(0, bytes.len()).1
        }
    }
}

/// Where data begins at or after `from`; `None`: only a hole is left.
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// The content of a file of `size` bytes; `take` gets each chunk in order. `buffer` is only kept for its room.
pub(crate) fn read(
    file: &File,
    size: u64,
    cut: Cut,
    buffer: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8]) -> Result<Piece>,
) -> std::result::Result<Content, CutError> {
    let mut digest = Digest::new(size);
    let mut segments: Vec<Segment> = Vec::new();
    let mut open: Option<Segment> = None;
    // What of `buffer` is not cut yet.
    let mut start = 0;
    buffer.clear();
    let mut at = 0u64;
    let mut data_from = 0u64;
    let mut chunk = |segment: &mut Segment, digest: &mut Digest, bytes: &[u8]| -> Result<()> {
        digest.update(bytes);
        segment.pieces.push(take(bytes)?);
        Ok(())
    };
    while at < size {
        if at >= data_from {
            data_from = next_data(file, at).map_err(CutError::Read)?.unwrap_or(size);
        }
        let length = (size - at).min(BLOCK as u64) as usize;
        // A block that lies wholly in a hole is not even read.
        let zero = if data_from >= at + length as u64 {
            true
        } else {
            let end = buffer.len();
            buffer.resize(end + length, 0);
            file.read_exact_at(&mut buffer[end..], at).map_err(CutError::Read)?;
            let zero = is_zero(&buffer[end..]);
            if zero {
                buffer.truncate(end);
            }
            zero
        };
        if zero {
            if let Some(mut segment) = open.take() {
                while start < buffer.len() {
                    let length = first(&buffer[start..], cut);
                    chunk(&mut segment, &mut digest, &buffer[start..start + length])?;
                    start += length;
                }
                segments.push(segment);
            }
            start = 0;
            buffer.clear();
            // Leap over the rest of a hole, to the block in which data begins again.
            let next = data_from.min(size) / BLOCK as u64 * BLOCK as u64;
            at = next.max(at + length as u64);
            continue;
        }
        let segment = open.get_or_insert_with(|| {
            digest.begin(at);
            Segment { offset: at, pieces: Vec::new() }
        });
        while buffer.len() - start >= MOST {
            let length = first(&buffer[start..start + MOST], cut);
            chunk(segment, &mut digest, &buffer[start..start + length])?;
            start += length;
        }
        if start >= MOST {
            buffer.drain(..start);
            start = 0;
        }
        at += length as u64;
    }
    if let Some(mut segment) = open.take() {
        while start < buffer.len() {
            let length = first(&buffer[start..], cut);
            chunk(&mut segment, &mut digest, &buffer[start..start + length])?;
            start += length;
        }
        segments.push(segment);
    }
    Ok(Content { size, digest: digest.finish(), segments })
}

/// Cuts bytes in memory into pieces by content.
pub(crate) fn bytes(mut bytes: &[u8], cut: Cut, take: &mut dyn FnMut(&[u8]) -> Result<Piece>) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at(first(&bytes[..bytes.len().min(MOST)], cut));
        pieces.push(take(head)?);
        bytes = rest;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ChunkId;
    use proptest::prelude::*;
    use std::io::Write;

    /// Cuts, and puts the file together again from its segments.
    fn cut_and_join(bytes: &[u8], holes: bool, cut: Cut) -> (Content, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        if holes {
            file.set_len(bytes.len() as u64).unwrap();
            for (n, block) in bytes.chunks(BLOCK).enumerate() {
                if !is_zero(block) {
                    file.write_all_at(block, (n * BLOCK) as u64).unwrap();
                }
            }
        } else {
            file.write_all(bytes).unwrap();
        }
        let mut chunks = Vec::new();
        let content = read(&file, bytes.len() as u64, cut, &mut Vec::new(), &mut |clear| {
            chunks.push(clear.to_vec());
            Ok(Piece { id: ChunkId([0; 32]), len: clear.len() as u32 })
        })
        .unwrap();
        let mut joined = vec![0; bytes.len()];
        let mut chunks = chunks.into_iter();
        for segment in &content.segments {
            let mut at = segment.offset as usize;
            for piece in &segment.pieces {
                let chunk = chunks.next().unwrap();
                assert!(chunk.len() <= MOST && chunk.len() == piece.len as usize);
                joined[at..at + chunk.len()].copy_from_slice(&chunk);
                at += chunk.len();
            }
        }
        assert!(chunks.next().is_none());
        (content, joined)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_join_to_the_file_and_holes_do_not_matter(
            runs in prop::collection::vec((any::<bool>(), 1..400_000usize, any::<u64>()), 0..6), fixed: bool,
        ) {
            let mut bytes = Vec::new();
            for (zero, length, seed) in runs {
                let mut state = seed | 1;
                bytes.extend((0..length).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if zero { 0 } else { (state >> 33) as u8 }
                }));
            }
            let cut = if fixed { Cut::Fixed } else { Cut::ByContent(7) };
            let (written, joined) = cut_and_join(&bytes, false, cut);
            prop_assert_eq!(&joined, &bytes);
            let (sparse, joined) = cut_and_join(&bytes, true, cut);
            prop_assert_eq!(&joined, &bytes);
            prop_assert_eq!(&written, &sparse);
            if bytes.chunks(BLOCK).all(|block| !is_zero(block)) {
                prop_assert_eq!(written.digest, *blake3::hash(&bytes).as_bytes());
            }
        }
    }

    #[test]
    fn an_insertion_moves_few_chunks() {
        let mut state = 1u64;
        let bytes: Vec<u8> = (0..8 << 20)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let chunks = |bytes: &[u8]| {
            let mut all = std::collections::BTreeSet::new();
            super::bytes(bytes, Cut::ByContent(7), &mut |clear| {
                all.insert(*blake3::hash(clear).as_bytes());
                Ok(Piece { id: ChunkId([0; 32]), len: clear.len() as u32 })
            })
            .unwrap();
            all
        };
        let before = chunks(&bytes);
        let mut changed = bytes.clone();
        changed.splice(3_000_000..3_000_000, *b"inserted");
        let new = chunks(&changed).difference(&before).count();
        assert!(before.len() > 8 && new <= 3, "{new} of {} chunks are new", before.len());
    }
}
