//! What a sandbox sees, read without mounting it: a template with a layer laid over it.

pub(crate) mod dir;
pub(crate) mod inodes;
pub(crate) mod names;
pub(crate) mod place;
pub(crate) mod stored;
pub(crate) mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use dir::{FileKind, Metadata, Timestamp};
use forkpoint_domain::stored::StoredLayer;

/// The longest path that a walk follows, in bytes: the kernel's `PATH_MAX`. Nothing inside a
/// sandbox can name a deeper file from the root.
pub const MAX_PATH: usize = 4096;

/// How many directory entries one walk looks at before it gives up.
pub const MAX_ENTRIES: u64 = 4_000_000;

/// A template root and, over it, what one layer changed.
///
/// The merged view follows overlayfs: in `<layer>/upper` a character device 0/0 hides a name, a
/// directory with `trusted.overlay.opaque=y` hides what the template has below it, and one with
/// `trusted.overlay.redirect` shows another template directory. Layers are written by hostile
/// code, so they are read by directory descriptors only; nothing ever resolves a symlink, leaves
/// the two roots or opens a FIFO or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The template's root directory on the host.
    pub template: PathBuf,
    /// The layer's directory on the host, the one that holds `upper`; none for the bare template.
    pub layer: Option<PathBuf>,
}

/// A tree whose layer is on this machine, or kept elsewhere.
#[derive(Debug, Clone)]
pub enum Source<'a> {
    /// All of it is here.
    Here(&'a Tree),
    /// Only the template is here.
    Stored {
        /// The template's root directory on the host.
        template: &'a Path,
        /// What is laid over it.
        layer: Arc<dyn StoredLayer>,
    },
}

impl<'a> From<&'a Tree> for Source<'a> {
    fn from(tree: &'a Tree) -> Self {
        Self::Here(tree)
    }
}

impl Source<'_> {
    /// The layer's directory, if it is here.
    pub(crate) fn layer(&self) -> Option<&Path> {
        match self {
            Self::Here(tree) => tree.layer.as_deref(),
            Self::Stored { .. } => None,
        }
    }

    pub(crate) fn stored(&self) -> Option<&Arc<dyn StoredLayer>> {
        match self {
            Self::Here(_) => None,
            Self::Stored { layer, .. } => Some(layer),
        }
    }
}

/// Which files of a tree an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// What differs from the template: the layer's own files, files shown at another path than
    /// the template's, and removals. A file in the layer counts as changed, whatever is in it.
    Changes,
    /// Everything that the sandbox sees.
    Merged,
}
