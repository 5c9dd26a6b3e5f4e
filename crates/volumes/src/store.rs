//! The layer store of one data directory: where layers live, how big they may grow.

mod btrfs;
pub(crate) mod driver;
mod image;
pub(crate) mod inventory;
mod mounts;
pub(crate) mod probe;
mod replica;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::durable;
use crate::error::{At, Error, Result};
use crate::measure::{MeasureLimits, measure};
use crate::region::Everything;
use crate::tree::dir::Dir;
use crate::tree::{Basis, Tree};
use driver::{Driver, Pending};
use image::Image;
use probe::{Home, Plan};

pub use image::Growth;

const GIB: u64 = 1 << 30;

/// A way to keep layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Subvolumes and snapshots: constant time.
    Btrfs,
    /// Copies that share blocks: time grows with the number of files.
    Reflink,
    /// Full copies.
    Copy,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        })
    }
}

/// The way that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// The best that works here; what holds layers already stays.
    #[default]
    Auto,
    Btrfs,
    Reflink,
    Copy,
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    pub driver: DriverChoice,
    /// Size of a new image file, bytes.
    pub initial_bytes: u64,
    /// By how much the image grows at a time, bytes.
    pub step_bytes: u64,
    /// The image grows when less than this is free in it, bytes.
    pub headroom_bytes: u64,
    /// What the image leaves free on the host's file system, bytes.
    pub host_reserve_bytes: u64,
    /// The image never grows beyond this, bytes.
    pub max_bytes: Option<u64>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            driver: DriverChoice::Auto,
            initial_bytes: GIB,
            step_bytes: GIB,
            headroom_bytes: GIB,
            host_reserve_bytes: 2 * GIB,
            max_bytes: None,
        }
    }
}

/// How full the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Size of the file system that holds the layers, as it is now; an image can grow.
    pub total_bytes: u64,
    /// What can still be written before it must grow.
    pub free_bytes: u64,
    /// What the layers' file takes from the host's disk; without an image, what is used.
    pub allocated_bytes: u64,
}

/// The layers of one data directory. Cheap calls, no process starts after `open`.
#[derive(Debug)]
pub struct LayerStore {
    data_dir: PathBuf,
    layers: PathBuf,
    driver: Box<dyn Driver>,
    image: Option<Image>,
    options: StoreOptions,
    growing: Mutex<()>,
}

impl LayerStore {
    /// Opens the store, made if there is none: mounts `layers.img` on `layers` unless a mount of it
    /// is there already (left by a server that was killed), finishes a growth that was cut short,
    /// removes leftovers. Only one process at a time should have the store open.
    pub fn open(data_dir: &Path, options: StoreOptions) -> Result<Self> {
        let data_dir = std::fs::canonicalize(data_dir).at("find the data directory", data_dir)?;
        let _lock = lock(&data_dir)?;
        let layers = data_dir.join("layers");
        make_private_dir(&layers)?;
        let plan = probe::choose(&data_dir, options.driver)?;
        let image = match plan.home {
            Home::Image => Some(Image::open(&data_dir, &layers, &options)?),
            Home::Directory => None,
        };
        Self::clear_leftovers(&layers)?;
        let driver = plan.open(&layers)?;
        tracing::info!(driver = %driver.kind(), image = image.is_some(), path = %layers.display(), "layer store open");
        Ok(Self { data_dir, layers, driver, image, options, growing: Mutex::new(()) })
    }

    /// Which driver keeps the layers.
    pub fn driver(&self) -> DriverKind {
        self.driver.kind()
    }

    /// The directory with one directory per layer.
    pub fn root(&self) -> &Path {
        &self.layers
    }

    /// The data directory, with symlinks resolved.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where a layer is or would be.
    pub fn path(&self, id: Uuid) -> PathBuf {
        self.layers.join(id.to_string())
    }

    /// Makes an empty layer. Errors: [`Error::LayerExists`].
    pub fn create(&self, id: Uuid) -> Result<()> {
        self.driver.create(id)
    }

    /// Makes `to` a snapshot of `from`, on stable storage at return. Errors: [`Error::NoLayer`],
    /// [`Error::LayerExists`].
    pub fn snapshot(&self, from: Uuid, to: Uuid) -> Result<()> {
        self.finish_snapshot(self.begin_snapshot(from, to)?)
    }

    /// The part of a snapshot for which writers must stand still. Errors: as [`snapshot`](Self::snapshot).
    pub fn begin_snapshot(&self, from: Uuid, to: Uuid) -> Result<Pending> {
        self.driver.begin_snapshot(from, to)
    }

    /// The rest of it: the snapshot is a layer, on stable storage, at return. Errors: [`Error::LayerExists`].
    pub fn finish_snapshot(&self, pending: Pending) -> Result<()> {
        self.driver.finish_snapshot(pending)
    }

    /// Bytes of the files in a layer; what it shares with others counts as its own. 0 if there is none.
    pub fn weigh(&self, id: Uuid) -> Result<u64> {
        if !self.exists(id)? {
            return Ok(0);
        }
        // Looked at by itself, as if it lay on nothing.
        let bare = Tree { template: self.path(id).join("upper"), layer: None };
        Ok(measure(&bare, &Everything, Basis::Merged, MeasureLimits::NONE)?.size_bytes)
    }

    /// Writes out one layer's dirty data and waits for it. Errors: [`Error::NoLayer`].
    pub fn flush(&self, id: Uuid) -> Result<()> {
        self.driver.flush(id)
    }

