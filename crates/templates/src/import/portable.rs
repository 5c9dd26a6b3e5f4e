//! Checkpoints as archives: an OCI layout whose last layer is what a sandbox changed, and those before it the template
//! that it lies on.
//!
//! What a standard layer cannot say is said in extended headers that other readers pass over: overlayfs' own marks, and
//! which entries the template brings.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::blobs::Blobs;
use super::image::{self, Image};
use super::stream::Expanded;
use super::unpack::{self, Role, unpack};
use super::{Taken, Tick, apply};
use crate::limits::Limits;
use crate::tree::write::TreeWriter;
use crate::{Error, Result};

/// Extended headers by which writers and readers of such archives understand each other; `FORKPOINT.` comes before.
pub const BELOW: &[u8] = unpack::BELOW;
/// Begins the header of an attribute `trusted.overlay.…`.
pub const OVERLAY: &[u8] = unpack::OVERLAY;
/// Names the whiteout that this one is another name of.
pub const LINK: &[u8] = unpack::LINK;

/// An archive of a checkpoint, every blob of which has the digest that it is named by.
#[derive(Debug)]
pub struct PortableArchive {
    blobs: Blobs,
    image: Image,
}

impl PortableArchive {
    /// Looks through an archive; `origin` is what messages call it, `tick` is called now and then and may end it.
    ///
    /// # Errors
    /// [`Error::is_about_content`] tells whether the archive is the cause.
    pub fn open(
        file: File,
        origin: &str,
        limits: &Limits,
        tick: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let blobs = Blobs::checked_layout(file, &PathBuf::from(origin), limits, tick)?;
        if !image::is_oci(&blobs) {
            return Err(Error::bad_import(
                Path::new(origin),
                "it is not an OCI layout: oci-layout or index.json is missing",
            ));
        }
        let image = image::oci(&blobs, None, limits)?;
        Ok(Self { blobs, image })
    }

    /// What the image's manifest says of it.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.image.annotations
    }

    /// Environment variables that the image sets.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.image.env
    }

    /// Names the contents of all layers but the last: their digests, lowest first.
    #[must_use]
    pub fn base(&self) -> String {
        let layers = self.image.layers.iter().rev().skip(1).rev();
        layers.map(|layer| format!("sha256:{}", layer.diff_id)).collect::<Vec<_>>().join(" ")
    }

    /// How many layers there are.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.image.layers.len()
    }

    /// Writes the last layer into `upper`, an empty directory, as the upper directory of an overlay.
    ///
    /// # Errors
    /// As [`open`](Self::open); then the directory holds a part of it.
    pub fn unpack_changes(
        &self,
        upper: &Path,
        limits: &Limits,
        tick: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let source = self.blobs.path();
        let missing = || Error::bad_import(source, "its last layer is missing");
        let layer = self.image.layers.last().ok_or_else(missing)?;
        let section = self.blobs.open(&layer.part)?.ok_or_else(missing)?;
        if layer.size.is_some_and(|size| size != section.len()) {
            return Err(Error::bad_import(source, "its last layer is not of the size that the image says"));
        }
        let (total, compression) = (section.len(), section.compression(source)?);
        let mut stream = Expanded::new(section, compression, limits, source, true)?;
        let consumed = stream.consumed();
        let mut writer = TreeWriter::new(upper, &source.display().to_string(), limits.clone())?.for_layer();
        let origin = format!("{}: changes", source.display());
        unpack(&mut stream, &origin, &mut writer, Role::Upper, &mut || tick(consumed.get(), total))?;
        if stream.finish()? != layer.diff_id {
            return Err(Error::bad_import(source, "its last layer does not have the digest that its settings say"));
        }
        writer.finish()
    }

    /// Writes all layers but the last over each other as `root`, an empty directory.
    pub(crate) fn unpack_template(&self, root: &Path, limits: &Limits, tick: Tick<'_>) -> Result<Taken> {
        let mut image = image::oci(&self.blobs, None, limits)?;
        image.layers.pop();
        apply(&self.blobs, image, "checkpoint archive", root, limits, tick)
    }
}
