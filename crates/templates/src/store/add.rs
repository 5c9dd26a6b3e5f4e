//! Templates that are not built here: imported by the operator, published by organisations; and removing versions.

use std::path::{Path, PathBuf};

use super::{Template, TemplateStore, make_directory};
use crate::import::{portable::PortableArchive, take};
use crate::limits::{KEPT_FREE, Limits};
use crate::lock::Lock;
use crate::manifest::{Details, Manifest};
use crate::name::{DEFAULT, TemplateName};
use crate::progress::{Progress, Reporter, Stage};
use crate::staging::{Staging, remove_leftovers};
use crate::tree::write::TreeWriter;
use crate::{Error, Result, fit, tree};

/// How often free space is looked at: once in so many entries or pieces of content.
const SPACE_EVERY: u64 = 128;
/// What importing and publishing do up to here, in percent, is filling the tree.
const FILLED: u8 = 80;

/// A template that is about to be made.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// What it is called.
    pub name: String,
    /// What is told of it; its origin is filled in by an import.
    pub details: Details,
    /// Root of the template whose unchanged files it shares.
    pub base: Option<PathBuf>,
    /// Which image of several an import means.
    pub tag: Option<String>,
    /// How much it may hold.
    pub limits: Limits,
    /// Digest of the recipe that it is made by, 32 hex digits, or empty.
    pub recipe: String,
}

/// The work in hand.
struct Task<'a, 'r> {
    store: &'a TemplateStore,
    name: TemplateName,
    directory: PathBuf,
    reporter: &'a mut Reporter<'r>,
}

impl TemplateStore {
    /// Makes a template of `source`: a root directory, a tar archive (plain, gzip, xz or zstd), an OCI layout or a
    /// docker-archive. Everything is checked, and the first thing that does not belong into a template refuses it
    /// whole. Works beside a running server, which has the template from then on. Blocks; gives also how many devices
    /// below `/dev` were left out.
    ///
    /// Other than in the source, files have no set-user-id bits, capabilities and attributes outside of `user.`;
    /// `/dev`, `/proc`, `/sys` and `/run` are empty; the user `sandbox`, `/workspace` and `/app` are there.
    ///
    /// # Errors
    /// Any of this crate's but those of building; [`Error::is_about_content`] tells whether the source is the cause.
    pub fn import(
        &self,
        publication: &Publication,
        source: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Template, u64)> {
        let mut reporter = Reporter::new(progress, self.cancel.clone());
        let (mut task, _lock) = self.begin(publication, &mut reporter)?;
        let staging = Staging::create(&task.directory)?;
        let mut ticks = 0;
        let space = staging.path().to_path_buf();
        let reporter = &mut *task.reporter;
        let taken =
            take(source, publication.tag.as_deref(), staging.path(), &publication.limits, &mut |done, total| {
                check_space(&space, &mut ticks)?;
                reporter.share(Stage::Unpacking, 0, FILLED, done, total)
            });
        let taken = taken.map_err(|error| explain_full(error, &task.directory))?;
        let mut details = publication.details.clone();
        if details.origin.is_empty() {
            let file = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            details.origin = format!("{} {file}", taken.form);
        }
        // What the operator sets goes before what the image says.
        let mut env = taken.env;
        env.extend(std::mem::take(&mut details.env));
        details.env = env;
        let origin = source.display().to_string();
        let template = task.complete(staging, details, &origin, &publication.recipe)?;
        Ok((template, taken.left_out))
    }

    /// Makes a template of what a checkpoint's archive holds of the one that it lies on. Blocks.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_portable(
        &self,
        publication: &Publication,
        archive: &PortableArchive,
        tick: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Template> {
        let mut quiet = |_| {};
        let mut reporter = Reporter::new(&mut quiet, self.cancel.clone());
        let (mut task, _lock) = self.begin(publication, &mut reporter)?;
        let staging = Staging::create(&task.directory)?;
        let root = staging.path().join("rootfs");
        std::fs::create_dir(&root).map_err(Error::io("create", &root))?;
        tree::set_mode(&root, 0o755)?;
        let mut ticks = 0;
        let space = staging.path().to_path_buf();
        let unpacked = archive.unpack_template(&root, &publication.limits, &mut |done, total| {
            check_space(&space, &mut ticks)?;
            tick(done, total)
        });
        unpacked.map_err(|error| explain_full(error, &task.directory))?;
        task.complete(staging, publication.details.clone(), &publication.details.origin, &publication.recipe)
    }

    /// Makes a template of what `fill` writes. Blocks.
    ///
    /// # Errors
    /// As [`import`](Self::import), and those of `fill`.
    pub fn publish<E: From<Error>>(
        &self,
        publication: &Publication,
        progress: &mut dyn FnMut(Progress),
        fill: impl FnOnce(&mut TreeWriter) -> Result<(), E>,
    ) -> Result<Template, E> {
        let mut reporter = Reporter::new(progress, self.cancel.clone());
        let (mut task, _lock) = self.begin(publication, &mut reporter)?;
        task.reporter.report(Stage::Unpacking, 0)?;
        let staging = Staging::create(&task.directory)?;
        let root = staging.path().join("rootfs");
        std::fs::create_dir(&root).map_err(Error::io("create", &root))?;
        tree::set_mode(&root, 0o755)?;
        let mut writer = TreeWriter::new(&root, &publication.details.origin, publication.limits.clone())?;
        if let Some(base) = &publication.base {
            writer = writer.with_base(base)?;
        }
        fill(&mut writer)?;
        writer.finish()?;
        task.reporter.report(Stage::Unpacking, FILLED)?;
        let details = publication.details.clone();
        Ok(task.complete(staging, details, &publication.details.origin, &publication.recipe)?)
    }

