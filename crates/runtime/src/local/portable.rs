//! Checkpoints as archives: finding template and layer for `portable`, and its failures in the engine's words.

use super::{LocalRuntime, blocking, failed};
use async_trait::async_trait;
use forkpoint_domain::{checkpoint::CaptureLimits, ids::LayerId};
use forkpoint_engine::ports::{
    portable::{ARCHIVE_TOO_LARGE, ARCHIVE_UNFIT, Archived, ArchivedTemplate, ExportJob, Portable, Prepared},
    runtime::RuntimeError,
    templates::TemplateInfo,
};
use forkpoint_portable::{Error, Export, Import};
use forkpoint_templates::{Details, Limits, Publication};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Entries besides files that a layer may have: directories, and marks that hide something.
const BESIDE_FILES: u64 = 400_000;

#[derive(Debug)]
struct Ready(Export);

impl Prepared for Ready {
    fn checksum(&self) -> &str {
        self.0.checksum()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn write(&self, to: &mut dyn Write, stop: &CancellationToken) -> Result<(), RuntimeError> {
        self.0.write(to, &|| stop.is_cancelled()).map_err(told)
    }
}

#[async_trait]
impl Portable for LocalRuntime {
    async fn prepare(&self, job: ExportJob, stop: CancellationToken) -> Result<Box<dyn Prepared>, RuntimeError> {
        let tree = self.tree(&job.tree).await?;
        blocking(move || {
            let ExportJob { lineage, env, with_template, .. } = job;
            let export = Export::prepare(tree, lineage, env.as_ref(), with_template, &|| stop.is_cancelled());
            let export = export.map_err(|error| match error {
                Error::WrongHash { expected, found } => RuntimeError::Refused {
                    code: "checkpoint_damaged",
                    problem: format!("the checkpoint's files have the hash {found}, its checksum is {expected}"),
                },
                error => told(error),
            })?;
            Ok(Box::new(Ready(export)) as Box<dyn Prepared>)
        })
        .await
    }

    async fn spool(&self) -> Result<File, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            // Not `O_TMPFILE`: not every file system has it.
            let path = inner.data_dir.join("run").join(format!("archive-{}", uuid::Uuid::new_v4()));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
            let unlinked = made.and_then(|file| std::fs::remove_file(&path).map(|()| File::from(file)));
            unlinked.map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull => RuntimeError::NoSpace(error.to_string()),
                _ => failed("make a file for an archive")(error),
            })
        })
        .await
    }

    async fn read(&self, archive: Arc<File>, stop: CancellationToken) -> Result<Archived, RuntimeError> {
        blocking(move || {
            let import = open(&archive, &Limits::default(), &stop)?;
            Ok(Archived { lineage: import.lineage().clone(), env: import.env().clone(), base: import.base() })
        })
        .await
    }

    async fn make_template(
        &self,
        archive: Arc<File>,
        template: ArchivedTemplate,
        stop: CancellationToken,
    ) -> Result<TemplateInfo, RuntimeError> {
        let inner = self.inner.clone();
        let made = blocking(move || {
            let publication = Publication {
                name: template.name.as_str().to_owned(),
                details: Details {
                    owner: Some(template.owner.to_string()),
                    description: "came with an imported checkpoint".into(),
                    origin: template.origin,
                    ..Details::default()
                },
                ..Publication::default()
            };
            let import = open(&archive, &publication.limits, &stop)?;
            import.template(&inner.templates, &publication, &|| stop.is_cancelled()).map_err(told)
        })
        .await?;
        self.known(made)
    }

    async fn fill(
        &self,
        archive: Arc<File>,
        layer: LayerId,
        limits: CaptureLimits,
        stop: CancellationToken,
    ) -> Result<String, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            let limits = Limits {
                max_entries: limits.max_files.saturating_add(BESIDE_FILES),
                max_bytes: limits.max_bytes,
                ..Limits::default()
            };
            let upper = inner.layers.path(layer.uuid()).join("upper");
            let import = open(&archive, &limits, &stop)?;
            let checksum = import.changes(&upper, &limits, &|| stop.is_cancelled()).map_err(told)?;
            inner.layers.flush(layer.uuid()).map_err(super::trees::failed("flush layer"))?;
            Ok(checksum)
        })
        .await
    }

    async fn hash(&self, layer: LayerId, stop: CancellationToken) -> Result<String, RuntimeError> {
        let upper = self.inner.layers.path(layer.uuid()).join("upper");
        blocking(move || forkpoint_portable::checksum(&upper, &|| stop.is_cancelled()).map_err(told)).await
    }
}

/// Reads from a position of its own, so that a file can be read again and again.
fn open(archive: &File, limits: &Limits, stop: &CancellationToken) -> Result<Import, RuntimeError> {
    let file = archive.try_clone().map_err(failed("open archive"))?;
    Import::open(file, limits, &|| stop.is_cancelled()).map_err(told)
}

/// What callers must tell apart.
fn told(error: Error) -> RuntimeError {
    let problem = error.to_string();
    match error {
        error if error.is_full() => RuntimeError::NoSpace(problem),
        Error::Archive(forkpoint_templates::Error::TooLarge { .. }) => {
            RuntimeError::Refused { code: ARCHIVE_TOO_LARGE, problem }
        }
        Error::Archive(forkpoint_templates::Error::NameTaken { .. }) => {
            RuntimeError::Refused { code: "template_name_taken", problem }
        }
        error if error.is_about_archive() => RuntimeError::Refused { code: ARCHIVE_UNFIT, problem },
        Error::NotPortable { .. } => RuntimeError::Refused { code: "not_portable", problem },
        error => failed("move an archive")(error),
    }
}
