//! Looks at every name of a layer once, without reading any content.

use crate::{
    VaultError,
    error::Result,
    files::{Root, join, xattrs},
    tree::Meta,
};
use rustix::fs::{AtFlags, Dir, FileType, StatxFlags};
use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
};

/// The most entries a layer may have.
pub(crate) const MAX_ENTRIES: usize = 4_000_000;

/// By what a change of a file is seen. The change time cannot be set from inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) ctime: (i64, u32),
}

/// A layer as it was found: directories in pre-order, each with its entries sorted by name.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) directories: Vec<Directory>,
    pub(crate) entries: u64,
}

#[derive(Debug)]
pub(crate) struct Directory {
    /// Relative to the top, which is empty.
    pub(crate) path: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) entries: Vec<Found>,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Box<[u8]>,
    pub(crate) kind: FoundKind,
    pub(crate) stamp: Stamp,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// See [`crate::tree::Leaf::link`].
    pub(crate) link: Option<[u8; 16]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoundKind {
    /// Its place among [`Scan::directories`].
    Directory(u32),
    File,
    Symlink,
    Fifo,
    Whiteout,
}

impl Found {
    pub(crate) fn meta(&self, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Meta {
        Meta { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.stamp.mtime, xattrs }
    }
}

/// Looks at everything below `root`. Sockets are left out: nothing listens on them any more.
pub(crate) fn scan(root: &Root) -> Result<Scan> {
    let mut scan = Scan { directories: Vec::new(), entries: 0 };
    // Names still to be visited: path, and which entry of which directory it is.
    let mut pending = vec![(Vec::new(), None::<(usize, usize)>)];
    let mut linked: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
    while let Some((path, parent)) = pending.pop() {
        let number = scan.directories.len();
        if let Some((directory, entry)) = parent {
            scan.directories[directory].entries[entry].kind = FoundKind::Directory(number as u32);
        }
        let directory = look(root, path)?;
        scan.entries += directory.entries.len() as u64;
        if scan.entries > MAX_ENTRIES as u64 {
            return Err(VaultError::tree(&directory.path, format!("makes more than {MAX_ENTRIES} entries")));
        }
        // The last pushed is visited first: backwards, so that the walk is in order.
        for (at, entry) in directory.entries.iter().enumerate().rev() {
            if matches!(entry.kind, FoundKind::Directory(_)) {
                pending.push((join(&directory.path, &entry.name), Some((number, at))));
            }
        }
        for (at, entry) in directory.entries.iter().enumerate() {
            if entry.link.is_some() {
                linked.entry(entry.stamp.inode).or_default().push((number, at));
            }
        }
        scan.directories.push(directory);
    }
    for names in linked.into_values() {
        let (directory, entry) = names[0];
        let first = &scan.directories[directory];
        let hash = blake3::hash(&join(&first.path, &first.entries[entry].name));
        let mut link = [0; 16];
        link.copy_from_slice(&hash.as_bytes()[..16]);
        for (directory, entry) in &names {
            // A file whose other names lie outside the layer has one name here.
            scan.directories[*directory].entries[*entry].link = (names.len() > 1).then_some(link);
        }
    }
    Ok(scan)
}

fn look(root: &Root, path: Vec<u8>) -> Result<Directory> {
    let fd = root.directory(&path)?;
    let failed = |action, error: rustix::io::Errno| VaultError::files(action, &path, error);
    let own = found(fd.as_fd(), b"").map_err(|e| failed("look at", e))?;
    let own = own.ok_or_else(|| VaultError::tree(&path, "is no directory any more"))?;
    let meta = own.meta(xattrs(fd.as_fd()).map_err(|e| failed("read attributes of", e))?);
    let mut entries = Vec::new();
    for entry in Dir::read_from(&fd).map_err(|e| failed("list", e))? {
        let entry = entry.map_err(|e| failed("list", e))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(VaultError::tree(&path, format!("has more than {MAX_ENTRIES} entries")));
        }
        match found(fd.as_fd(), name) {
            Ok(Some(found)) => entries.push(found),
            Ok(None) if entry.file_type() == FileType::Socket => {}
            Ok(None) => {
                let file = join(&path, name);
                if rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
                {
                    continue;
                }
                return Err(VaultError::tree(&file, "is a device; a layer has none but whiteouts"));
            }
            Err(error) => return Err(VaultError::files("look at", join(&path, name), error)),
        }
    }
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(Directory { path, meta, entries })
}

/// What a name is; `None`: a socket or a device that is no whiteout.
fn found(folder: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Found>> {
    let own = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | own;
    let stat = rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS)?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => FoundKind::File,
        FileType::Directory => FoundKind::Directory(u32::MAX),
        FileType::Symlink => FoundKind::Symlink,
        FileType::Fifo => FoundKind::Fifo,
        FileType::CharacterDevice if (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0) => FoundKind::Whiteout,
        _ => return Ok(None),
    };
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    Ok(Some(Found {
        name: name.into(),
        kind,
        stamp: Stamp {
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        },
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        // Whether it really has another name here is known at the end.
        link: (stat.stx_nlink > 1 && !matches!(kind, FoundKind::Directory(_))).then_some([0; 16]),
    }))
}
