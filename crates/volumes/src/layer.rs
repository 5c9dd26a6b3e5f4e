//! Reading a layer as it lies on disk: its own entries with the marks that lay them over the template, and what
//! shows through at places where the template has it under another path.

use std::fs::File;

use crate::error::{At, Result};
use crate::files::xattrs::{self, Attributes, Xattrs};
use crate::tree::Tree;
use crate::tree::dir::{Dir, Metadata};
use crate::tree::place::{Place, same};
use crate::tree::walk::{Step, Walk};

/// What [`read_layer`] comes upon.
#[derive(Debug)]
pub enum LayerItem<'a> {
    /// An entry.
    Entry(LayerEntry<'a>),
    /// Nothing that the template has at this directory's path is seen there. Comes before what is in it.
    Hides(&'a [u8]),
}

/// One entry of a layer, or one that shows through where the template does not have it.
#[derive(Debug)]
pub struct LayerEntry<'a> {
    /// Absolute inside the sandbox, any bytes; the root is `/`.
    pub path: &'a [u8],
    pub meta: Metadata,
    /// Whether the layer has it. If not, it is the template's, seen here because a directory was renamed.
    pub own: bool,
    holder: &'a Dir,
    name: &'a [u8],
}

impl LayerEntry<'_> {
    /// Whether it only hides what the template has under this name.
    pub fn is_whiteout(&self) -> bool {
        self.meta.is_whiteout()
    }

    /// Opens a regular file for reading.
    pub fn open(&self) -> Result<File> {
        self.holder.open_file(self.name, &self.meta).inside("open", self.path)
    }

    /// The target of a symlink, as it was written.
    pub fn target(&self) -> Result<Vec<u8>> {
        self.holder.read_link(self.name).inside("read the symlink", self.path)
    }

    /// Extended attributes that belong to the entry, sorted by name; of an own entry also overlayfs' marks.
    pub fn xattrs(&self) -> Result<Xattrs> {
        use std::os::fd::AsFd;
        let (handle, _) = self.holder.handle(self.name).inside("open", self.path)?;
        let which = if self.own { Attributes::WithOverlayMarks } else { Attributes::Visible };
        xattrs::get_all(handle.as_fd(), which, self.path)
    }
}

/// Calls `visit` for the layer's root, then for everything in it: in each directory all entries by the bytes of
/// their names, then what is below each of its directories. So an inode's names always come in the same order. An
/// error of `visit` ends the walk. `tree` must have a layer; without one nothing is visited.
pub fn read_layer(tree: &Tree, visit: &mut dyn FnMut(&LayerItem<'_>) -> Result<()>) -> Result<()> {
    let mut walk = Walk::new([Place::root(tree)?]);
    while let Some(step) = walk.next()? {
        if step == Step::Leave {
            continue;
        }
        let mut path = walk.path().to_vec();
        let [place] = walk.places()?.clone();
        if path.is_empty()
            && let Some(top) = &place.upper
        {
            let meta = top.own_metadata().inside("stat", b"/")?;
            visit(&LayerItem::Entry(LayerEntry { path: b"/", meta, own: true, holder: top, name: b"." }))?;
        }
        let moved = !same(place.lower.as_ref(), place.base.as_ref());
        if moved && place.upper.is_some() {
            visit(&LayerItem::Hides(&path))?;
        }
        let names = if moved { place.all_names(&path)? } else { place.upper_names(&path)? };
        walk.count(names.len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for name in names.iter() {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name.bytes);
            let stat = |dir: &Dir| dir.stat(name.bytes).inside("stat", &path);
            let found = match (&place.upper, name.in_upper()) {
                (Some(upper), true) => stat(upper)?.map(|meta| (upper, meta, true)),
                _ => None,
            };
            let found = match (found, &place.lower) {
                (None, Some(lower)) if moved => stat(lower)?.map(|meta| (lower, meta, false)),
                (found, _) => found,
            };
            let Some((holder, meta, own)) = found else { continue };
            visit(&LayerItem::Entry(LayerEntry { path: &path, meta, own, holder, name: name.bytes }))?;
            if meta.is_dir() {
                below.push(name.bytes.into());
            }
        }
        walk.queue(below);
    }
    Ok(())
}
