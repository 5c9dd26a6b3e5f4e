//! Where an image's parts lie: in a directory, or in a tar archive of one.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use sha2::{Digest as _, Sha256};

use super::Tick;
use super::stream::Section;
use super::tar::{Kind, Reader};
use crate::limits::Limits;
use crate::{Error, Result, tree};

/// The largest JSON document of an image that is read.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The most parts of a checkpoint's layout.
const MAX_BLOBS: u64 = 1024;

/// An image's parts by name.
#[derive(Debug)]
pub(crate) enum Blobs {
    Directory { root: OwnedFd, path: PathBuf },
    Archive { file: File, path: PathBuf, parts: HashMap<String, Part> },
}

/// A part within an archive.
#[derive(Debug)]
pub(crate) enum Part {
    At {
        offset: u64,
        size: u64,
    },
    /// Older archives hold a layer once and link to it.
    Link(String),
}

impl Blobs {
    /// Opens a directory; `shown` is what messages call it.
    pub(crate) fn directory(path: &Path, shown: &Path) -> Result<Self> {
        Ok(Self::Directory { root: tree::open_root(path)?, path: shown.to_path_buf() })
    }

    /// Lists an uncompressed archive without reading its contents.
    pub(crate) fn archive(file: File, path: &Path, limits: &Limits) -> Result<Self> {
        let size = file.metadata().map_err(Error::io("stat", path))?.len();
        let section = Section::new(file.try_clone().map_err(Error::io("open", path))?, 0, size);
        let origin = path.display().to_string();
        let mut stream = section.seekable();
        let mut reader = Reader::new(&mut stream, &origin);
        let mut parts = HashMap::new();
        let mut entries = 0;
        while let Some(entry) = reader.next()? {
            entries += 1;
            if entries > limits.max_entries {
                let reason = format!("more than {} entries", limits.max_entries);
                return Err(Error::TooLarge { origin, reason });
            }
            let Ok(name) = String::from_utf8(entry.path) else { continue };
            let name = name.trim_start_matches("./").to_owned();
            let part = match entry.kind {
                Kind::File => Part::At { offset: entry.offset, size: entry.size },
                Kind::Symlink => match resolve(&name, &String::from_utf8_lossy(&entry.link)) {
                    Some(target) => Part::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            parts.insert(name, part);
        }
        Ok(Self::Archive { file, path: path.to_path_buf(), parts })
    }

    /// Lists an uncompressed archive that holds an OCI layout and nothing else, and checks every blob against the digest
    /// that it is named by.
    pub(crate) fn checked_layout(file: File, path: &Path, limits: &Limits, tick: Tick<'_>) -> Result<Self> {
        let size = file.metadata().map_err(Error::io("stat", path))?.len();
        let copy = || file.try_clone().map_err(Error::io("open", path));
        let origin = path.display().to_string();
        let mut stream = Section::new(copy()?, 0, size).seekable();
        let mut reader = Reader::new(&mut stream, &origin);
        let mut parts = HashMap::new();
        while let Some(entry) = reader.next()? {
            let unfit = |reason: &str| Error::unfit(&origin, &entry.path, reason);
            if parts.len() as u64 > MAX_BLOBS.min(limits.max_entries) {
                return Err(unfit("is one part too many for an OCI layout of one checkpoint"));
            }
            let name = String::from_utf8(entry.path.clone()).map_err(|_| unfit("is not part of an OCI layout"))?;
            let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
            match (entry.kind, &name[..]) {
                (Kind::Directory, "" | "." | "blobs" | "blobs/sha256") => continue,
                (Kind::File, "oci-layout" | "index.json") => {}
                (Kind::File, blob) if digest_of(blob).is_some() => {}
                _ => return Err(unfit("is not part of an OCI layout")),
            }
            if parts.insert(name, Part::At { offset: entry.offset, size: entry.size }).is_some() {
                return Err(unfit("is in the archive twice"));
            }
        }
        let blobs = Self::Archive { file, path: path.to_path_buf(), parts };
        blobs.check_digests(size, tick)?;
        Ok(blobs)
    }

    fn check_digests(&self, total: u64, tick: Tick<'_>) -> Result<()> {
        let Self::Archive { path, parts, .. } = self else { return Ok(()) };
        let (mut buffer, mut done) = (vec![0; 256 * 1024], 0);
        for name in parts.keys() {
            let Some((digest, mut section)) = digest_of(name).zip(self.open(name)?) else { continue };
            let mut hasher = Sha256::new();
            loop {
                let got = section.read(&mut buffer).map_err(Error::io("read", path))?;
                if got == 0 {
                    break;
                }
                hasher.update(&buffer[..got]);
                done += got as u64;
                tick(done, total)?;
            }
            if section.len() > 0 {
                return Err(Error::bad_import(path, format!("{name:?} in it is cut short")));
            }
            if hex::encode(hasher.finalize()) != digest {
                return Err(Error::bad_import(
                    path,
                    format!("{name:?} in it does not have this digest: it is damaged"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. } | Self::Archive { path, .. } => path,
        }
    }

    /// Opens a part; `None` if there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Section>> {
        match self {
            Self::Directory { root, path } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
                let shown = path.join(name);
                let file = match rustix::fs::openat2(root.as_fd(), name, flags, Mode::empty(), resolve) {
                    Ok(fd) => File::from(fd),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    Err(Errno::LOOP | Errno::XDEV) => {
                        return Err(Error::bad_import(path, format!("{name:?} in it is a link or leads out of it")));
                    }
                    Err(errno) => return Err(Error::os("open", shown)(errno)),
                };
                let stat = file.metadata().map_err(Error::io("stat", &shown))?;
                if !stat.is_file() {
                    return Err(Error::bad_import(path, format!("{name:?} in it is not a regular file")));
                }
                Ok(Some(Section::new(file, 0, stat.len())))
            }
            Self::Archive { file, path, parts } => {
                let part = match parts.get(name) {
                    Some(Part::Link(target)) => parts.get(target),
                    other => other,
                };
                let Some(Part::At { offset, size }) = part else { return Ok(None) };
                let file = file.try_clone().map_err(Error::io("open", path))?;
                Ok(Some(Section::new(file, *offset, *size)))
            }
        }
    }

    /// Reads a whole JSON document; `None` if there is none.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.open(name)? else { return Ok(None) };
        if section.len() > MAX_DOCUMENT {
            return Err(Error::bad_import(self.path(), format!("{name:?} in it has more than {MAX_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::new();
        let mut limited = section.take(MAX_DOCUMENT);
        limited.read_to_end(&mut bytes).map_err(Error::io("read", self.path()))?;
        Ok(Some(bytes))
    }

    /// Whether there is such a part.
    pub(crate) fn has(&self, name: &str) -> bool {
        matches!(self.open(name), Ok(Some(_)))
    }
}

/// The SHA-256 that names a blob of an OCI layout, in hex.
fn digest_of(name: &str) -> Option<&str> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix("blobs/sha256/").filter(|hex| hex.len() == 64 && hex.bytes().all(lower))
}

/// What a link at `name` leads to within the archive.
fn resolve(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" if target.starts_with('/') => return None,
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn links_within_an_archive_stay_in_it() {
        for (name, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "./x", Some("a/x")),
            ("layer.tar", "../x", None),
            ("a/layer.tar", "/etc/passwd", None),
        ] {
            assert_eq!(resolve(name, target).as_deref(), expected);
        }
    }
}
