//! A checkpoint on its way in: an archive that was looked through, and what is taken out of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use forkpoint_engine::ports::portable::Lineage;
use forkpoint_templates::{Limits, Publication, Template, TemplateStore, portable::PortableArchive};
use forkpoint_vault::hash_tree;

use crate::{Error, Result, Stop, annotations};

/// What messages call the archive.
const ORIGIN: &str = "the archive";
/// The most layers that a checkpoint's image has: the template's, and the changes.
const MAX_LAYERS: usize = 2;

/// An archive whose every blob has the digest that it is named by, and whose manifest reads.
#[derive(Debug)]
pub struct Import {
    archive: PortableArchive,
    lineage: Lineage,
    has_template: bool,
}

impl Import {
    /// Looks through an archive: an uncompressed tar of an OCI layout.
    ///
    /// # Errors
    /// [`Error::is_about_archive`] tells whether the archive is the cause.
    pub fn open(file: File, limits: &Limits, stop: Stop<'_>) -> Result<Self> {
        let archive = PortableArchive::open(file, ORIGIN, limits, &mut ticking(stop))?;
        let (lineage, template_layers) = annotations::read(archive.annotations())?;
        if archive.layers() > MAX_LAYERS || archive.layers() != template_layers + 1 {
            return Err(Error::NotACheckpoint(format!(
                "it has {} layers, and its manifest says that {template_layers} of them are the template",
                archive.layers()
            )));
        }
        Ok(Self { archive, lineage, has_template: template_layers > 0 })
    }

    /// Where the checkpoint comes from, as the archive says.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The environment that the image sets.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        self.archive.env()
    }

    /// Names the contents of the template that the archive holds; `None`: it holds none.
    #[must_use]
    pub fn base(&self) -> Option<String> {
        self.has_template.then(|| self.archive.base())
    }

    /// Makes a template of the archive's own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn template(&self, store: &TemplateStore, publication: &Publication, stop: Stop<'_>) -> Result<Template> {
        stopped(store.import_portable(publication, &self.archive, &mut ticking(stop)))
    }

    /// Writes what was changed into `upper`, the empty upper directory of a layer, and checks that its hash is the one
    /// that the manifest says. After an error the directory is to be removed.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::WrongHash`].
    pub fn changes(&self, upper: &Path, limits: &Limits, stop: Stop<'_>) -> Result<String> {
        stopped(self.archive.unpack_changes(upper, limits, &mut ticking(stop)))?;
        let found = hash_tree(upper, stop)?.to_string();
        if found != self.lineage.checksum {
            return Err(Error::WrongHash { expected: self.lineage.checksum.clone(), found });
        }
        Ok(found)
    }
}

fn ticking(stop: Stop<'_>) -> impl FnMut(u64, u64) -> forkpoint_templates::Result<()> + '_ {
    move |_, _| if stop() { Err(forkpoint_templates::Error::Cancelled) } else { Ok(()) }
}

fn stopped<T>(outcome: forkpoint_templates::Result<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        forkpoint_templates::Error::Cancelled => Error::Stopped,
        error => error.into(),
    })
}
