//! Edits of a layer's upper directory: making and hiding entries of the merged view.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::io::Errno;

use super::{GraftReport, lost};
use crate::error::{At, Result};
use crate::files::copy::{self, Copier};
use crate::files::remove::Trash;
use crate::files::xattrs::{self, Attributes};
use crate::tree::Tree;
use crate::tree::dir::Dir;
use crate::tree::place::{Item, OPAQUE, Place};
use crate::tree::walk::Walk;

/// Beside `upper` in the layer; what is removed goes there first.
const TRASH: &str = ".trash";

/// Walks the tree being changed (first) and the tree to take from (second), and changes the first.
pub(super) struct Editor {
    pub(super) walk: Walk<2>,
    pub(super) report: GraftReport,
    pub(super) copier: Copier,
    upper_root: Rc<Dir>,
    trash: Trash,
    /// Where a hard-linked inode of the source was put, as a path below `upper`.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Depth to whether entries came or went in that directory of the current way down.
    touched: Vec<bool>,
}

impl Editor {
    pub(super) fn new(onto: &Tree, from: &Tree) -> Result<Self> {
        let layer = onto.layer.as_deref().ok_or_else(|| lost(b"/"))?;
        let holder = Dir::open(layer)?;
        // Left by an earlier graft that was killed.
        Trash::open(&holder, TRASH)?.empty()?;
        let root = Place::root(onto)?;
        let upper_root = root.upper.clone().ok_or_else(|| lost(b"/"))?;
        Ok(Self {
            walk: Walk::new([root, Place::root(from)?]),
            report: GraftReport::default(),
            copier: Copier { attributes: Attributes::Visible, share: true },
            upper_root,
            trash: Trash::open(&holder, TRASH)?,
            links: HashMap::new(),
            touched: Vec::new(),
        })
    }

    pub(super) fn finish(self) -> Result<GraftReport> {
        self.trash.empty()?;
        Ok(self.report)
    }

    /// Whether entries of the directory at this depth came or went by our hand.
    pub(super) fn touched(&self, depth: usize) -> bool {
        self.touched.get(depth).copied().unwrap_or(false)
    }

    /// Makes `name` in the current directory the copy of a non-directory of the source.
    pub(super) fn put(&mut self, name: &[u8], item: &Item, path: &[u8]) -> Result<()> {
        self.put_at(self.walk.depth(), name, item, path)
    }

    pub(super) fn put_at(&mut self, depth: usize, name: &[u8], item: &Item, path: &[u8]) -> Result<()> {
        let upper = self.ensure_upper(depth)?;
        self.touch(depth);
        self.discard(&upper, name, path)?;
        self.report.written += 1;
        if item.meta.links > 1
            && let Some(first) = self.links.get(&item.meta.id)
        {
            match copy::link_below(&self.upper_root, first, &upper, name) {
                Ok(()) => return Ok(()),
                // The file system's limit of names for one inode: go on with a new copy.
                Err(Errno::MLINK) => {}
                Err(e) => return Err(e).inside("link", path),
            }
        }
        let [_, from] = self.walk.places_at(depth)?;
        let source = from.on(item.side).cloned().ok_or_else(|| lost(path))?;
        self.report.copied_bytes += self.copier.copy_entry(&source, &upper, name, &item.meta, path)?;
        if item.meta.links > 1 {
            self.links.insert(item.meta.id, path[1..].to_vec());
        }
        Ok(())
    }

    /// Hides or removes what is visible as `name` in the current directory.
    pub(super) fn remove(&mut self, name: &[u8], path: &[u8]) -> Result<()> {
        self.remove_at(self.walk.depth(), name, path)
    }

    pub(super) fn remove_at(&mut self, depth: usize, name: &[u8], path: &[u8]) -> Result<()> {
        self.report.removed += 1;
        self.touch(depth);
        let [onto, _] = self.walk.places_at(depth)?;
        let shows_through = onto.in_lower(name, path)?.is_some();
        if let Some(upper) = onto.upper.clone() {
            self.discard(&upper, name, path)?;
        }
        if shows_through {
            let upper = self.ensure_upper(depth)?;
            copy::make_whiteout(&upper, name).inside("hide", path)?;
        }
        Ok(())
    }