    /// Removes one version of a template; `false` if there is none. The caller makes sure that no sandbox, checkpoint
    /// or operation needs it. After a crash it is there or gone.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Io`].
    pub fn remove(&self, name: &str, digest: &str) -> Result<bool> {
        let name = TemplateName::resolve(name)?;
        let directory = self.data.join(name.as_str());
        if !crate::manifest::is_digest(digest) || !directory.join(digest).is_dir() {
            return Ok(false);
        }
        let mut quiet = |_| {};
        let mut reporter = Reporter::new(&mut quiet, self.cancel.clone());
        let _lock = Lock::take(&directory, &mut reporter)?;
        // Into a directory that is removed with all that is in it, by us or by whoever comes next.
        let staging = Staging::create(&directory)?;
        match std::fs::rename(directory.join(digest), staging.path().join("removed")) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("move", directory.join(digest))(error)),
        }
        crate::manifest::sync_dir(&directory)?;
        drop(staging);
        Ok(true)
    }

    /// Checks the name and takes its lock.
    fn begin<'a, 'r>(
        &'a self,
        publication: &Publication,
        reporter: &'a mut Reporter<'r>,
    ) -> Result<(Task<'a, 'r>, Lock)> {
        let name = TemplateName::resolve(&publication.name)?;
        if name.as_str() == DEFAULT {
            let reason = "the server makes this one itself; choose another".to_owned();
            return Err(Error::NameTaken { name: publication.name.clone(), reason });
        }
        let directory = self.data.join(name.as_str());
        make_directory(&directory)?;
        let lock = Lock::take(&directory, reporter)?;
        remove_leftovers(&directory)?;
        if publication.details.owner.is_some()
            && self.versions(&name)?.iter().any(|t| t.manifest.details.owner.is_none())
        {
            let reason = "a template of the operator has it; choose another".to_owned();
            return Err(Error::NameTaken { name: publication.name.clone(), reason });
        }
        Ok((Task { store: self, name, directory, reporter }, lock))
    }
}

impl Task<'_, '_> {
    /// Makes a template of the tree in `staging`, and gives it its name.
    fn complete(&mut self, staging: Staging, details: Details, origin: &str, recipe: &str) -> Result<Template> {
        self.seal(staging, details, origin, recipe).map_err(|error| explain_full(error, &self.directory))
    }

    fn seal(&mut self, staging: Staging, details: Details, origin: &str, recipe: &str) -> Result<Template> {
        let root = staging.path().join("rootfs");
        self.reporter.report(Stage::Finishing, FILLED)?;
        fit::fit(&root, origin)?;
        tree::seal(&root, tree::MOUNTED)?;
        self.reporter.report(Stage::Measuring, 85)?;
        let mut measure = tree::measure(&root, &self.store.cancel)?;
        if let Some(owner) = &details.owner {
            measure.digest = owned_digest(owner, &measure.digest, &details);
        }
        let mut manifest = Manifest::new(self.name.as_str(), recipe, &fit::release(&root), &measure);
        manifest.details = details;
        let present = self.store.versions(&self.name)?;
        // The newest is the one that is used, also if the clock went back or stood still.
        let latest = present.iter().map(|template| template.manifest.built_at).max().unwrap_or(0);
        manifest.built_at = manifest.built_at.max(latest + 1);
        self.reporter.report(Stage::Placing, 95)?;
        let version = self.directory.join(&manifest.digest);
        if present.iter().any(|template| template.digest == manifest.digest) {
            // The same files again: only what is told of them is new, and that it is the newest.
            manifest.write(&version)?;
        } else {
            tree::sync_filesystem(&root)?;
            manifest.write(staging.path())?;
            // What has the name without a manifest was being removed.
            tree::remove(&version)?;
            staging.publish(&version)?;
        }
        tracing::info!(
            template.name = %self.name,
            template.digest = manifest.digest,
            files = manifest.files,
            bytes = manifest.bytes,
            "template added"
        );
        self.reporter.report(Stage::Ready, 100)?;
        let digest = manifest.digest.clone();
        Ok(Template { name: self.name.clone(), digest, root: version.join("rootfs"), manifest })
    }
}

/// The digest of a tree that belongs to an organisation: two of them may have the same tree under the same name.
/// User and services are part of what a version is for ever, as its files are.
fn owned_digest(owner: &str, digest: &str, details: &Details) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(owner.len() as u64).to_le_bytes());
    hasher.update(owner.as_bytes());
    hasher.update(digest.as_bytes());
    if details.user.is_some() || !details.services.is_empty() {
        // Its keys are strings, so it does not fail.
        let told = serde_json::to_vec(&(&details.user, &details.services)).unwrap_or_default();
        hasher.update(&told);
    }
    tree::short_hex(&hasher)
}

/// Refuses to go on when the disk is about to be full.
fn check_space(path: &Path, ticks: &mut u64) -> Result<()> {
    *ticks += 1;
    if *ticks % SPACE_EVERY == 1 && tree::free_bytes(path)? < KEPT_FREE {
        return Err(Error::Io {
            action: "unpack into",
            path: path.to_path_buf(),
            source: std::io::ErrorKind::StorageFull.into(),
        });
    }
    Ok(())
}

/// Says of a full disk how full it is. The directory's hidden part is no help to an operator.
fn explain_full(error: Error, directory: &Path) -> Error {
    if !error.is_full() {
        return error;
    }
    let free_mb = tree::free_bytes(directory).unwrap_or(0) / 1_000_000;
    Error::DiskFull { path: directory.to_path_buf(), need_mb: KEPT_FREE / 1_000_000 + free_mb, free_mb }
}