    /// Limits what may be written into a layer from now on, in bytes; `false` if this store cannot. Beyond it
    /// writers get EDQUOT. What a layer shares with the one it is a snapshot of does not count, and what it
    /// deletes goes on counting while a snapshot of it holds that. Errors: [`Error::NoLayer`].
    pub fn limit(&self, id: Uuid, bytes: u64) -> Result<bool> {
        self.driver.limit(id, bytes)
    }

    /// Removes a layer; no error if there is none.
    pub fn delete(&self, id: Uuid) -> Result<()> {
        self.driver.delete(id)
    }

    /// Whether a layer is there.
    pub fn exists(&self, id: Uuid) -> Result<bool> {
        let dir = Dir::open(&self.layers)?;
        Ok(dir.stat(id.to_string().as_bytes()).at("stat", &self.path(id))?.is_some_and(|m| m.is_dir()))
    }

    /// All layers, in no order.
    pub fn list(&self) -> Result<Vec<Uuid>> {
        list_layers(&self.data_dir)
    }

    /// How full the store is.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = space(&self.layers)?;
        if let Some(image) = &self.image {
            usage.allocated_bytes = image.allocated()?;
        }
        Ok(usage)
    }

    /// Grows the image ahead of need, as far as the host's reserve allows. Call it now and then
    /// and when much is being written; one call at a time does the work, others wait for it.
    /// When the host has no room, layers meet an ordinary "no space left".
    pub fn grow_if_needed(&self) -> Result<Growth> {
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.image {
            Some(image) => {
                let _lock = lock(&self.data_dir)?;
                image.grow(&self.options)
            }
            None => Ok(Growth::default()),
        }
    }

    /// Waits until everything written or removed is settled on stable storage.
    pub fn sync(&self) -> Result<()> {
        self.driver.sync()
    }

    /// Unmounts the image; its loop device frees itself. Fails while anything uses a layer. Without
    /// an image nothing happens.
    pub fn unmount(self) -> Result<()> {
        match &self.image {
            Some(image) => image.unmount(),
            None => Ok(()),
        }
    }

    /// Removes what operations left half-made or half-removed that could not finish or undo it, for want of descriptors
    /// or room. Call it now and then.
    pub fn tidy(&self) -> Result<()> {
        Self::clear_leftovers(&self.layers)
    }

    fn clear_leftovers(layers: &Path) -> Result<()> {
        for name in entries(layers)? {
            if durable::is_left_behind(&name) {
                tracing::info!(name, "remove what an interrupted operation left");
                btrfs::remove(layers, &name)?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn open(&self, layers: &Path) -> Result<Box<dyn Driver>> {
        Ok(match self.driver {
            DriverKind::Btrfs => Box::new(btrfs::Btrfs::open(layers.to_owned(), self.home == Home::Image)?),
            DriverKind::Reflink => Box::new(replica::Replica::open(layers.to_owned(), true)),
            DriverKind::Copy => Box::new(replica::Replica::open(layers.to_owned(), false)),
        })
    }
}

/// The layers of a data directory, without opening the store; none if it is not mounted.
pub fn list_layers(data_dir: &Path) -> Result<Vec<Uuid>> {
    let layers = data_dir.join("layers");
    if layers.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    Ok(entries(&layers)?.iter().filter_map(|name| layer_name(name)).collect())
}

/// Removes all layers of a data directory with everything that keeps them: mount, image, directory.
/// Fails, and may be repeated, while anything uses a layer. No error if there is nothing.
pub fn purge(data_dir: &Path) -> Result<()> {
    let Ok(data_dir) = std::fs::canonicalize(data_dir) else {
        return Ok(());
    };
    let _lock = lock(&data_dir)?;
    let layers = data_dir.join("layers");
    image::detach(&data_dir, &layers)?;
    if layers.symlink_metadata().is_ok() {
        for name in entries(&layers)? {
            btrfs::remove(&layers, &name)?;
        }
        std::fs::remove_dir(&layers).at("remove directory", &layers)?;
    }
    image::remove(&data_dir)
}

/// A layer's name, only in the form in which we write it.
fn layer_name(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name).ok().filter(|id| id.to_string() == name)
}

/// Names in a directory that only we write to; those that are no UTF-8 are not ours.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        names.extend(entry.at("list", dir)?.file_name().into_string());
    }
    Ok(names)
}

fn space(path: &Path) -> Result<Usage> {
    let stat = rustix::fs::statvfs(path).at("ask for free space of", path)?;
    let total_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(Usage { total_bytes, free_bytes, allocated_bytes: total_bytes.saturating_sub(free_bytes) })
}

fn make_private_dir(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e).at("create directory", path),
    }
}

/// Puts `upper` and `work` into a new layer.
fn furnish(layer: &Path) -> Result<()> {
    for name in ["upper", "work"] {
        let path = layer.join(name);
        std::fs::create_dir(&path).at("create directory", &path)?;
        rustix::fs::chmod(&path, btrfs::UPPER_MODE).at("set the mode of", &path)?;
    }
    Ok(())
}

/// Held while the store is opened, grown or removed; other processes wait.
fn lock(data_dir: &Path) -> Result<File> {
    let dir = File::open(data_dir).at("open", data_dir)?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive).at("lock", data_dir)?;
    Ok(dir)
}

impl std::str::FromStr for DriverChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "btrfs" => Ok(Self::Btrfs),
            "reflink" => Ok(Self::Reflink),
            "copy" => Ok(Self::Copy),
            other => Err(Error::UnknownDriver { name: other.to_owned() }),
        }
    }
}
