//! How two trees differ: by content, by mode and owner, and what was only moved.

use std::sync::Arc;

use forkpoint_domain::diff::{AttributeChange, Attributes, TreeDiff};
use forkpoint_domain::stored::{StoredKind, StoredLayer};

use crate::error::{At, Result};
use crate::files::contents;
use crate::lineage::Lineage;
use crate::region::Region;
use crate::renames::{self, Moved};
use crate::tree::dir::{FileKind, Metadata};
use crate::tree::names::{Name, Names, in_step};
use crate::tree::place::{Item, Place, Side as From, may_be_dir, same};
use crate::tree::walk::{Step, Walk};
use crate::tree::{Basis, Source};

/// Compares what `a` shows inside `region_a` with what `b` shows inside `region_b`, from `a` to
/// `b`.
///
/// Looked at is every path that either side captured: by its basis the changes of its layer
/// (removals included) or everything seen, inside its region. What a side shows at such a path
/// counts if its region contains the path, whatever the basis. Times do not count. Content is
/// read only where identity, common descent or stored digests do not decide; directories that two
/// stored layers have alike are not read where both sides have the same region (one value given
/// twice). When a tree changes meanwhile, the answer is about some state in between.
pub fn compare<'a>(
    a: impl Into<Source<'a>>,
    region_a: &dyn Region,
    basis_a: Basis,
    b: impl Into<Source<'a>>,
    region_b: &dyn Region,
    basis_b: Basis,
) -> Result<TreeDiff> {
    let (a, b) = (a.into(), b.into());
    // Values without size may lie at one address and be two.
    let one_region = size_of_val(region_a) > 0 && std::ptr::addr_eq(region_a, region_b);
    let alike = one_region && basis_a == basis_b;
    let sides = [Side { region: region_a, basis: basis_a }, Side { region: region_b, basis: basis_b }];
    let lineage = Lineage::between(a.layer(), b.layer());
    let roots = [Place::root_of(&a)?, Place::root_of(&b)?];
    let mut diff = TreeDiff::default();
    if alike && shows_the_same(&roots) {
        return Ok(diff);
    }
    let layers = [a.stored().cloned(), b.stored().cloned()];
    let mut moved = Moved::default();
    let mut walk = Walk::new(roots);
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
            if alike && below_is_the_same(&places, name) {
                continue;
            }
            if sides[0].goes_below(&places[0], in_a, &path)? || sides[1].goes_below(&places[1], in_b, &path)? {
                below.push(name.into());
            }
            if !sides[0].captured(in_a, &path) && !sides[1].captured(in_b, &path) {
                continue;
            }
            let old = sides[0].state(&places[0], name, &path)?;
            let new = sides[1].state(&places[1], name, &path)?;
            if let (Some(old), Some(new)) = (&old, &new)
                && let Some(change) = attributes(&path, &old.meta, &new.meta)
            {
                diff.attributes.push(change);
            }
            let is_content = |item: &Item| item.meta.is_content();
            match (old.filter(is_content), new.filter(is_content)) {
                (None, None) => {}
                (None, Some(new)) => {
                    moved.added(&path, &new.meta);
                    diff.added.push(path.clone());
                }
                (Some(old), None) => {
                    moved.removed(&path, &old.meta);
                    diff.removed.push(path.clone());
                }
                (Some(old), Some(new)) => {
                    if !equal(&places, &layers, name, [&old, &new], lineage, &path)? {
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
    diff.attributes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    diff.renamed = renames::find(moved, &a, &b)?;
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

    /// What this side shows.
    fn state(&self, place: &Place, name: &[u8], path: &[u8]) -> Result<Option<Item>> {
        if self.region.contains(path) { place.visible(name, path) } else { Ok(None) }
    }
}

/// Whether two places show the same below them, by what their layers' hashes say.
fn shows_the_same([a, b]: &[Place; 2]) -> bool {
    let hash = |place: &Place| place.stored.as_ref().map(|stored| stored.dir.hash);
    hash(a).is_some() && hash(a) == hash(b) && over_the_same(a, b)
}

/// The same of a directory in them, without reading it. What it redirects to is part of its hash.
fn below_is_the_same([a, b]: &[Place; 2], name: &[u8]) -> bool {
    let hash = |place: &Place| match place.entry(name).map(|entry| &entry.kind) {
        Some(StoredKind::Directory { hash, .. }) => Some(*hash),
        _ => None,
    };
    hash(a).is_some() && hash(a) == hash(b) && over_the_same(a, b)
}

fn over_the_same(a: &Place, b: &Place) -> bool {
    same(a.lower.as_ref(), b.lower.as_ref()) && same(a.base.as_ref(), b.base.as_ref())
}

/// The difference in mode and owner of two files or directories of one kind.
fn attributes(path: &[u8], old: &Metadata, new: &Metadata) -> Option<AttributeChange> {
    let comparable = matches!(old.kind, FileKind::File | FileKind::Directory | FileKind::Symlink);
    let shown = |meta: &Metadata| Attributes {
        mode: if meta.kind == FileKind::Symlink { 0 } else { meta.mode },
        uid: meta.uid,
        gid: meta.gid,
    };
    let (before, after) = (shown(old), shown(new));
    (comparable && old.kind == new.kind && before != after).then(|| AttributeChange {
        path: path.to_vec(),
        old: before,
        new: after,
    })
}

fn equal(
    places: &[Place; 2],
    layers: &[Option<Arc<dyn StoredLayer>>; 2],
    name: &[u8],
    [a, b]: [&Item; 2],
    lineage: Lineage,
    path: &[u8],
) -> Result<bool> {
    if a.meta.kind != b.meta.kind {
        return Ok(false);
    }
    let stored = [a.side == From::Stored, b.side == From::Stored];
    if stored == [false, false] && lineage.shares(&a.meta, &b.meta) {
        return Ok(true);
    }
    if a.meta.kind == FileKind::Symlink {
        return Ok(target(&places[0], a, name, path)? == target(&places[1], b, name, path)?);
    }
    let size = a.meta.size;
    if size != b.meta.size {
        return Ok(false);
    }
    if size == 0 {
        return Ok(true);
    }
    let layer = layers[0].as_ref().filter(|_| stored[0]).or(layers[1].as_ref().filter(|_| stored[1]));
    if let Some(layer) = layer {
        let digests = [digest(&places[0], a, name, layer, path)?, digest(&places[1], b, name, layer, path)?];
        return Ok(digests[0].is_some() && digests[0] == digests[1]);
    }
    let (Some(dir_a), Some(dir_b)) = (places[0].on(a.side), places[1].on(b.side)) else {
        return Ok(false);
    };
    let old = dir_a.open_file(name, &a.meta).inside("open", path)?;
    let new = dir_b.open_file(name, &b.meta).inside("open", path)?;
    contents::equal(&old, &new, size).inside("compare", path)
}

fn target(place: &Place, item: &Item, name: &[u8], path: &[u8]) -> Result<Option<Vec<u8>>> {
    match (place.on(item.side), place.entry(name).map(|entry| &entry.kind)) {
        (Some(dir), _) => dir.read_link(name).inside("read the symlink", path).map(Some),
        (None, Some(StoredKind::Symlink { target })) => Ok(Some(target.clone())),
        (None, _) => Ok(None),
    }
}

/// The digest of a file wherever it is, as stored layers know it.
fn digest(
    place: &Place,
    item: &Item,
    name: &[u8],
    layer: &Arc<dyn StoredLayer>,
    path: &[u8],
) -> Result<Option<[u8; 32]>> {
    match (place.on(item.side), place.entry(name).map(|entry| &entry.kind)) {
        (Some(dir), _) => {
            let file = dir.open_file(name, &item.meta).inside("open", path)?;
            Ok(Some(layer.digest(&file, item.meta.size)?))
        }
        (None, Some(StoredKind::File { digest, .. })) => Ok(Some(*digest)),
        (None, _) => Ok(None),
    }
}
