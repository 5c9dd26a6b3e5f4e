//! The two kinds of layers: a whole template, and what a sandbox changed upon it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

use forkpoint_templates::portable::{BELOW, LINK, OVERLAY};
use forkpoint_volumes::{Everything, FileKind, LayerItem, Metadata, Tree, read_layer, read_tree};
use tar::EntryType;

use crate::emit::{END, Member, write_padding};
use crate::{Error, Result, Stop, content};

/// Begins the name of a mark that hides something of lower layers.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Which layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Everything of the template.
    Template,
    /// What the layer has, and what shows through it elsewhere than in the template.
    Changes,
}

/// Writes a layer as a tar archive. The same tree gives the same bytes.
pub(crate) fn write(which: Which, tree: &Tree, to: &mut dyn Write, stop: Stop<'_>) -> Result<()> {
    // Templates are also taken from images that others made, where sparse files have no place.
    let mut writer = Writer { to, stop, sparse: which == Which::Changes, linked: HashMap::new() };
    let mut failure = None;
    // What ends the walk is told below.
    let mut keep = |outcome: Result<()>| {
        outcome.map_err(|error| {
            failure = Some(error);
            forkpoint_volumes::Error::Changed { path: std::path::PathBuf::new() }
        })
    };
    let walked = match which {
        Which::Template => {
            let bare = Tree { template: tree.template.clone(), layer: None };
            read_tree(&bare, &Everything, &mut |entry| {
                let found = Found {
                    path: entry.path,
                    meta: &entry.meta,
                    whiteout: false,
                    below: false,
                    xattrs: &|| entry.xattrs(),
                    target: &|| entry.target(),
                    open: &|| entry.open(),
                };
                keep(writer.entry(&found))
            })
        }
        Which::Changes => read_layer(tree, &mut |item| match item {
            LayerItem::Hides(path) => keep(writer.hides(path)),
            LayerItem::Entry(entry) => {
                let found = Found {
                    path: entry.path,
                    meta: &entry.meta,
                    whiteout: entry.is_whiteout(),
                    below: !entry.own,
                    xattrs: &|| entry.xattrs(),
                    target: &|| entry.target(),
                    open: &|| entry.open(),
                };
                keep(writer.entry(&found))
            }
        }),
    };
    match (failure, walked) {
        (Some(error), _) => return Err(error),
        (None, walked) => walked?,
    }
    to.write_all(&END).map_err(Error::io("write the archive"))
}

type Ask<'a, T> = &'a dyn Fn() -> forkpoint_volumes::Result<T>;

/// An entry of either walk.
struct Found<'a> {
    path: &'a [u8],
    meta: &'a Metadata,
    whiteout: bool,
    below: bool,
    xattrs: Ask<'a, Vec<(Vec<u8>, Vec<u8>)>>,
    target: Ask<'a, Vec<u8>>,
    open: Ask<'a, File>,
}

