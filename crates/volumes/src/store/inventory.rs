//! What a data directory's layers hold on this host, looked at without opening the store.

use std::path::Path;

use uuid::Uuid;

use super::{entries, image, layer_name, mounts};
use crate::error::Result;

/// Kernel resources and layers of one data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Mounts of the layers' image: 0 or 1.
    pub mounts: usize,
    /// Loop devices of the image, also of one that is mounted elsewhere only: 0 or 1.
    pub loops: usize,
    /// The layers; none are seen while their image is not mounted.
    pub layers: Vec<Uuid>,
}

/// Looks; works beside a running server and without one.
pub fn inventory(data_dir: &Path) -> Result<Inventory> {
    let Ok(data_dir) = std::fs::canonicalize(data_dir) else {
        return Ok(Inventory::default());
    };
    let directory = data_dir.join("layers");
    let is_mounted = mounts::at(&directory)?.is_some();
    let has_image = data_dir.join(image::FILE).exists();
    let mut found = Inventory {
        mounts: usize::from(is_mounted),
        loops: usize::from(image::loop_device(&data_dir).is_some()),
        layers: Vec::new(),
    };
    if directory.is_dir() && (is_mounted || !has_image) {
        found.layers = entries(&directory)?.iter().filter_map(|name| layer_name(name)).collect();
        found.layers.sort_unstable();
    }
    Ok(found)
}
