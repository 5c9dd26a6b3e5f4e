//! Making one layer's state survive a power cut without waiting for all the others' data.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::error::{At, Error, Result};
use crate::sys::btrfs;
use crate::tree::dir::Dir;

/// Names of things that are being made or removed; whoever finds one after a crash may delete it.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// A subvolume's root directory has this inode number.
pub(crate) const SUBVOLUME_INODE: u64 = 256;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A temporary name that nothing else of this process uses.
pub(crate) fn temporary(purpose: &str) -> String {
    format!("{TEMPORARY}{purpose}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
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
        Err(e) => Err(e).at("remove", &parent.join(name)),
    }
}
