//! Directories of a layer that is not on this machine, in the place of the layer's own.

use std::rc::Rc;
use std::sync::Arc;

use forkpoint_domain::diff::Attributes;
use forkpoint_domain::stored::{StoredDirectory, StoredEntry, StoredKey, StoredKind, StoredLayer};

use super::dir::{FileKind, Metadata, Timestamp};
use crate::error::Result;

/// One directory, as it was told.
#[derive(Debug)]
pub(crate) struct StoredPlace {
    layer: Arc<dyn StoredLayer>,
    pub(crate) dir: StoredDirectory,
}

/// What a stored layer has under a name, as a directory.
#[derive(Debug)]
pub(crate) enum StoredChild {
    Dir(Rc<StoredPlace>),
    /// Something else has this name.
    Other,
    Nothing,
}

impl StoredPlace {
    /// The top of a layer.
    pub(crate) fn top(layer: &Arc<dyn StoredLayer>) -> Result<Rc<Self>> {
        Self::read(layer, None)
    }

    fn read(layer: &Arc<dyn StoredLayer>, at: Option<&StoredKey>) -> Result<Rc<Self>> {
        let dir = layer.directory(at)?;
        Ok(Rc::new(Self { layer: layer.clone(), dir }))
    }

    pub(crate) fn child(&self, name: &[u8]) -> Result<StoredChild> {
        match self.dir.find(name).map(|entry| &entry.kind) {
            None => Ok(StoredChild::Nothing),
            Some(StoredKind::Directory { key, .. }) => Ok(StoredChild::Dir(Self::read(&self.layer, Some(key))?)),
            Some(_) => Ok(StoredChild::Other),
        }
    }

    /// What an entry is; `None`: a whiteout.
    pub(crate) fn visible(&self, entry: &StoredEntry) -> Result<Option<Metadata>> {
        let attributes = entry.attributes.unwrap_or_default();
        Ok(match &entry.kind {
            StoredKind::Directory { key, .. } => {
                Some(metadata(FileKind::Directory, 0, self.layer.directory(Some(key))?.attributes))
            }
            StoredKind::File { size, .. } => Some(metadata(FileKind::File, *size, attributes)),
            StoredKind::Symlink { target } => Some(metadata(FileKind::Symlink, target.len() as u64, attributes)),
            StoredKind::Fifo => Some(metadata(FileKind::Fifo, 0, attributes)),
            StoredKind::Whiteout => None,
        })
    }

    /// The directory's hash as a number that tells whether it is still the same.
    pub(crate) fn id(&self) -> (u64, u64) {
        let mut first = [0; 8];
        first.copy_from_slice(&self.dir.hash[..8]);
        (STORED_DEVICE, u64::from_le_bytes(first))
    }
}

/// No file system of this machine has this number.
const STORED_DEVICE: u64 = u64::MAX;

/// What an entry is, as far as comparing asks. The identity means nothing: no two stored entries are ever one file
/// to a caller.
fn metadata(kind: FileKind, size: u64, attributes: Attributes) -> Metadata {
    let never = Timestamp::default();
    Metadata {
        kind,
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        size,
        links: 1,
        atime: never,
        mtime: never,
        ctime: never,
        id: (STORED_DEVICE, 0),
        rdev: (0, 0),
        char_device: false,
    }
}
