//! Writing what a tar stream holds: as a whole root, or as one layer of an image upon those before.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};

use super::sparse::{Stop, fill};
use super::tar::{Entry, Kind, Reader, Stream};
use crate::tree::write::{Attributes, TreeWriter};
use crate::{Error, Result};

/// Begins the name of an entry that hides what lower layers have of the rest of the name.
const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Marks an entry that is the template's, seen here because a directory was renamed.
pub(crate) const BELOW: &[u8] = b"below";
/// Begins the marks of extended attributes of overlayfs itself.
pub(crate) const OVERLAY: &[u8] = b"overlay.";
const OPAQUE_MARK: &[u8] = b"trusted.overlay.opaque";
const REDIRECT_MARK: &[u8] = b"trusted.overlay.redirect";
/// Says of a whiteout that it is another name of one that came before.
pub(crate) const LINK: &[u8] = b"link";
const BUFFER: usize = 256 * 1024;

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A whole root.
    Root,
    /// A layer, which can also hide what is below it.
    Layer,
    /// A layer that becomes the upper directory of an overlay as it is: nothing may come twice, marks that hide become
    /// those of the overlay, and what only shows through is left out.
    Upper,
}

/// What a path was in this archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Directory,
    Other,
}

struct Unpacker<'a> {
    origin: &'a str,
    writer: &'a mut TreeWriter,
    role: Role,
    /// Every path of this archive and every directory on the way, so that a name comes once, and a whiteout
    /// hides only what lower layers have.
    seen: HashMap<Vec<u8>, Seen>,
    /// Directories that hide what is below them, and of which other readers were not told yet.
    hiding: HashSet<Vec<u8>>,
    buffer: Vec<u8>,
}

