//! A store in a directory of this machine: files 0600, directories 0700, everything synced before it is named.
//!
//! An object is written to `tmp/`, locked while that lasts, synced, renamed into place, and its directory synced.
//! A file in `tmp/` whose lock is free belongs to a writer that died.

use super::{Keep, ObjectInfo, Store, StoreError};
use bytes::Bytes;
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

const TMP: &str = "tmp";
/// How much is written at once past the page cache, and from which size on that is done; in bytes.
const DIRECT: usize = 1 << 20;
/// What every disk's block size divides.
const ALIGNMENT: usize = 4096;
/// How often a write is begun again because its directory was removed under it.
const RACES: usize = 4;

/// Objects as files below one directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Opens the store in `root`, making the directory if it is not there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        let tmp = store.root.join(TMP);
        make_directories(&tmp).map_err(|error| told("make", &tmp.to_string_lossy(), error))?;
        store.tidy()?;
        Ok(store)
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        let good = |part: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
        };
        if key.split('/').all(good) && key.split('/').next() != Some(TMP) {
            return Ok(self.root.join(key));
        }
        let problem = "is no key of the vault".into();
        Err(StoreError::Refused { action: "look for", key: key.into(), problem })
    }

    /// A synced file in `tmp/`, locked by the answered descriptor.
    fn written(&self, body: &[u8], keep: Keep) -> io::Result<(PathBuf, File)> {
        let path = self.root.join(TMP).join(format!("{:032x}", rand::random::<u128>()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file: File = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?.into();
        let written = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .and_then(|()| if body.len() >= DIRECT { write_direct(&mut file, body) } else { file.write_all(body) })
            .and_then(|()| if keep == Keep::Always { file.sync_all() } else { Ok(()) });
        match written {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Writes an object and names it with `name(from, to)`.
    fn place(
        &self,
        key: &str,
        body: &[u8],
        keep: Keep,
        name: fn(&Path, &Path) -> io::Result<bool>,
    ) -> Result<bool, StoreError> {
        let target = self.path(key)?;
        let (Some(folder), mut races) = (target.parent(), 0) else { unreachable!("a key is below the root") };
        let failed = |error| told("write", key, error);
        loop {
            make_directories(folder).map_err(failed)?;
            let (temporary, _lock) = self.written(body, keep).map_err(failed)?;
            let named = name(&temporary, &target);
            if !matches!(named, Ok(true)) {
                let _ = std::fs::remove_file(&temporary);
            }
            match named {
                Ok(new) => {
                    if keep == Keep::Always {
                        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
                    }
                    return Ok(new);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && races < RACES => races += 1,
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn visit(&self, folder: &Path, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> io::Result<()> {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = format!("{prefix}{name}");
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() && !(prefix.is_empty() && name == TMP) {
                self.visit(&entry.path(), &format!("{key}/"), each)?;
            } else if metadata.is_file() {
                each(ObjectInfo { key, size: metadata.len(), modified: metadata.modified()? });
            }
        }
        Ok(())
    }
}

impl Store for LocalStore {
    fn put(&self, key: &str, body: Bytes, keep: Keep) -> Result<(), StoreError> {
        self.place(key, &body, keep, |from, to| std::fs::rename(from, to).map(|()| true)).map(|_| ())
    }

    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError> {
        self.place(key, &body, Keep::Always, |from, to| {
            match rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()) {
                Ok(()) => std::fs::remove_file(from).map(|()| true),
                Err(Errno::EXIST) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { key: key.into() },
            io::ErrorKind::UnexpectedEof => StoreError::Short { key: key.into() },
            _ => told("read", key, error),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file: File = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| failed(e.into()))?.into();
        let size = file.metadata().map_err(failed)?.len();
        let range = range.unwrap_or(0..size);
        if range.end > size || range.start > range.end {
            return Err(StoreError::Short { key: key.into() });
        }
        let mut body = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut body, range.start).map_err(failed)?;
        Ok(body.into())
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let folder = match prefix.strip_suffix('/') {
            Some(folder) => self.path(folder)?,
            None => self.root.clone(),
        };
        self.visit(&folder, prefix, each).map_err(|error| told("list", prefix, error))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told("delete", key, error)),
            _ => {}
        }
        // Directories go when they are empty; a writer that had just made one makes it again.
        for folder in path.ancestors().skip(1).take_while(|folder| **folder != *self.root) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn tidy(&self) -> Result<(), StoreError> {
        let tmp = self.root.join(TMP);
        let failed = |error| told("tidy", TMP, error);
        for entry in std::fs::read_dir(&tmp).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// Writes a large object past the page cache: nobody reads it soon but to verify it, which then asks the disk.
fn write_direct(file: &mut File, body: &[u8]) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&*file)?;
    let mut written = 0;
    if rustix::fs::fcntl_setfl(&*file, flags | OFlags::DIRECT).is_ok() {
        let mut room = vec![0; DIRECT + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT);
        let buffer = &mut room[start..start + DIRECT];
        for piece in body.chunks_exact(DIRECT) {
            buffer.copy_from_slice(piece);
            match file.write_all_at(buffer, written as u64) {
                Ok(()) => written += piece.len(),
                // This file system wants another alignment, or none of this.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
                Err(error) => return Err(error),
            }
        }
        rustix::fs::fcntl_setfl(&*file, flags)?;
    }
    file.write_all_at(&body[written..], written as u64)
}

/// Makes a directory and its parents (0700), each synced into its parent.
fn make_directories(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = folder.parent() else { return Err(error) };
            make_directories(parent)?;
            match std::fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn told(action: &'static str, key: &str, error: io::Error) -> StoreError {
    let key = key.to_owned();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => StoreError::NoSpace { action, key },
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
            StoreError::Refused { action, key, problem: error.to_string() }
        }
        _ => StoreError::Unavailable { action, key, problem: error.to_string() },
    }
}
