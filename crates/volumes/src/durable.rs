//! Making one layer's state survive a power cut without waiting for all the others' data.

use std::collections::BTreeSet;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::error::{At, Error, Result};
use crate::sys::btrfs;
use crate::tree::dir::Dir;

/// Names of things that are being made or removed; whoever finds one after a crash may delete it.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// A subvolume's root directory has this inode number.
pub(crate) const SUBVOLUME_INODE: u64 = 256;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Temporary names that this process works under.
static IN_USE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn in_use() -> MutexGuard<'static, BTreeSet<String>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary name that nothing else of this process uses, in use until dropped.
#[derive(Debug)]
pub(crate) struct Temporary(String);

impl Deref for Temporary {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        in_use().remove(&self.0);
    }
}

/// Makes a temporary name.
pub(crate) fn temporary(purpose: &str) -> Temporary {
    let name = format!("{TEMPORARY}{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    in_use().insert(name.clone());
    Temporary(name)
}

/// Whether a name is that of something that was left half-made or half-removed: temporary, and of no work under way.
pub(crate) fn is_left_behind(name: &str) -> bool {
    name.starts_with(TEMPORARY) && !in_use().contains(name)
}

/// Puts everything written to the layer so far on stable storage.
///
/// For a btrfs subvolume by a throwaway snapshot: that writes out and commits this layer's data
/// only, where `syncfs` would wait for all layers'.
pub(crate) fn make_durable(layer: &Path) -> Result<()> {
    let dir = Dir::open(layer)?;
    if dir.id.1 != SUBVOLUME_INODE || btrfs::origin(&*dir).is_err() {
        return rustix::fs::syncfs(&*dir).at("sync", layer);
    }
    let parent = layer.parent().ok_or_else(|| Error::io("sync", layer, Errno::NOENT))?;
    let holder = Dir::open(parent)?;
    let name = loop {
        let name = temporary("flush");
        match btrfs::snapshot_create(&*holder, &name, &*dir) {
            Ok(()) => break name,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).at("flush", layer),
        }
    };
    match btrfs::subvolume_destroy(&*holder, &name) {
        Ok(()) => Ok(()),
        // Cleared away as a leftover by somebody who opened the store meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).at("remove", &parent.join(&*name)),
    }
}
