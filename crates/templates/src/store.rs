//! Templates on disk: `<data-dir>/templates/<name>/<digest>/{rootfs,template.json}`, filled from a cache of
//! the same form, whose entries are named by their recipe's digest instead.

pub(crate) mod add;
pub(crate) mod clean;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::lock::Lock;
use crate::manifest::{Manifest, is_digest};
use crate::name::TemplateName;
use crate::progress::{Cancel, Progress, Reporter, Stage};
use crate::recipe::Recipe;
use crate::sources::HostApt;
use crate::staging::{Staging, remove_leftovers};
use crate::tree::{self, Method};
use crate::{Error, Result, builder};

/// A template that sandboxes can start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: TemplateName,
    /// Digest of its contents, 32 hex digits; with the name it stays the same tree for ever.
    pub digest: String,
    /// The root directory. Nothing may write below it.
    pub root: PathBuf,
    /// What else is known.
    pub manifest: Manifest,
}

/// The templates of one data directory, and the cache that several data directories share.
#[derive(Clone, Debug)]
pub struct TemplateStore {
    data: PathBuf,
    cache: PathBuf,
    apt: HostApt,
    cancel: Cancel,
}

impl TemplateStore {
    /// Opens the store of `data_dir` (made before by the caller), with its cache in `cache_dir`; both get
    /// their `templates` directory if they lack it. What killed imports left is removed. Building, if it comes to that, uses the host's apt.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsafe`] if others than this user may write there.
    pub fn open(data_dir: &Path, cache_dir: &Path) -> Result<Self> {
        let (data, cache) = (data_dir.join("templates"), cache_dir.join("templates"));
        make_directory(&data)?;
        make_directory(&cache)?;
        // What a killed import or publication left, unless somebody is at work there.
        for name in directory_names(&data)? {
            if name.parse::<TemplateName>().is_ok()
                && let Some(_lock) = Lock::try_take(&data.join(&name))?
            {
                remove_leftovers(&data.join(&name))?;
            }
        }
        Ok(Self { data, cache, apt: HostApt::default(), cancel: Cancel::default() })
    }

    /// Builds from other package sources than the host's.
    #[must_use]
    pub fn with_apt(self, apt: HostApt) -> Self {
        Self { apt, ..self }
    }

    /// A handle that stops a running [`ensure_default`](Self::ensure_default) of this store for good.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Makes the template `default` ready: at once if the data directory has it, in about a second from
    /// the cache, else by building it (a minute, and network). Blocks, and waits while another process on
    /// this host builds the same. `progress` is told each stage, and else about once a second.
    ///
    /// After a crash at any point, or any error, nothing is left but a hidden directory that the next call
    /// removes.
    ///
    /// # Errors
    /// Any of this crate's but [`Error::Unknown`] and [`Error::InvalidName`].
    pub fn ensure_default(&self, progress: &mut dyn FnMut(Progress)) -> Result<Template> {
        self.ensure(&Recipe::standard(&self.apt.identity()?), progress)
    }

    /// The same for `debian-<release>`, a bare Debian of one of the releases that the host has package sources for.
    ///
    /// # Errors
    /// As [`ensure_default`](Self::ensure_default); [`Error::InvalidName`] for what no release is called.
    pub fn ensure_debian(&self, release: &str, progress: &mut dyn FnMut(Progress)) -> Result<Template> {
        self.ensure(&Recipe::debian(release, &self.apt.identity()?), progress)
    }

    fn ensure(&self, recipe: &Recipe, progress: &mut dyn FnMut(Progress)) -> Result<Template> {
        let name: TemplateName = recipe.name.parse()?;
        let mut reporter = Reporter::new(progress, self.cancel.clone());
        let data = self.data.join(&recipe.name);
        make_directory(&data)?;
        let _data_lock = Lock::take(&data, &mut reporter)?;
        remove_leftovers(&data)?;
        let mut present = self.versions(&name)?;
        present.retain(|t| t.manifest.recipe == recipe.digest);
        let template = match present.pop() {
            Some(template) => template,
            None => self.install(recipe, &name, &data, &mut reporter)?,
        };
        reporter.report(Stage::Ready, 100)?;
        Ok(template)
    }

