//! An exclusive lock on a directory, held between processes by a file in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::progress::{Reporter, Stage};
use crate::{Error, Result};

/// Held until dropped; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir` unless somebody has it.
    pub(crate) fn try_take(dir: &Path) -> Result<Option<Self>> {
        let (file, path) = open(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::Io { action: "lock", path, source }),
        }
    }

    /// Takes the lock of `dir`, waiting for whoever has it and reporting that.
    pub(crate) fn take(dir: &Path, reporter: &mut Reporter<'_>) -> Result<Self> {
        let (file, path) = open(dir)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    reporter.report(Stage::Waiting, 0)?;
                    // A blocking lock could not be cancelled; the holder takes seconds to minutes.
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { action: "lock", path, source });
                }
            }
        }
    }
}

fn open(dir: &Path) -> Result<(File, PathBuf)> {
    let path = dir.join(".lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(Error::io("open lock", &path))?;
    Ok((file, path))
}
