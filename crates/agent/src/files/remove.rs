//! Removes files and trees.

use std::ffi::CString;

use forkpoint_protocol::ErrorKind;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Stop;
use super::path::{self, Place};
use super::tree::{Cursor, is_directory};
use crate::failure::{Failure, shown};

/// Names read at once; a directory is read again until it is empty.
const BATCH: usize = 4096;
/// Somebody who goes on making files in a directory keeps it.
const MAX_ROUNDS: usize = 1000;

/// Removes what the path names, a link itself and not what it leads to.
pub(super) fn remove(path: &[u8], recursive: bool, stop: &Stop) -> Result<(), Failure> {
    let failed = |errno| Failure::at("remove", path, errno);
    let place = path::place(path)?;
    let stat = rustix::fs::statat(&place.parent, &place.name[..], AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if !is_directory(&stat) {
        return rustix::fs::unlinkat(&place.parent, &place.name[..], AtFlags::empty()).map_err(failed);
    }
    if recursive {
        // Before any effect: a mounted directory can be emptied but not removed.
        let parent = rustix::fs::fstat(&place.parent).map_err(failed)?;
        if parent.st_dev != stat.st_dev {
            return Err(mounted(path));
        }
        empty(path, &place, stop)?;
    }
    rustix::fs::unlinkat(&place.parent, &place.name[..], AtFlags::REMOVEDIR).map_err(failed)
}

fn empty(path: &[u8], place: &Place, stop: &Stop) -> Result<(), Failure> {
    let failed = |errno| Failure::at("remove what is in", path, errno);
    let mut cursor = Cursor::open_at(&place.parent, &place.name).map_err(failed)?;
    let device = cursor.identity().0;
    let mut levels = vec![Level::default()];
    while let Some(level) = levels.last_mut() {
        stop.check()?;
        let Some(name) = level.names.next() else {
            if level.read(&cursor).map_err(failed)? {
                continue;
            }
            levels.pop();
            if let Some(name) = levels.last_mut().and_then(|level| level.entered.take()) {
                cursor.leave().map_err(failed)?;
                match rustix::fs::unlinkat(cursor.fd(), &name, AtFlags::REMOVEDIR) {
                    // Filled again meanwhile: it comes up when this directory is read again.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
            continue;
        };
        match rustix::fs::unlinkat(cursor.fd(), &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                cursor.enter(name.to_bytes()).map_err(failed)?;
                if cursor.identity().0 != device {
                    return Err(mounted(path));
                }
                level.entered = Some(name);
                levels.push(Level::default());
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// A directory being emptied.
#[derive(Default)]
struct Level {
    names: std::vec::IntoIter<CString>,
    /// Subdirectory in which the work is.
    entered: Option<CString>,
    rounds: usize,
}

impl Level {
    /// Reads names again; false when there are none.
    fn read(&mut self, cursor: &Cursor) -> Result<bool, Errno> {
        self.rounds += 1;
        let (names, _) = cursor.names(BATCH)?;
        if names.is_empty() {
            return Ok(false);
        }
        if self.rounds > MAX_ROUNDS {
            return Err(Errno::NOTEMPTY);
        }
        self.names = names.into_iter();
        Ok(true)
    }
}

fn mounted(path: &[u8]) -> Failure {
    Failure::new(ErrorKind::Busy, format!("remove {}: something is mounted there or below", shown(path)))
}
