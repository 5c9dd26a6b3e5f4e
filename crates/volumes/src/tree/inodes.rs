//! Sizes and link counts of all files of a btrfs subvolume at once, without a `stat` of each.

use std::path::Path;

use super::dir::Dir;
use crate::durable::SUBVOLUME_INODE;
use crate::sys::btrfs;

/// Layers with more inodes are looked at file by file, so that the table stays below 32 MiB.
const MAX_INODES: usize = 1 << 20;

/// The inodes of one subvolume as they were committed, sorted by number.
#[derive(Debug)]
pub(crate) struct Inodes(Vec<btrfs::Inode>);

impl Inodes {
    /// Reads them from the subvolume's tree; `None` if the layer is no subvolume, has too many, or the kernel does
    /// not tell. A `stat` makes an inode in the kernel's memory, which costs some microseconds for each file of a
    /// new snapshot and again when the snapshot goes; this makes none.
    pub(crate) fn read(layer: &Path) -> Option<Self> {
        let dir = Dir::open(layer).ok().filter(|dir| dir.id.1 == SUBVOLUME_INODE)?;
        let mut all = Vec::new();
        btrfs::inodes(&*dir, |inode| {
            all.push(inode);
            all.len() <= MAX_INODES
        })
        .ok()?;
        (all.len() <= MAX_INODES).then_some(Self(all))
    }

    /// The regular file with this number.
    pub(crate) fn file(&self, number: u64) -> Option<&btrfs::Inode> {
        let at = self.0.binary_search_by_key(&number, |inode| inode.number).ok()?;
        self.0.get(at).filter(|inode| inode.is_file)
    }
}