    /// Makes room where a directory is going to be made: nothing is visible as `name` any more.
    pub(super) fn clear(&mut self, name: &[u8], path: &[u8]) -> Result<()> {
        let depth = self.walk.depth();
        let upper = self.ensure_upper(depth)?;
        self.touch(depth);
        self.discard(&upper, name, path)?;
        let [onto, _] = self.walk.places()?;
        if onto.in_lower(name, path)?.is_some() {
            copy::make_whiteout(&upper, name).inside("hide", path)?;
        }
        Ok(())
    }

    /// The layer's own directory at this depth of the way down; made where it is missing, like the
    /// one that shows through or, if nothing does, like the source's. A new directory where the
    /// template has a hidden one is made opaque.
    pub(super) fn ensure_upper(&mut self, depth: usize) -> Result<Rc<Dir>> {
        let mut have = depth;
        loop {
            if let Some(upper) = &self.walk.places_at(have)?[0].upper {
                let upper = upper.clone();
                if have == depth {
                    return Ok(upper);
                }
                break;
            }
            have = have.checked_sub(1).ok_or_else(|| lost(b"/"))?;
        }
        for d in have + 1..depth {
            self.make_upper(d)?;
        }
        self.make_upper(depth)
    }

    fn make_upper(&mut self, depth: usize) -> Result<Rc<Dir>> {
        let path = self.walk.path_at(depth).to_vec();
        let name = path[self.walk.path_at(depth - 1).len() + 1..].to_vec();
        let parent = self.walk.places_at(depth - 1)?[0].clone();
        let [onto, from] = self.walk.places_at(depth)?.clone();
        let parent_upper = parent.upper.clone().ok_or_else(|| lost(&path))?;
        let made = if let Some(lower) = &onto.lower {
            // It merges by its name with what already shows through.
            let was = lower.own_metadata().inside("stat", &path)?;
            let made = self.copier.make_dir(&parent_upper, &name, lower, &path)?;
            copy::set_dir_times(&made, &was).inside("set the times of", &path)?;
            made
        } else {
            let like = from.top().ok_or_else(|| lost(&path))?;
            self.discard(&parent_upper, &name, &path)?;
            self.report.written += 1;
            let made = self.copier.make_dir(&parent_upper, &name, like, &path)?;
            if parent.in_lower(&name, &path)?.is_some_and(|hidden| hidden.is_dir()) {
                xattrs::set(made.as_fd(), OPAQUE, b"y", &path)?;
            }
            made
        };
        self.walk.places_at(depth)?[0].upper = Some(made.clone());
        self.walk.settle_at(depth);
        self.touch(depth - 1);
        Ok(made)
    }

    /// Whether owner, mode, time and attributes of two directories are the same already.
    pub(super) fn dressed_alike(&self, a: &Dir, b: &Dir, path: &[u8]) -> Result<bool> {
        let (one, two) = (a.own_metadata().inside("stat", path)?, b.own_metadata().inside("stat", path)?);
        if (one.mode, one.uid, one.gid, one.mtime) != (two.mode, two.uid, two.gid, two.mtime) {
            return Ok(false);
        }
        let which = self.copier.attributes;
        Ok(xattrs::get_all(a.as_fd(), which, path)? == xattrs::get_all(b.as_fd(), which, path)?)
    }

    /// Removes the layer's entry, whatever it is, if there is one.
    fn discard(&mut self, upper: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(upper, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => self.trash.take(upper, name).inside("remove", path),
            Err(e) => Err(e).inside("remove", path),
        }
    }

    /// Starts the notes on a directory that was just entered.
    pub(super) fn entered(&mut self, depth: usize) {
        self.touched.truncate(depth);
    }

    fn touch(&mut self, depth: usize) {
        if self.touched.len() <= depth {
            self.touched.resize(depth + 1, false);
        }
        self.touched[depth] = true;
    }
}
