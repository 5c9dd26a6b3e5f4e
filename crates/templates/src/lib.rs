//! Named, immutable root filesystems that sandboxes start from: built once, cached, placed in a data directory.
//!
//! A template is a plain directory tree. Its *recipe* (package list, settings) has a digest that names it
//! in the cache; its *contents* have a digest that names it in the data directory, so that a sandbox's
//! layer always meets the very files it was written over. The calls here block: an async caller runs them
//! on a blocking thread.

mod builder;
mod error;
mod fit;
mod import;
mod limits;
mod lock;
mod manifest;
mod name;
mod progress;
mod recipe;
pub mod sources;
mod staging;
mod store;
mod tree;

pub use error::{Error, Result};
pub use import::portable;
pub use limits::Limits;
pub use manifest::{Details, Manifest, Service};
pub use name::{ALIASES, DEFAULT, TemplateName};
pub use progress::{Cancel, Progress, Stage};
pub use store::add::Publication;
pub use store::clean::Stale;
pub use store::{Template, TemplateStore};
pub use tree::write::{Attributes, TreeWriter};

/// Entry points for what feeds the parsers with hostile bytes; no promise is made about them.
#[doc(hidden)]
pub mod parsers {
    use crate::{Limits, import};
    use std::path::Path;

    /// Unpacks an archive, of whatever kind it seems to be, below an empty directory; says whether it was taken.
    pub fn archive(file: &Path, below: &Path, limits: &Limits) -> bool {
        import::take(file, None, below, limits, &mut |_, _| Ok(())).is_ok()
    }
}
