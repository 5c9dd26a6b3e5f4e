//! Reading everything that a sandbox sees, without mounting it.

use std::fs::File;

use rustix::fs::FileType;

use crate::error::{At, Result};
use crate::files::xattrs::{self, Attributes};
use crate::region::Region;
use crate::tree::Tree;
use crate::tree::dir::{Dir, Metadata};
use crate::tree::place::Place;
use crate::tree::walk::{Step, Walk};

/// One visible entry of a tree.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Absolute inside the sandbox, any bytes; the root is `/`.
    pub path: &'a [u8],
    pub meta: Metadata,
    /// The directory that really holds it, and its name there; the root holds itself.
    holder: &'a Dir,
    name: &'a [u8],
}

impl Entry<'_> {
    /// Opens a regular file for reading.
    pub fn open(&self) -> Result<File> {
        self.holder.open_file(self.name, &self.meta).inside("open", self.path)
    }

    /// The target of a symlink, as it was written.
    pub fn target(&self) -> Result<Vec<u8>> {
        self.holder.read_link(self.name).inside("read the symlink", self.path)
    }

    /// Extended attributes that belong to the entry (`user.`, `trusted.`, capabilities, access
    /// lists), sorted by name. Those that overlayfs keeps for itself are left out.
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        use std::os::fd::AsFd;
        let (handle, _) = self.holder.handle(self.name).inside("open", self.path)?;
        xattrs::get_all(handle.as_fd(), Attributes::Visible, self.path)
    }
}

/// Calls `visit` for each entry inside `region` that `tree` shows, directories before what is in
/// them, in each directory by the bytes of the names. An error of `visit` ends the walk.
pub fn read_tree(tree: &Tree, region: &dyn Region, visit: &mut dyn FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
    let mut walk = Walk::new([Place::root(tree)?]);
    while let Some(step) = walk.next()? {
        if step == Step::Leave {
            continue;
        }
        let mut path = walk.path().to_vec();
        let [place] = walk.places()?.clone();
        if path.is_empty()
            && region.contains(b"/")
            && let Some(top) = place.top()
        {
            let meta = top.own_metadata().inside("stat", b"/")?;
            visit(&Entry { path: b"/", meta, holder: top, name: b"." })?;
        }
        let names = place.all_names(&path)?;
        walk.count(names.len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for name in names.iter() {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name.bytes);
            let (inside, deeper) = (region.contains(&path), region.may_contain_below(&path));
            if !inside && (!deeper || !matches!(name.kind, FileType::Directory | FileType::Unknown)) {
                continue;
            }
            let Some(item) = place.visible(name.bytes, &path)? else {
                continue;
            };
            if inside && let Some(holder) = place.on(item.side) {
                visit(&Entry { path: &path, meta: item.meta, holder, name: name.bytes })?;
            }
            if deeper && item.meta.is_dir() {
                below.push(name.bytes.into());
            }
        }
        walk.queue(below);
    }
    Ok(())
}
