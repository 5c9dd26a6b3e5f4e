//! Checkpoints as OCI image layouts, which standard tools read and another server takes back.
//!
//! [`Export`] writes one, [`Import`] reads one; both in constant memory. An image's layers are the template and, last,
//! what the sandbox changed; its manifest tells where it comes from and the hash of its tree. The form is written down
//! in `docs/portable.md`. Everything here blocks.

mod annotations;
mod content;
pub mod directory;
mod emit;
mod error;
mod export;
mod import;
mod layers;
mod layout;

pub use error::{Error, Result};
pub use export::Export;
pub use import::Import;

/// The hash of the tree at `upper`, `b3:<hex>`: the checksum of a checkpoint that holds it.
///
/// # Errors
/// [`Error::Hash`], [`Error::Stopped`].
pub fn checksum(upper: &std::path::Path, stop: Stop<'_>) -> Result<String> {
    Ok(forkpoint_vault::hash_tree(upper, stop)?.to_string())
}

/// Asked now and then by long work; `true` ends it with [`Error::Stopped`].
pub type Stop<'a> = &'a (dyn Fn() -> bool + 'a);
