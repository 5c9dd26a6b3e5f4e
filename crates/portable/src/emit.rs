//! Writing tar members: old headers where they suffice, extended ones (POSIX pax) for all else. Equal members make
//! equal bytes.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// The longest name an old header holds.
const SHORT: usize = 100;
/// The largest number an old header holds in its wide fields.
const WIDE: u64 = 0o77_777_777_777;

/// A member's header.
#[derive(Debug, Clone)]
pub(crate) struct Member<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// Bytes that follow.
    pub(crate) size: u64,
    /// Target of a link.
    pub(crate) link: &'a [u8],
    /// Extended headers besides; keys without `=`.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Member<'a> {
    /// A plain file of the archive itself, the same whenever it is made.
    pub(crate) fn plain(path: &'a [u8], kind: EntryType, size: u64) -> Self {
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        Self { path, kind, mode, uid: 0, gid: 0, mtime: (0, 0), size, link: b"", records: Vec::new() }
    }

    /// The header's bytes.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| write_record(&mut records, key, value);
        if self.path.len() > SHORT {
            record(b"path", self.path);
        }
        if self.link.len() > SHORT {
            record(b"linkpath", self.link);
        }
        if self.size > WIDE {
            record(b"size", self.size.to_string().as_bytes());
        }
        let (secs, nanos) = self.mtime;
        let narrow = u64::try_from(secs).ok().filter(|secs| *secs <= WIDE);
        if nanos != 0 || narrow.is_none() {
            record(b"mtime", time(secs, nanos).as_bytes());
        }
        for (key, value) in &self.records {
            record(key, value);
        }
        let mut bytes = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            let extended = Member::plain(b"././@PaxHeader", EntryType::XHeader, records.len() as u64);
            bytes.extend_from_slice(extended.block().as_bytes());
            bytes.extend_from_slice(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend_from_slice(self.block().as_bytes());
        bytes
    }

    fn block(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.uid.into());
        header.set_gid(self.gid.into());
        header.set_size(if self.size > WIDE { 0 } else { self.size });
        header.set_mtime(u64::try_from(self.mtime.0).ok().filter(|secs| *secs <= WIDE).unwrap_or(0));
        let old = header.as_old_mut();
        // Cut if it is longer: the extended header has it whole.
        for (field, value) in [(&mut old.name, self.path), (&mut old.linkname, self.link)] {
            let length = value.len().min(SHORT);
            field[..length].copy_from_slice(&value[..length]);
        }
        header.set_cksum();
        header
    }
}

/// `<length> <key>=<value>\n`, the length counting itself.
fn write_record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} ").as_bytes());
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// A time as extended headers write it; before 1970 seconds and fraction count downwards.
fn time(secs: i64, nanos: u32) -> String {
    let (sign, whole, nanos) = match (secs, nanos) {
        (0.., nanos) => ("", secs.unsigned_abs(), nanos),
        (_, 0) => ("-", secs.unsigned_abs(), 0),
        (_, nanos) => ("-", secs.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    match nanos {
        0 => format!("{sign}{whole}"),
        nanos => format!("{sign}{whole}.{nanos:09}").trim_end_matches('0').to_owned(),
    }
}

/// Bytes that fill the last block of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// Fills the last block of `size` bytes.
pub(crate) fn write_padding(to: &mut dyn Write, size: u64) -> io::Result<()> {
    to.write_all(&[0; BLOCK][..padding(size)])
}

/// The mark that ends an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Counts and hashes what is written, and hands it on if there is somebody to take it.
pub(crate) struct Hashing<'w> {
    to: Option<&'w mut dyn Write>,
    hasher: Sha256,
    size: u64,
}

impl<'w> Hashing<'w> {
    pub(crate) fn new(to: Option<&'w mut dyn Write>) -> Self {
        Self { to, hasher: Sha256::new(), size: 0 }
    }

    /// SHA-256 in hex, and how many bytes there were.
    pub(crate) fn finish(self) -> (String, u64) {
        (hex::encode(self.hasher.finalize()), self.size)
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(to) = &mut self.to {
            to.write_all(bytes)?;
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().map_or(Ok(()), |to| to.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (time_of, expected) in [
            ((12, 0), "12"),
            ((12, 500_000_000), "12.5"),
            ((12, 1), "12.000000001"),
            ((-5, 0), "-5"),
            ((-6, 500_000_000), "-5.5"),
            ((-1, 750_000_000), "-0.25"),
        ] {
            assert_eq!(time(time_of.0, time_of.1), expected);
        }
    }

    #[test]
    fn records_count_their_own_length() {
        for length in [1, 80, 84, 85, 86, 87, 970, 980, 990, 9980] {
            let mut bytes = Vec::new();
            write_record(&mut bytes, b"path", &vec![b'x'; length]);
            let text = String::from_utf8(bytes).expect("ASCII");
            let (said, _) = text.split_once(' ').expect("a length");
            assert_eq!(said, text.len().to_string());
        }
    }
}