    /// Every version of every template in the data directory, by name, oldest version first.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadManifest`].
    pub fn list(&self) -> Result<Vec<Template>> {
        let mut found = Vec::new();
        for name in directory_names(&self.data)? {
            if let Ok(name) = name.parse() {
                found.extend(self.versions(&name)?);
            }
        }
        Ok(found)
    }

    /// The newest version of a template of the operator's, by name or alias.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::Unknown`], [`Error::Io`], [`Error::BadManifest`].
    pub fn get(&self, name: &str) -> Result<Template> {
        self.get_as(name, None)
    }

    /// The newest version of a template as an organisation sees it: its own, else the operator's.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_as(&self, name: &str, owner: Option<&str>) -> Result<Template> {
        let name = TemplateName::resolve(name)?;
        let owner_of = |template: &Template| template.manifest.details.owner.clone();
        let mut visible = self.versions(&name)?;
        visible.retain(|template| owner_of(template).is_none_or(|of| Some(&of[..]) == owner));
        // Stable: within each of both kinds the newest stays last.
        visible.sort_by_key(|template| owner_of(template).is_some());
        visible.pop().map_or_else(|| Err(self.unknown(name.as_str())), Ok)
    }

    /// One version of a template: the one that a layer was written over.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_version(&self, name: &str, digest: &str) -> Result<Template> {
        let name = TemplateName::resolve(name)?;
        let found = self.versions(&name)?.into_iter().find(|t| t.digest == digest);
        found.map_or_else(|| Err(self.unknown(&format!("{name} {digest}"))), Ok)
    }

    fn unknown(&self, name: &str) -> Error {
        let mut known: Vec<_> = self
            .list()
            .unwrap_or_default()
            .iter()
            .filter(|t| t.manifest.details.owner.is_none())
            .map(|t| t.name.as_str().to_owned())
            .collect();
        known.dedup();
        Error::Unknown { name: name.to_owned(), known: known.join(", ") }
    }

    /// Whole versions of one template, oldest first.
    fn versions(&self, name: &TemplateName) -> Result<Vec<Template>> {
        let directory = self.data.join(name.as_str());
        let mut found = Vec::new();
        for digest in directory_names(&directory)?.into_iter().filter(|d| is_digest(d)) {
            let version = directory.join(&digest);
            // No manifest: not whole, left by a removal that was cut short.
            if let Some(manifest) = Manifest::read(&version)? {
                found.push(Template { name: name.clone(), digest, root: version.join("rootfs"), manifest });
            }
        }
        found.sort_by(|a, b| (a.manifest.built_at, &a.digest).cmp(&(b.manifest.built_at, &b.digest)));
        Ok(found)
    }

    /// Brings the template from the cache into the data directory, building it if need be. A cached tree
    /// that turns out damaged is thrown away and built anew, once.
    fn install(
        &self,
        recipe: &Recipe,
        name: &TemplateName,
        data: &Path,
        reporter: &mut Reporter<'_>,
    ) -> Result<Template> {
        let cache = self.cache.join(&recipe.name);
        make_directory(&cache)?;
        let _cache_lock = Lock::take(&cache, reporter)?;
        remove_leftovers(&cache)?;
        let entry = cache.join(&recipe.digest);
        match self.install_from(recipe, name, &entry, data, reporter) {
            Err(error @ (Error::CacheDamaged { .. } | Error::BadManifest { .. })) => {
                tracing::warn!(%error, "cached template is thrown away and built anew");
                discard(&cache, &entry)?;
                self.install_from(recipe, name, &entry, data, reporter)
            }
            result => result,
        }
    }

    fn install_from(
        &self,
        recipe: &Recipe,
        name: &TemplateName,
        entry: &Path,
        data: &Path,
        reporter: &mut Reporter<'_>,
    ) -> Result<Template> {
        let manifest = match Manifest::read(entry)? {
            Some(manifest) => manifest,
            None => self.build(recipe, entry, reporter)?,
        };
        let source = entry.join("rootfs");
        let damaged = |reason: String| Error::CacheDamaged { path: entry.to_path_buf(), reason };
        if manifest.recipe != recipe.digest || manifest.name != recipe.name || !source.is_dir() {
            return Err(damaged("it is not the tree of its recipe".to_owned()));
        }
        let staging = Staging::create(data)?;
        let target = staging.path().join("rootfs");
        let placed = place(&source, &target, &manifest, reporter)
            .map_err(|error| if error.is_full() { no_room(data, &manifest) } else { error })?;
        if (placed.files, placed.directories) != (manifest.files, manifest.directories) {
            return Err(damaged(format!(
                "{} files in {} directories instead of {} in {}",
                placed.files, placed.directories, manifest.files, manifest.directories
            )));
        }
        manifest.write(staging.path())?;
        let version = data.join(&manifest.digest);
        // What has the name without a manifest was being removed.
        tree::remove(&version)?;
        staging.publish(&version)?;
        let digest = manifest.digest.clone();
        Ok(Template { name: name.clone(), digest, root: version.join("rootfs"), manifest })
    }

    /// Builds into the cache.
    fn build(&self, recipe: &Recipe, entry: &Path, reporter: &mut Reporter<'_>) -> Result<Manifest> {
        let cache = entry.parent().unwrap_or(&self.cache);
        // A killed removal leaves an entry without its manifest.
        tree::remove(entry)?;
        let staging = Staging::create(cache)?;
        let log = cache.join("build.log");
        let started = std::time::Instant::now();
        let built = builder::build(recipe, &self.apt, staging.path(), &log, &self.cancel, reporter)?;
        for scratch in ["build.sources", "customize.sh"] {
            tree::remove(&staging.path().join(scratch))?;
        }
        reporter.report(Stage::Measuring, 93)?;
        let measure = tree::measure(&built.root, &self.cancel)?;
        let manifest = Manifest::new(&recipe.name, &recipe.digest, &built.release, &measure);
        // The tree has to be on the disk before the manifest that vouches for it.
        tree::sync_filesystem(staging.path())?;
        manifest.write(staging.path())?;
        staging.publish(entry)?;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            template.name = recipe.name,
            template.digest = manifest.digest,
            release = manifest.release,
            files = manifest.files,
            bytes = manifest.bytes,
            duration_ms,
            "template built"
        );
        Ok(manifest)
    }
}