/// Writes the archive's entries; `tick` is called now and then. Gives how many devices below `/dev` were left out,
/// where sandboxes have their own.
pub(crate) fn unpack(
    stream: &mut dyn Stream,
    origin: &str,
    writer: &mut TreeWriter,
    role: Role,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<u64> {
    let mut unpacker =
        Unpacker { origin, writer, role, seen: HashMap::new(), hiding: HashSet::new(), buffer: vec![0; BUFFER] };
    let mut reader = Reader::new(stream, origin);
    if role == Role::Upper {
        reader = reader.with_sparse();
    }
    if role != Role::Root {
        // Its digest is known, and tells whether it is whole.
        reader = reader.unmarked();
    }
    let mut left_out = 0;
    while let Some(entry) = reader.next()? {
        if role == Role::Upper && entry.mark(BELOW).is_some() {
            tick()?;
            continue;
        }
        if !unpacker.entry(&entry, &mut reader, tick)? {
            left_out += 1;
        }
        tick()?;
    }
    Ok(left_out)
}

impl Unpacker<'_> {
    /// Writes one entry; `false` if it was left out.
    fn entry(&mut self, entry: &Entry, reader: &mut Reader<'_>, tick: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let bad = |reason: &str| Error::unfit(self.origin, &entry.path, reason);
        let path = clean(&entry.path).map_err(bad)?;
        if path.is_empty() && entry.kind != Kind::Directory {
            return Err(bad("is the root but not a directory"));
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            if self.role == Role::Root {
                return Err(bad(
                    "is a mark of an image's layer; import the whole image as OCI layout or docker-archive",
                ));
            }
            if self.role == Role::Upper {
                return self.hide(entry, &path, name).map(|()| true);
            }
            let (path, name) = (path.clone(), name.to_vec());
            return self.whiteout(entry, &path, &name).map(|()| true);
        }
        if entry.kind == Kind::Device {
            // What every complete root is packed with; sandboxes get their own.
            return if path.starts_with(b"dev/") && self.role != Role::Upper {
                Ok(false)
            } else {
                Err(bad("is a device, which has no place here"))
            };
        }
        self.note(&path, entry)?;
        if self.role == Role::Upper {
            return self.upper_entry(entry, &path, reader, tick).map(|()| true);
        }
        match entry.kind {
            Kind::Directory => self.writer.directory(&path, &entry.attributes)?,
            Kind::Symlink => self.writer.symlink(&path, &entry.link, &entry.attributes)?,
            Kind::Fifo => self.writer.fifo(&path, &entry.attributes)?,
            Kind::HardLink => {
                let target = clean(&entry.link).map_err(|reason| {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    bad(&format!("is a hard link to {target:?}, which {reason}"))
                })?;
                self.writer.hard_link(&path, &target)?;
            }
            Kind::File => {
                let buffer = &mut self.buffer;
                self.writer.file(&path, &entry.attributes, entry.size, &mut |mut file| {
                    let mut content = reader.content();
                    loop {
                        let got = match content.read(buffer) {
                            Ok(0) => return Ok(()),
                            Ok(got) => got,
                            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                            Err(error) => return Err(Error::through_io("read", self.origin)(error)),
                        };
                        file.write_all(&buffer[..got]).map_err(Error::io("unpack", self.origin))?;
                        tick()?;
                    }
                })?;
            }
            // Left out or refused above.
            Kind::Device => {}
        }
        Ok(true)
    }

    /// Notes a path; refuses one that is there twice, since readers differ in which one counts.
    fn note(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let now = if entry.kind == Kind::Directory { Seen::Directory } else { Seen::Other };
        match self.seen.get(path) {
            None => {}
            Some(Seen::Directory) if now == Seen::Directory && self.role != Role::Upper => return Ok(()),
            Some(_) => return Err(Error::unfit(self.origin, path, "is in the archive twice")),
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            match self.seen.get(&path[..at]) {
                Some(Seen::Directory) => {}
                Some(Seen::Other) => {
                    return Err(Error::unfit(self.origin, path, "lies below something that is not a directory"));
                }
                None => {
                    self.writer.remember(&path[..at])?;
                    self.seen.insert(path[..at].to_vec(), Seen::Directory);
                }
            }
        }
        self.writer.remember(path)?;
        self.seen.insert(path.to_vec(), now);
        Ok(())
    }

    /// Writes an entry with everything that it has in a layer.
    fn upper_entry(
        &mut self,
        entry: &Entry,
        path: &[u8],
        reader: &mut Reader<'_>,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let attributes = with_marks(entry);
        match entry.kind {
            Kind::Directory => {
                if attributes.xattrs.iter().any(|(name, _)| name == OPAQUE_MARK || name == REDIRECT_MARK) {
                    self.hiding.insert(path.to_vec());
                }
                self.writer.directory(path, &attributes)
            }
            Kind::Symlink => self.writer.symlink(path, &entry.link, &attributes),
            Kind::Fifo => self.writer.fifo(path, &attributes),
            Kind::HardLink => {
                let target = self.target(entry, &entry.link)?;
                self.writer.hard_link(path, &target)
            }
            Kind::File => {
                let (origin, buffer) = (self.origin, &mut self.buffer);
                let size = entry.real_size.unwrap_or(entry.size);
                self.writer.file(path, &attributes, size, &mut |file| {
                    let unfit = |reason: &str| Error::unfit(origin, &entry.path, reason);
                    fill(file, entry, &mut reader.content(), buffer, &unfit, tick).map_err(|stop| match stop {
                        Stop::Refused(error) => error,
                        Stop::Read(error) => Error::through_io("read", origin)(error),
                        Stop::Write(error) => Error::io("unpack", origin)(error),
                    })
                })
            }
            Kind::Device => Err(Error::unfit(self.origin, path, "is a device, which has no place here")),
        }
    }

    /// Makes the overlay's own mark of one that hides something.
    fn hide(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<()> {
        let bad = |reason: &str| Error::unfit(self.origin, &entry.path, reason);
        if entry.kind != Kind::File || entry.size != 0 {
            return Err(bad("is a whiteout but not an empty file"));
        }
        let holder = path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default();
        if name == OPAQUE {
            // The directory's own entry said so already; this is for other readers.
            return match self.hiding.remove(holder) {
                true => Ok(()),
                false => Err(bad("hides what is below a directory that does not say so, or says so twice")),
            };
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(WHITEOUT) || matches!(hidden, b"" | b"." | b"..") {
            return Err(bad("is a whiteout of no name"));
        }
        let mut target = holder.to_vec();
        if !target.is_empty() {
            target.push(b'/');
        }
        target.extend_from_slice(hidden);
        self.note(&target, entry)?;
        match entry.mark(LINK) {
            Some(first) => {
                let first = self.target(entry, first)?;
                self.writer.hard_link(&target, &first)
            }
            None => self.writer.whiteout(&target, &with_marks(entry)),
        }
    }

    fn target(&self, entry: &Entry, link: &[u8]) -> Result<Vec<u8>> {
        clean(link).map_err(|reason| {
            let shown = String::from_utf8_lossy(link).into_owned();
            Error::unfit(self.origin, &entry.path, format!("is a hard link to {shown:?}, which {reason}"))
        })
    }

    fn whiteout(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<()> {
        let holder = path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default();
        let keep = |path: &[u8]| self.seen.contains_key(path);
        if name == OPAQUE {
            return self.writer.clear(holder, false, &keep);
        }
        let hidden = &name[WHITEOUT.len()..];
        // Marks of the union filesystem itself, e.g. `.wh..wh.plnk`.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::unfit(self.origin, &entry.path, "is a whiteout of no name"));
        }
        let mut target = holder.to_vec();
        if !target.is_empty() {
            target.push(b'/');
        }
        target.extend_from_slice(hidden);
        self.writer.clear(&target, true, &keep)
    }
}

/// What an entry has, and the marks of overlayfs among it.
fn with_marks(entry: &Entry) -> Attributes {
    let mut attributes = entry.attributes.clone();
    for (key, value) in &entry.marks {
        if let Some(name) = key.strip_prefix(OVERLAY) {
            attributes.xattrs.push(([b"trusted.overlay.", name].concat(), value.clone()));
        } else if let Some(name) = key.strip_prefix(b"xattr.").and_then(|name| hex::decode(name).ok()) {
            attributes.xattrs.push((name, value.clone()));
        }
    }
    attributes
}

/// The path without what means nothing (`./`, `//`); refuses what leads out.
fn clean(path: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if path.is_empty() {
        return Err("has no name");
    }
    if path.starts_with(b"/") {
        return Err("is an absolute path");
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("has '..' in its path"),
            _ => {}
        }
        if !cleaned.is_empty() {
            cleaned.push(b'/');
        }
        cleaned.extend_from_slice(part);
    }
    Ok(cleaned)
}
