//! Reading a tar stream entry by entry. Nothing of it is believed: the memory that names and extensions may take
//! is bounded, what contradicts itself is refused, and the stream must end as tar streams end.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::limits::MAX_PATH;
use crate::tree::write::Attributes;
use crate::{Error, Result};

const BLOCK: usize = 512;
/// The most bytes of extended headers of one entry.
const MAX_EXTENSION: u64 = 1 << 20;
/// Begins the keys of extended headers that only this program gives a meaning.
const MARK: &[u8] = b"FORKPOINT.";

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Device,
}

/// One entry; its content is read from the reader before the next entry.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the archive has it, not checked.
    pub(crate) path: Vec<u8>,
    /// Target of a link, not checked.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Bytes of content, 0 for all but regular files.
    pub(crate) size: u64,
    pub(crate) attributes: Attributes,
    /// Our own extended headers: what is behind the prefix, and the value.
    pub(crate) marks: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file, its bytes with all holes; its content begins with a map.
    pub(crate) real_size: Option<u64>,
    /// Where the content begins in the stream.
    pub(crate) offset: u64,
}

/// A stream that can pass over bytes.
pub(crate) trait Stream: Read {
    /// Passes over `bytes`, which may be beyond the end; the next read shows that.
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut <&mut Self as Read>::take(self, bytes), &mut io::sink()).map(drop)
    }
}

/// Reads entries.
pub(crate) struct Reader<'a> {
    stream: &'a mut dyn Stream,
    origin: &'a str,
    position: u64,
    /// Content of the present entry that was not read yet.
    content: u64,
    /// Bytes after the content up to the next block.
    padding: u64,
    /// Whether the archive may end without its mark.
    unmarked: bool,
    /// Whether sparse files are taken.
    sparse: bool,
}

impl Entry {
    /// The value of one of our own extended headers.
    pub(crate) fn mark(&self, key: &[u8]) -> Option<&[u8]> {
        self.marks.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..])
    }
}

