//! Which files two trees do not have in common, by content.

use crate::error::{At, Result};
use crate::files::contents;
use crate::lineage::Lineage;
use crate::region::Region;
use crate::tree::dir::{FileKind, Metadata};
use crate::tree::names::{Name, Names, in_step};
use crate::tree::place::{Item, Place, may_be_dir};
use crate::tree::walk::{Step, Walk};
use crate::tree::{Basis, Tree};

/// Paths of regular files and symlinks, absolute inside the sandbox, sorted by bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeDiff {
    /// Only in the second tree.
    pub added: Vec<Vec<u8>>,
    /// Only in the first tree.
    pub removed: Vec<Vec<u8>>,
    /// In both, with another content, target or type.
    pub modified: Vec<Vec<u8>>,
}

impl TreeDiff {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }
}

/// Compares what `a` shows inside `region_a` with what `b` shows inside `region_b`, from `a` to
/// `b`.
///
/// Looked at is every path that either side captured: by its basis the changes of its layer
/// (removals included) or everything seen, inside its region. What a side shows at such a path
/// counts if its region contains the path, whatever the basis. Owners, modes and times do not
/// count. Content is read only where identity or common descent does not decide; when a tree
/// changes meanwhile, the answer is about some state in between.
pub fn compare(
    a: &Tree,
    region_a: &dyn Region,
    basis_a: Basis,
    b: &Tree,
    region_b: &dyn Region,
    basis_b: Basis,
) -> Result<TreeDiff> {
    let sides = [Side { region: region_a, basis: basis_a }, Side { region: region_b, basis: basis_b }];
    let lineage = Lineage::between(a.layer.as_deref(), b.layer.as_deref());
    let mut walk = Walk::new([Place::root(a)?, Place::root(b)?]);
    let mut diff = TreeDiff::default();
    while let Some(step) = walk.next()? {
        if step == Step::Leave {
            continue;
        }
        let mut path = walk.path().to_vec();
        let places = walk.places()?.clone();
        let names = [sides[0].names(&places[0], &path)?, sides[1].names(&places[1], &path)?];
        walk.count(names[0].len() + names[1].len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for (name, in_a, in_b) in in_step(&names[0], &names[1]) {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name);
            if sides[0].goes_below(&places[0], in_a, &path)? || sides[1].goes_below(&places[1], in_b, &path)? {
                below.push(name.into());
            }
            if !sides[0].captured(in_a, &path) && !sides[1].captured(in_b, &path) {
                continue;
            }
            let old = sides[0].state(&places[0], name, &path)?;
            let new = sides[1].state(&places[1], name, &path)?;
            match (old, new) {
                (None, None) => {}
                (None, Some(_)) => diff.added.push(path.clone()),
                (Some(_), None) => diff.removed.push(path.clone()),
                (Some(old), Some(new)) => {
                    if !equal(&places, name, &old, &new, lineage, &path)? {
                        diff.modified.push(path.clone());
                    }
                }
            }
        }
        walk.queue(below);
    }
    for list in [&mut diff.added, &mut diff.removed, &mut diff.modified] {
        list.sort_unstable();
    }
    Ok(diff)
}

/// What one of the two trees captured.
struct Side<'a> {
    region: &'a dyn Region,
    basis: Basis,
}

impl Side<'_> {
    /// The names of a directory that this side may have captured.
    fn names(&self, place: &Place, path: &[u8]) -> Result<Names> {
        let dir: &[u8] = if path.is_empty() { b"/" } else { path };
        if !self.region.may_contain_below(dir) {
            return Ok(Names::default());
        }
        match self.basis {
            Basis::Merged => place.all_and_hidden_names(path),
            Basis::Changes if !place.is_plain() => place.changed_names(path),
            Basis::Changes => Ok(Names::default()),
        }
    }

    fn captured(&self, name: Option<Name<'_>>, path: &[u8]) -> bool {
        name.is_some() && self.region.contains(path)
    }

    fn goes_below(&self, place: &Place, name: Option<Name<'_>>, path: &[u8]) -> Result<bool> {
        let Some(name) = name else { return Ok(false) };
        if !self.region.may_contain_below(path) {
            return Ok(false);
        }
        if may_be_dir(name.kind) {
            return Ok(true);
        }
        // A directory of the template that the layer hides took its files with it.
        Ok(place.in_base(name.bytes, path)?.is_some_and(|m| m.is_dir()))
    }

    /// The file or symlink that this side shows.
    fn state(&self, place: &Place, name: &[u8], path: &[u8]) -> Result<Option<Item>> {
        if !self.region.contains(path) {
            return Ok(None);
        }
        Ok(place.visible(name, path)?.filter(|item| item.meta.is_content()))
    }
}

fn equal(places: &[Place; 2], name: &[u8], a: &Item, b: &Item, lineage: Lineage, path: &[u8]) -> Result<bool> {
    if a.meta.kind != b.meta.kind {
        return Ok(false);
    }
    if lineage.shares(&a.meta, &b.meta) {
        return Ok(true);
    }
    let (Some(dir_a), Some(dir_b)) = (places[0].on(a.side), places[1].on(b.side)) else {
        return Ok(false);
    };
    if a.meta.kind == FileKind::Symlink {
        let old = dir_a.read_link(name).inside("read the symlink", path)?;
        return Ok(old == dir_b.read_link(name).inside("read the symlink", path)?);
    }
    let Metadata { size, .. } = a.meta;
    if size != b.meta.size {
        return Ok(false);
    }
    if size == 0 {
        return Ok(true);
    }
    let old = dir_a.open_file(name, &a.meta).inside("open", path)?;
    let new = dir_b.open_file(name, &b.meta).inside("open", path)?;
    contents::equal(&old, &new, size).inside("compare", path)
}
