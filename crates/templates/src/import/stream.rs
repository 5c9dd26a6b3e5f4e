//! The bytes of an archive: a part of a file, expanded if it is compressed, within bounds, hashed on the way.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::tar::Stream;
use crate::limits::{Limits, RATIO_FLOOR};
use crate::{Error, Result};

const BUFFER: usize = 256 * 1024;
/// The most memory that an xz stream may make its reader use.
const XZ_MEMORY: u64 = 256 << 20;
/// The largest window of a zstd stream, as a power of two.
const ZSTD_WINDOW: u32 = 27;

/// Bytes `at..end` of a file, read without its own position.
#[derive(Debug)]
pub(crate) struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Section {
    /// `size` bytes from `offset`.
    pub(crate) fn new(file: File, offset: u64, size: u64) -> Self {
        Self { file, at: offset, end: offset.saturating_add(size) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// What the first bytes say about how it is compressed.
    pub(crate) fn compression(&self, path: &Path) -> Result<Compression> {
        let mut magic = [0; 6];
        let want = usize::try_from(self.len()).unwrap_or(6).min(6);
        self.file.read_exact_at(&mut magic[..want], self.at).map_err(Error::io("read", path))?;
        let unsupported = |name: &str| {
            Err(Error::bad_import(path, format!("it is compressed by {name}; use gzip, xz, zstd or no compression")))
        };
        match magic {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Ok(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            _ => Ok(Compression::None),
        }
    }

    /// As a tar stream that passes over contents by seeking.
    pub(crate) fn seekable(self) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER, self)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl Stream for BufReader<Section> {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.seek_relative(bytes)
    }
}

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// An archive's bytes as they are inside of their compression.
pub(crate) struct Expanded {
    inner: Box<dyn Read>,
    /// Bytes read of the file.
    consumed: Rc<Cell<u64>>,
    produced: u64,
    compressed: bool,
    limits: Limits,
    origin: String,
    hasher: Option<Sha256>,
}

impl Expanded {
    /// Reads `section`; with `hashed`, the SHA-256 of what comes out can be asked for at the end.
    pub(crate) fn new(
        section: Section,
        compression: Compression,
        limits: &Limits,
        origin: &Path,
        hashed: bool,
    ) -> Result<Self> {
        let consumed = Rc::new(Cell::new(0));
        let raw = BufReader::with_capacity(BUFFER, Counted { inner: section, count: consumed.clone() });
        let inner: Box<dyn Read> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
            Compression::Xz => {
                let decoder = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
                let decoder = decoder.map_err(|error| Error::bad_import(origin, format!("xz: {error}")))?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(raw, decoder))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(raw).map_err(Error::io("read", origin))?;
                decoder.window_log_max(ZSTD_WINDOW).map_err(Error::io("read", origin))?;
                Box::new(decoder)
            }
        };
        Ok(Self {
            inner,
            consumed,
            produced: 0,
            compressed: compression != Compression::None,
            limits: limits.clone(),
            origin: origin.display().to_string(),
            hasher: hashed.then(Sha256::new),
        })
    }

    /// Tells how many bytes of the file were read, now and later.
    pub(crate) fn consumed(&self) -> Rc<Cell<u64>> {
        self.consumed.clone()
    }

    /// Reads what comes after a tar archive's end mark, so that damage there shows, and gives the SHA-256 of
    /// everything, in hex.
    pub(crate) fn finish(mut self) -> Result<String> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::through_io("read", self.origin)(error)),
            }
        }
        Ok(self.hasher.map(|hasher| hex::encode(hasher.finalize())).unwrap_or_default())
    }
}

impl Read for Expanded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.produced += got as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        let refuse = |reason: String| io::Error::other(Error::TooLarge { origin: self.origin.clone(), reason });
        // Headers and padding come on top of the files themselves.
        if self.produced > self.limits.max_bytes.saturating_add(self.limits.max_entries.saturating_mul(2048)) {
            return Err(refuse(format!("it expands to more than {} bytes", self.produced)));
        }
        let allowed = self.consumed.get().saturating_mul(self.limits.max_ratio);
        if self.compressed && self.produced > RATIO_FLOOR && self.produced > allowed {
            return Err(refuse(format!("it expands to more than {} times its size", self.limits.max_ratio)));
        }
        Ok(got)
    }
}

impl Stream for Expanded {}

struct Counted {
    inner: Section,
    count: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count.set(self.count.get() + got as u64);
        Ok(got)
    }
}
