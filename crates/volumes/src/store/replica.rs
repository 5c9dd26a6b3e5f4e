//! Layers as plain directories, snapshots as copies: with shared blocks where the file system can
//! (`reflink`), else in full (`copy`). Slower with each file, but works anywhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;
use uuid::Uuid;

use super::DriverKind;
use super::driver::{Driver, Pending};
use crate::durable::{self, Temporary};
use crate::error::{At, Error, Result};
use crate::files::copy::{self, Copier};
use crate::files::remove::remove_tree;
use crate::files::xattrs::Attributes;
use crate::tree::dir::{Dir, Opened};
use crate::tree::place::Place;
use crate::tree::walk::{Step, Walk};

/// Copies in a directory of any file system that overlayfs can write to.
#[derive(Debug)]
pub(super) struct Replica {
    layers: PathBuf,
    share: bool,
}

impl Replica {
    pub(super) fn open(layers: PathBuf, share: bool) -> Self {
        Self { layers, share }
    }

    /// Gives what was made under a temporary name its own. All of it must be on stable storage.
    fn publish(&self, name: &str, id: Uuid) -> Result<()> {
        let dir = Dir::open(&self.layers)?;
        match rustix::fs::renameat_with(&*dir, name, &*dir, &*id.to_string(), RenameFlags::NOREPLACE) {
            Ok(()) => rustix::fs::fsync(&*dir).at("sync", &self.layers),
            Err(Errno::EXIST) => Err(Error::LayerExists(id)),
            Err(e) => Err(e).at("rename", &self.layers.join(name)),
        }
    }

    /// Does a step in the making of a layer, and removes what is there of it if that fails.
    fn or_remove<T>(&self, name: &str, step: Result<T>) -> Result<T> {
        if step.is_err()
            && let Err(error) = remove(&self.layers, name)
        {
            tracing::warn!(%error, name, "half-made layer stays until the next start");
        }
        step
    }

    fn fill(&self, name: &str, from: Option<&Rc<Dir>>) -> Result<()> {
        let path = self.layers.join(name);
        std::fs::create_dir(&path).at("create directory", &path)?;
        super::furnish(&path)?;
        let Some(from) = from else { return Ok(()) };
        let upper = |dir: &Rc<Dir>, of: &Path| match dir.child(b"upper").at("open directory", of)? {
            Opened::Dir(upper) => Ok(upper),
            Opened::Other | Opened::Nothing => Err(Error::io("open the upper directory in", of, Errno::NOTDIR)),
        };
        let copier = Copier { attributes: Attributes::WithOverlayMarks, share: self.share };
        replicate(&upper(from, &path)?, &upper(&Dir::open(&path)?, &path)?, copier)
    }

    /// Makes what is to become layer `id`, under a temporary name, which it gives.
    fn make(&self, id: Uuid, from: Option<&Rc<Dir>>) -> Result<Temporary> {
        if self.layers.join(id.to_string()).symlink_metadata().is_ok() {
            return Err(Error::LayerExists(id));
        }
        let name = durable::temporary("copy");
        let filled = self.fill(&name, from);
        self.or_remove(&name, filled)?;
        Ok(name)
    }
}

/// Puts an empty layer on stable storage, without waiting for what others write.
fn sync_empty(layer: &Path) -> Result<()> {
    for path in [layer.join("upper"), layer.join("work"), layer.to_owned()] {
        rustix::fs::fsync(&*Dir::open(&path)?).at("sync", &path)?;
    }
    Ok(())
}

impl Driver for Replica {
    fn kind(&self) -> DriverKind {
        if self.share { DriverKind::Reflink } else { DriverKind::Copy }
    }

    fn create(&self, id: Uuid) -> Result<()> {
        let name = self.make(id, None)?;
        let published = sync_empty(&self.layers.join(&*name)).and_then(|()| self.publish(&name, id));
        self.or_remove(&name, published)
    }

    fn begin_snapshot(&self, from: Uuid, to: Uuid) -> Result<Pending> {
        let source = Dir::open(&self.layers)?.child(from.to_string().as_bytes()).at("open the layer", &self.layers)?;
        match source {
            Opened::Dir(source) => Ok(Pending { to, temporary: Some(self.make(to, Some(&source))?) }),
            Opened::Other | Opened::Nothing => Err(Error::NoLayer(from)),
        }
    }

    fn finish_snapshot(&self, pending: Pending) -> Result<()> {
        let Pending { to, temporary } = pending;
        let Some(name) = temporary else { return Ok(()) };
        let published = self.sync().and_then(|()| self.publish(&name, to));
        self.or_remove(&name, published)
    }

    fn flush(&self, id: Uuid) -> Result<()> {
        let path = self.layers.join(id.to_string());
        if path.symlink_metadata().is_err() {
            return Err(Error::NoLayer(id));
        }
        durable::make_durable(&path)
    }

    fn delete(&self, id: Uuid) -> Result<()> {
        remove(&self.layers, &id.to_string())
    }

    fn limit(&self, _id: Uuid, _bytes: u64) -> Result<bool> {
        Ok(false)
    }

    fn sync(&self) -> Result<()> {
        let dir = Dir::open(&self.layers)?;
        rustix::fs::syncfs(&*dir).at("sync", &self.layers)
    }
}

/// Removes a directory with all that is in it; its name is free at once.
pub(super) fn remove(layers: &Path, name: &str) -> Result<()> {
    let dir = Dir::open(layers)?;
    if dir.stat(name.as_bytes()).at("stat", &layers.join(name))?.is_none() {
        return Ok(());
    }
    remove_tree(&dir, name.as_bytes(), &durable::temporary("gone"))
}

/// Copies everything in `from` into the empty directory `to`, overlay marks and hard links too.
fn replicate(from: &Rc<Dir>, to: &Rc<Dir>, copier: Copier) -> Result<()> {
    let root = to.clone();
    let mut walk = Walk::new([Place::bare(from.clone()), Place::bare(to.clone())]);
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    while let Some(step) = walk.next()? {
        let mut path = walk.path().to_vec();
        let [source, target] = walk.places()?.clone();
        let gone = || Error::Changed { path: crate::error::sandbox_path(walk.path()) };
        let from = source.lower.as_ref().ok_or_else(gone)?;
        let to = target.lower.as_ref().ok_or_else(gone)?;
        if step == Step::Leave {
            let meta = from.own_metadata().inside("stat", &path)?;
            copy::set_dir_times(to, &meta).inside("set the times of", &path)?;
            continue;
        }
        if path.is_empty() {
            copier.dress_dir(to, from, b"/")?;
        }
        let names = source.all_names(&path)?;
        walk.count(names.len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for name in names.iter() {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name.bytes);
            let Some(meta) = from.stat(name.bytes).inside("stat", &path)? else {
                continue;
            };
            if meta.is_dir() {
                let Opened::Dir(like) = from.child(name.bytes).inside("open directory", &path)? else {
                    continue;
                };
                copier.make_dir(to, name.bytes, &like, &path)?;
                below.push(name.bytes.into());
                continue;
            }
            if meta.links > 1
                && let Some(first) = links.get(&meta.id)
            {
                match copy::link_below(&root, first, to, name.bytes) {
                    Ok(()) => continue,
                    Err(Errno::MLINK) => {}
                    Err(e) => return Err(e).inside("link", &path),
                }
            }
            copier.copy_entry(from, to, name.bytes, &meta, &path)?;
            if meta.links > 1 {
                links.insert(meta.id, path[1..].to_vec());
            }
        }
        walk.queue(below);
    }
    Ok(())
}