struct Writer<'a> {
    to: &'a mut dyn Write,
    stop: Stop<'a>,
    /// Whether holes are left out.
    sparse: bool,
    /// Of inodes with several names, the first path.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl Writer<'_> {
    fn entry(&mut self, found: &Found<'_>) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Stopped);
        }
        let refuse = |reason| Error::NotPortable { path: String::from_utf8_lossy(found.path).into_owned(), reason };
        let relative = found.path.strip_prefix(b"/").unwrap_or(found.path);
        let (holder, name) = split(relative);
        if name.starts_with(WHITEOUT) {
            return Err(refuse("in images, names that begin with '.wh.' hide other files; rename it"));
        }
        let kind = match found.meta.kind {
            _ if found.whiteout => EntryType::Regular,
            FileKind::Directory => EntryType::Directory,
            FileKind::File => EntryType::Regular,
            FileKind::Symlink => EntryType::Symlink,
            FileKind::Fifo => EntryType::Fifo,
            // Worthless without the program that made it.
            FileKind::Socket => return Ok(()),
            FileKind::Device => return Err(refuse("it is a device, which no layer has")),
        };
        let path = match kind {
            EntryType::Directory => [if relative.is_empty() { b"." } else { relative }, b"/"].concat(),
            _ if found.whiteout => [holder, WHITEOUT, name].concat(),
            _ => relative.to_vec(),
        };
        let meta = found.meta;
        let mut member = Member {
            path: &path,
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: (meta.mtime.secs, meta.mtime.nanos),
            size: 0,
            link: b"",
            records: records(found)?,
        };
        if meta.links > 1 && kind != EntryType::Directory {
            if let Some(first) = self.linked.get(&meta.id).cloned() {
                if found.whiteout {
                    member.records = vec![([b"FORKPOINT.", LINK].concat(), first)];
                    return self.header(&member);
                }
                // What it is stands with its first name.
                member.records.retain(|(key, _)| key.strip_prefix(b"FORKPOINT.") == Some(BELOW));
                return self.header(&Member { kind: EntryType::Link, link: &first, ..member });
            }
            self.linked.insert(meta.id, relative.to_vec());
        }
        match kind {
            EntryType::Symlink => {
                let target = (found.target)()?;
                self.header(&Member { link: &target, ..member })
            }
            EntryType::Regular if !found.whiteout => self.file(member, (holder, name), found),
            _ => self.header(&member),
        }
    }

    /// The mark that nothing of lower layers is seen in a directory.
    fn hides(&mut self, path: &[u8]) -> Result<()> {
        let mut mark = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        mark.push(b'/');
        mark.extend_from_slice(OPAQUE);
        self.header(&Member { mode: 0, ..Member::plain(&mark, EntryType::Regular, 0) })
    }

    fn file(&mut self, mut member: Member<'_>, (holder, name): (&[u8], &[u8]), found: &Found<'_>) -> Result<()> {
        let (file, size) = ((found.open)()?, found.meta.size);
        let runs = if self.sparse { content::runs(&file, size, self.stop)? } else { vec![(0, size)] };
        if size == 0 || runs == [(0, size)] {
            member.size = size;
            self.header(&member)?;
            content::copy(&file, 0, size, self.to, self.stop)?;
            return self.pad(size);
        }
        // The form that GNU tar calls 1.0: a map before the runs.
        let mut map = format!("{}\n", runs.len());
        for (offset, length) in &runs {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let real = member.path.to_vec();
        for (key, value) in [
            (&b"GNU.sparse.major"[..], &b"1"[..]),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", &real),
            (b"GNU.sparse.realsize", size.to_string().as_bytes()),
        ] {
            member.records.push((key.to_vec(), value.to_vec()));
        }
        let shown = [holder, b"GNUSparseFile.0/", name].concat();
        let size = map.len() as u64 + runs.iter().map(|(_, length)| length).sum::<u64>();
        let member = Member { path: &shown, size, ..member };
        self.header(&member)?;
        self.to.write_all(&map).map_err(Error::io("write the archive"))?;
        for (offset, length) in runs {
            content::copy(&file, offset, length, self.to, self.stop)?;
        }
        self.pad(member.size)
    }

    fn header(&mut self, member: &Member<'_>) -> Result<()> {
        self.to.write_all(&member.header()).map_err(Error::io("write the archive"))
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        write_padding(self.to, size).map_err(Error::io("write the archive"))
    }
}

/// Attributes and marks as extended headers. What is overlayfs' own, other readers must not set.
fn records(found: &Found<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    if found.below {
        records.push(([b"FORKPOINT.", BELOW].concat(), b"1".to_vec()));
    }
    for (name, value) in (found.xattrs)()? {
        let key = match name.strip_prefix(b"trusted.overlay.") {
            Some(mark) => [b"FORKPOINT.", OVERLAY, mark].concat(),
            // A key ends at its first '='.
            None if name.contains(&b'=') => [&b"FORKPOINT.xattr."[..], hex::encode(&name).as_bytes()].concat(),
            None => [b"SCHILY.xattr.", &name[..]].concat(),
        };
        records.push((key, value));
    }
    Ok(records)
}

/// The directory part with its slash, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => path.split_at(at + 1),
        None => (b"", path),
    }
}