/// Places the tree by links if possible, else by copying, and makes it durable.
fn place(source: &Path, target: &Path, manifest: &Manifest, reporter: &mut Reporter<'_>) -> Result<tree::Placed> {
    fs::create_dir(target).map_err(Error::io("create", target))?;
    let total = manifest.files;
    let mut tick = |done| reporter.share(Stage::Placing, 95, 99, done, total);
    tick(0)?;
    if let Some(placed) = tree::place(source, target, Method::Link, &mut tick)? {
        // The data is durable in the cache; the names become so with the manifest's fsync on journals
        // that keep the order of names (ext4, XFS), for others the whole is synced.
        if !tree::orders_names(target)? {
            tree::sync_filesystem(target)?;
        }
        return Ok(placed);
    }
    if tree::free_bytes(target)? < manifest.bytes {
        return Err(no_room(target, manifest));
    }
    let placed = tree::place(source, target, Method::Copy, &mut tick)?;
    tree::sync_filesystem(target)?;
    Ok(placed.unwrap_or_default())
}

fn no_room(path: &Path, manifest: &Manifest) -> Error {
    let free_mb = tree::free_bytes(path).unwrap_or(0) / 1_000_000;
    Error::DiskFull { path: path.to_path_buf(), need_mb: manifest.bytes.div_ceil(1_000_000), free_mb }
}

/// Removes a cache entry such that a crash leaves it hidden, not half there.
fn discard(cache: &Path, entry: &Path) -> Result<()> {
    let staging = Staging::create(cache)?;
    match fs::rename(entry, staging.path().join("discarded")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("move", entry)(e)),
        _ => Ok(()),
    }
}

/// Makes a directory if there is none, and refuses one that others could change.
fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(Error::io("create", path))?;
    let stat = fs::symlink_metadata(path).map_err(Error::io("stat", path))?;
    let uid = rustix::process::geteuid().as_raw();
    if !stat.is_dir() || stat.uid() != uid || stat.mode() & 0o022 != 0 {
        return Err(Error::Unsafe { path: path.to_path_buf(), uid });
    }
    Ok(())
}

/// Names of what is in a directory, sorted; none if it does not exist.
fn directory_names(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