/// What the headers before an entry say of it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }

    /// The last value counts, as in every reader of such records.
    fn pax(&self, key: &str) -> Option<&[u8]> {
        let mut records = self.pax.iter().flatten().rev();
        records.find(|(name, _)| name == key.as_bytes()).map(|(_, value)| &value[..])
    }

    fn number(&self, key: &str) -> std::result::Result<Option<u64>, ()> {
        let Some(value) = self.pax(key) else { return Ok(None) };
        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(())
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(stream: &'a mut dyn Stream, origin: &'a str) -> Self {
        Self { stream, origin, position: 0, content: 0, padding: 0, unmarked: false, sparse: false }
    }

    /// Takes the stream's end between two entries for the archive's, as some makers of layers write them. Whether
    /// it is cut short must then show by its digest.
    pub(crate) fn unmarked(self) -> Self {
        Self { unmarked: true, ..self }
    }

    /// Takes files of the sparse form that extended headers announce (version 1.0), and no other.
    pub(crate) fn with_sparse(self) -> Self {
        Self { sparse: true, ..self }
    }

    /// The next entry; `None` at the archive's end mark.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.finish_entry()?;
            let Some(header) = self.header()? else {
                if extensions.is_empty() {
                    return Ok(None);
                }
                return Err(self.broken("an extended header announces an entry that is missing"));
            };
            let shown = header.path_bytes().into_owned();
            let size = header.entry_size().map_err(|_| self.bad(&shown, "has a size that is not a number"))?;
            let twice = |reader: &Self| reader.bad(&shown, "is a second extended header of one kind for one entry");
            match header.entry_type() {
                EntryType::GNULongName | EntryType::GNULongLink => {
                    let text = self.extension(&shown, size, MAX_PATH as u64 + 1)?;
                    let text = text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
                    let slot = match header.entry_type() {
                        EntryType::GNULongName => &mut extensions.long_name,
                        _ => &mut extensions.long_link,
                    };
                    if slot.replace(text).is_some() {
                        return Err(twice(self));
                    }
                }
                EntryType::XHeader => {
                    let bytes = self.extension(&shown, size, MAX_EXTENSION)?;
                    let records = self.records(&shown, &bytes)?;
                    if extensions.pax.replace(records).is_some() {
                        return Err(twice(self));
                    }
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension(&shown, size, MAX_EXTENSION)?;
                    let steers =
                        |(key, _): &(Vec<u8>, Vec<u8>)| [&b"path"[..], b"linkpath", b"size"].contains(&&key[..]);
                    if self.records(&shown, &bytes)?.iter().any(steers) {
                        return Err(self.bad(&shown, "is a global header that names or sizes every entry"));
                    }
                }
                _ => return self.entry(&header, size, &extensions).map(Some),
            }
        }
    }

    /// The present entry's content.
    pub(crate) fn content(&mut self) -> impl Read + use<'_, 'a> {
        Content(self)
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: &Extensions) -> Result<Entry> {
        let sparse = self.sparse && extensions.pax("GNU.sparse.major") == Some(b"1");
        let path = if sparse { extensions.pax("GNU.sparse.name") } else { None };
        let path = path.or(extensions.long_name.as_deref()).or(extensions.pax("path"));
        let path = path.map_or_else(|| header.path_bytes().into_owned(), <[u8]>::to_vec);
        let bad = |reason: &str| Error::unfit(self.origin, &path, reason);
        let link = extensions.long_link.as_deref().or(extensions.pax("linkpath")).map(<[u8]>::to_vec);
        let link = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default();
        let kind = match header.entry_type() {
            // Before there was a type for directories, a slash at the end told them.
            EntryType::Regular if path.ends_with(b"/") && size == 0 => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => return Err(bad("is stored as a sparse file; pack the archive without --sparse")),
            other => {
                let code = char::from(other.as_byte()).escape_default().to_string();
                return Err(bad(&format!("is of the type '{code}', which no file has")));
            }
        };
        if !sparse && extensions.pax.iter().flatten().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            return Err(bad("is stored as a sparse file; pack the archive without --sparse"));
        }
        let number = |key: &str| extensions.number(key).map_err(|()| bad(&format!("has a {key} that is not a number")));
        let real_size = match (sparse, number("GNU.sparse.realsize")?) {
            (false, _) => None,
            (true, Some(size)) if kind == Kind::File && extensions.pax("GNU.sparse.minor") == Some(b"0") => Some(size),
            _ => return Err(bad("is a sparse file of a form that is not understood")),
        };
        // For what has no content, some writers give the size of what is linked to.
        let size = match kind {
            Kind::File => number("size")?.unwrap_or(size),
            _ if size == 0 && number("size")?.unwrap_or(0) == 0 => 0,
            Kind::HardLink | Kind::Symlink if number("size")?.is_none() => 0,
            _ => return Err(bad("has content though it is not a regular file")),
        };
        let id = |key: &str, of_header: io::Result<u64>| match number(key)? {
            Some(id) => Ok(id),
            None => of_header.map_err(|_| bad(&format!("has a {key} that is not a number"))),
        };
        let attributes = Attributes {
            mode: header.mode().map_err(|_| bad("has a mode that is not a number"))?,
            uid: id("uid", header.uid())?,
            gid: id("gid", header.gid())?,
            mtime: extensions
                .pax("mtime")
                .and_then(time)
                .unwrap_or_else(|| (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0)),
            xattrs: extensions
                .pax
                .iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())))
                .collect(),
        };
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let marks = extensions.pax.iter().flatten();
        let marks = marks.filter_map(|(key, value)| Some((key.strip_prefix(MARK)?.to_vec(), value.clone()))).collect();
        Ok(Entry { path, link, kind, size, attributes, marks, real_size, offset: self.position })
    }

    /// Passes over what was not read of an entry.
    fn finish_entry(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.content).saturating_add(std::mem::take(&mut self.padding));
        if rest > 0 {
            self.position = self.position.saturating_add(rest);
            self.stream.pass(rest).map_err(self.unreadable())?;
        }
        Ok(())
    }

    /// The next block as a header; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 && self.unmarked => return Ok(None),
                Ok(0) => {
                    return Err(self.broken("the archive is cut short, it has no end mark"));
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable()(error)),
            }
        }
        let at = self.position;
        self.position += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum counts its own field as blanks.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.broken(format!("the header at byte {at} is damaged, or this is not a tar archive")));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, shown: &[u8], size: u64, limit: u64) -> Result<Vec<u8>> {
        if size > limit {
            return Err(self.bad(shown, format!("is an extended header of more than {limit} bytes")));
        }
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut bytes = Vec::new();
        Content(self).read_to_end(&mut bytes).map_err(|error| self.unreadable()(error))?;
        Ok(bytes)
    }

    /// Records of the form `<length> <key>=<value>\n`. Values may hold line feeds.
    fn records(&self, shown: &[u8], bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let damaged = || self.bad(shown, "is a damaged extended header");
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() && rest[0] != 0 {
            let blank = rest.iter().take(20).position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length > blank + 2 && *length <= rest.len()).ok_or_else(damaged)?;
            let (record, after) = rest.split_at(length);
            let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            found.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            rest = after;
        }
        Ok(found)
    }

    fn bad(&self, entry: &[u8], reason: impl Into<String>) -> Error {
        Error::unfit(self.origin, entry, reason)
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        Error::bad_import(std::path::Path::new(self.origin), reason)
    }

    fn unreadable(&self) -> impl FnOnce(io::Error) -> Error + use<> {
        let origin = self.origin.to_owned();
        move |error| Error::through_io("read", origin)(error)
    }
}

/// Reads the rest of the present entry's content; its end before that is an error.
struct Content<'r, 'a>(&'r mut Reader<'a>);

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.0.content).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.0.stream.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short within a file"));
        }
        self.0.content -= got as u64;
        self.0.position += got as u64;
        Ok(got)
    }
}

/// Seconds with a decimal fraction, since 1970; before that both count downwards.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = secs.starts_with('-');
    let secs: i64 = secs.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (negative, nanos) {
        (true, 1..) => Some((secs.checked_sub(1)?, 1_000_000_000_u32.checked_sub(nanos)?)),
        _ => Some((secs, nanos)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_on_both_sides_of_1970() {
        for (text, expected) in [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.0000000019", Some((12, 1))),
            ("-5.5", Some((-6, 500_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("-5", Some((-5, 0))),
            ("99999999999999", Some((99_999_999_999_999, 0))),
            ("99999999999999999999", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records_are_cut_by_their_length_not_by_line_feeds() {
        struct Nothing;
        impl Read for Nothing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
        }
        impl Stream for Nothing {}
        let mut nothing = Nothing;
        let reader = Reader::new(&mut nothing, "x");
        let records = reader.records(b"", b"11 path=a\n\n13 k=\n12 b=c\n").unwrap();
        let expected = [(b"path".to_vec(), b"a\n".to_vec()), (b"k".to_vec(), b"\n12 b=c".to_vec())];
        assert_eq!(records, expected);
        for damaged in ["5 a=b", "99 a=b\n", "x a=b\n", "6 abc\n", "0 a=b\n", "6 a=bc"] {
            assert!(reader.records(b"", damaged.as_bytes()).is_err(), "{damaged}");
        }
    }
}
