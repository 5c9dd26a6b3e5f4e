//! Layers as btrfs subvolumes: snapshots in constant time.

use std::io;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::io::Errno;
use uuid::Uuid;

use super::DriverKind;
use super::driver::{Driver, Pending};
use crate::durable;
use crate::error::{At, Error, Result};
use crate::sys::btrfs as ioctl;
use crate::tree::dir::{Dir, Opened};

/// The subvolume that new layers are snapshots of, so that a new layer is there whole or not.
pub(super) const EMPTY: &str = ".empty";

/// Subvolumes in a directory of a btrfs file system.
#[derive(Debug)]
pub(super) struct Btrfs {
    layers: PathBuf,
    /// Whether the file system charges each subvolume for what it wrote.
    has_quotas: bool,
}

impl Btrfs {
    /// Makes the pristine layer if it is missing. Quotas are switched on only where the file system is `own`:
    /// another one has other users.
    pub(super) fn open(layers: PathBuf, own: bool) -> Result<Self> {
        let dir = Dir::open(&layers)?;
        let has_quotas = own && ioctl::enable_simple_quotas(&*dir).at("switch on quotas in", &layers)?;
        if let Opened::Nothing = dir.child(EMPTY.as_bytes()).at("open directory", &layers.join(EMPTY))? {
            let name = durable::temporary("empty");
            let path = layers.join(&*name);
            ioctl::subvolume_create(&*dir, &name).at("create the subvolume", &path)?;
            super::furnish(&path)?;
            rustix::fs::renameat(&*dir, &*name, &*dir, EMPTY).at("rename", &path)?;
            ioctl::sync(&*dir).at("sync", &layers)?;
        }
        Ok(Self { layers, has_quotas })
    }

    fn snapshot_of(&self, source: &str, missing: Error, to: Uuid) -> Result<()> {
        let dir = Dir::open(&self.layers)?;
        let from = match dir.child(source.as_bytes()).at("open the layer", &self.layers.join(source))? {
            Opened::Dir(from) => from,
            Opened::Nothing | Opened::Other => return Err(missing),
        };
        match ioctl::snapshot_create(&*dir, &to.to_string(), &*from) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::LayerExists(to)),
            Err(e) => Err(e).at("create the snapshot", &self.layers.join(to.to_string())),
        }
    }
}

impl Driver for Btrfs {
    fn kind(&self) -> DriverKind {
        DriverKind::Btrfs
    }

    fn create(&self, id: Uuid) -> Result<()> {
        let path = self.layers.join(EMPTY);
        self.snapshot_of(EMPTY, Error::io("open", path, Errno::NOENT), id)
    }

    /// Whole and on stable storage at once.
    fn begin_snapshot(&self, from: Uuid, to: Uuid) -> Result<Pending> {
        self.snapshot_of(&from.to_string(), Error::NoLayer(from), to)?;
        Ok(Pending { to, temporary: None })
    }

    fn finish_snapshot(&self, _pending: Pending) -> Result<()> {
        Ok(())
    }

    fn flush(&self, id: Uuid) -> Result<()> {
        match durable::make_durable(&self.layers.join(id.to_string())) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(Error::NoLayer(id)),
            done => done,
        }
    }

    fn delete(&self, id: Uuid) -> Result<()> {
        remove(&self.layers, &id.to_string())
    }

    fn limit(&self, id: Uuid, bytes: u64) -> Result<bool> {
        if !self.has_quotas {
            return Ok(false);
        }
        let name = id.to_string();
        let dir = Dir::open(&self.layers)?;
        match dir.child(name.as_bytes()).at("open the layer", &self.layers.join(&name))? {
            Opened::Dir(layer) => {
                ioctl::limit_charge(&*layer, bytes).at("limit the layer", &self.layers.join(&name))?
            }
            Opened::Nothing | Opened::Other => return Err(Error::NoLayer(id)),
        }
        Ok(true)
    }

    fn sync(&self) -> Result<()> {
        let dir = Dir::open(&self.layers)?;
        ioctl::sync(&*dir).at("sync", &self.layers)
    }
}

/// Removes a subvolume, or what is no subvolume but has the name of one.
pub(super) fn remove(layers: &std::path::Path, name: &str) -> Result<()> {
    let dir = Dir::open(layers)?;
    match ioctl::subvolume_destroy(&*dir, name) {
        Ok(()) => Ok(()),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => Ok(()),
            Some(Errno::INVAL | Errno::NOTDIR | Errno::NOTTY) => super::replica::remove(layers, name),
            _ => Err(e).at("remove the subvolume", &layers.join(name)),
        },
    }
}

/// Whether subvolumes can be made and removed in a directory: tried.
pub(super) fn works_in(dir: &Dir) -> io::Result<()> {
    let name = durable::temporary("probe");
    ioctl::subvolume_create(dir, &name)?;
    ioctl::subvolume_destroy(dir, &name)
}

/// Made here so that every layer's mode is the same, whatever the process's umask.
pub(super) const UPPER_MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);
