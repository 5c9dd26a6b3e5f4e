//! How much a template may hold, and how far an archive may expand.

/// Bounds on what is taken in from outside. An archive that passes one is refused whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all kinds, those of every layer of an image together.
    pub max_entries: u64,
    /// Bytes of all regular files together, and of what a compressed archive expands to.
    pub max_bytes: u64,
    /// How many times its compressed size an archive may expand to, once it is beyond 64 MiB.
    pub max_ratio: u64,
    /// Layers of an image.
    pub max_layers: usize,
    /// Bytes of memory that the names in an archive may take.
    pub max_names: u64,
}

impl Default for Limits {
    /// 2,000,000 entries, 64 GiB, 200 times, 256 layers, 512 MiB of names: several times what large images have.
    fn default() -> Self {
        Self { max_entries: 2_000_000, max_bytes: 64 << 30, max_ratio: 200, max_layers: 256, max_names: 512 << 20 }
    }
}

/// Below this many bytes the ratio does not matter: small archives of empty files compress well.
pub(crate) const RATIO_FLOOR: u64 = 64 << 20;
/// The kernel's longest path, its terminating zero included.
pub(crate) const MAX_PATH: usize = 4095;
/// The longest file name of every usual filesystem.
pub(crate) const MAX_NAME: usize = 255;
/// How deep directories may lie: trees are walked with one open descriptor for each level.
pub(crate) const MAX_DEPTH: usize = 200;
/// How deep directories of a layer may lie: no path the kernel takes is deeper.
pub(crate) const MAX_LAYER_DEPTH: usize = 2048;
/// The latest time of a template's file: the end of the year 9999.
pub(crate) const MAX_TIME: i64 = 253_402_300_799;
/// Owners above this have no meaning in a sandbox, which has 65,536 ids.
pub(crate) const MAX_OWNER: u64 = 65_535;
/// Bytes that stay free on the disk whatever is taken in.
pub(crate) const KEPT_FREE: u64 = 512 << 20;
