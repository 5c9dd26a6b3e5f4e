//! Makes part of a layer show what another tree shows, by editing the unmounted layer in place.

mod edit;

use std::path::Path;

use crate::durable;
use crate::error::{At, Error, Result};
use crate::files::copy;
use crate::lineage::Lineage;
use crate::region::Region;
use crate::tree::Tree;
use crate::tree::dir::Metadata;
use crate::tree::names::in_step;
use crate::tree::place::{Item, Place, same};
use crate::tree::walk::Step;
use edit::Editor;

/// What a graft did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GraftReport {
    /// Entries that were made or replaced, directories included.
    pub written: u64,
    /// Entries that are not seen any more; a whole directory counts once.
    pub removed: u64,
    /// Content bytes copied because they could not be shared.
    pub copied_bytes: u64,
    /// Paths inside the region that could not be made equal because something outside of it is in
    /// the way: a directory that still holds outside entries, or an outside file where a directory
    /// would be needed.
    pub conflicts: u64,
}

/// Makes the tree (`onto_template`, `onto_layer`) show inside `region` what `from` shows there.
///
/// With `overwrite` the region becomes identical: content, owner, mode, modification time,
/// attributes, hard links among the region's files, holes; what `from` lacks is removed. Without
/// it, only what is missing is created and everything that exists is kept. Outside the region
/// nothing visible changes, except that missing directories on the way to a path of the region are
/// made like those of `from`.
///
/// What the template has and the layer hides is copied when it is wanted again, never uncovered:
/// the layer may show that very inode elsewhere (renamed directories, files copied up and renamed),
/// and overlayfs takes two sights of one lower inode for one file, or fails with `ESTALE`.
///
/// The layer must not be mounted or otherwise in use. What was done is on stable storage at
/// return. After an error or a crash the layer is somewhere between: delete it.
pub fn graft(
    onto_layer: &Path,
    onto_template: &Path,
    from: &Tree,
    region: &dyn Region,
    overwrite: bool,
) -> Result<GraftReport> {
    let onto = Tree { template: onto_template.to_owned(), layer: Some(onto_layer.to_owned()) };
    let lineage = Lineage::between(Some(onto_layer), from.layer.as_deref());
    let mut graft = Graft { editor: Editor::new(&onto, from)?, region, overwrite, lineage, stays: Vec::new() };
    while let Some(step) = graft.editor.walk.next()? {
        match step {
            Step::Enter => graft.enter()?,
            Step::Leave => graft.leave()?,
        }
    }
    let report = graft.editor.finish()?;
    durable::make_durable(onto_layer)?;
    Ok(report)
}

struct Graft<'a> {
    editor: Editor,
    region: &'a dyn Region,
    overwrite: bool,
    lineage: Lineage,
    /// One for each directory on the way to the current one.
    stays: Vec<Stay>,
}

/// What is to happen with a directory when everything below it is done.
#[derive(Debug, Clone, Copy)]
struct Stay {
    /// The directory itself is to become like that of `from`.
    inside: bool,
    /// What it looked like before; none if it was not there.
    was: Option<Metadata>,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Keep,
    /// Gone in `from`: remove it if nothing is left in it.
    Remove,
    /// Something else in `from`: put that in its place if nothing is left in it.
    Replace(Item),
}

impl Graft<'_> {
    fn enter(&mut self) -> Result<()> {
        let depth = self.editor.walk.depth();
        self.editor.entered(depth);
        let path = self.editor.walk.path().to_vec();
        let dir: &[u8] = if path.is_empty() { b"/" } else { &path };
        let inside = self.region.contains(dir);
        let below = self.region.may_contain_below(dir);
        let (was, now) = {
            let [onto, from] = self.editor.walk.places()?;
            let stat = |p: &Place| p.top().map(|d| d.own_metadata().inside("stat", dir)).transpose();
            (stat(onto)?, stat(from)?)
        };
        let end = match (was, now) {
            (Some(_), None) if inside && self.overwrite && depth > 0 => self.end_of(depth, &path)?,
            _ => End::Keep,
        };
        self.stays.push(Stay { inside, was, end });
        if inside && was.is_none() && now.is_some() {
            self.editor.ensure_upper(depth)?;
        }
        if below { self.look_at(&path) } else { Ok(()) }
    }

    /// What becomes of a directory inside the region that `from` does not have.
    fn end_of(&mut self, depth: usize, path: &[u8]) -> Result<End> {
        let name = path[self.editor.walk.path_at(depth - 1).len() + 1..].to_vec();
        let [_, from] = self.editor.walk.places_at(depth - 1)?;
        Ok(from.visible(&name, path)?.map_or(End::Remove, End::Replace))
    }

    /// Settles all entries of the current directory, and queues those to walk into.
    fn look_at(&mut self, path: &[u8]) -> Result<()> {
        let [onto, from] = self.editor.walk.places()?.clone();
        let shared = same(onto.lower.as_ref(), from.lower.as_ref());
        if shared && onto.upper.is_none() && from.upper.is_none() {
            return Ok(());
        }
        // Where the same shows through, only what is laid over it can differ.
        let names = if shared {
            [onto.upper_names(path)?, from.upper_names(path)?]
        } else {
            [onto.all_names(path)?, from.all_names(path)?]
        };
        self.editor.walk.count(names[0].len() + names[1].len())?;
        let mut full = path.to_vec();
        let mut queue = Vec::new();
        for (name, _, _) in in_step(&names[0], &names[1]) {
            full.truncate(path.len());
            full.push(b'/');
            full.extend_from_slice(name);
            if self.settle(name, &full)? {
                queue.push(name.into());
            }
        }
        self.editor.walk.queue(queue);
        Ok(())
    }

    /// Settles one entry of the current directory; true if it must be walked into.
    fn settle(&mut self, name: &[u8], path: &[u8]) -> Result<bool> {
        let inside = self.region.contains(path);
        let below = self.region.may_contain_below(path);
        if !inside && !below {
            return Ok(false);
        }
        let [onto, from] = self.editor.walk.places()?;
        let old = onto.visible(name, path)?;
        let new = from.visible(name, path)?;
        let (old_dir, new_dir) = (is_dir(old), is_dir(new));
        if !self.overwrite {
            return match (old, new) {
                (None, Some(_)) if new_dir => Ok(true),
                (None, Some(item)) if inside => self.editor.put(name, &item, path).map(|()| false),
                (Some(_), Some(_)) => Ok(old_dir && new_dir),
                _ => Ok(false),
            };
        }
        let whole = inside && self.region.contains_all_below(path);
        match (old, new) {
            (None, None) => Ok(false),
            (Some(_), None) if inside && (whole || !old_dir) => self.editor.remove(name, path).map(|()| false),
            (Some(_), None) => Ok(old_dir),
            (_, Some(_)) if new_dir => {
                if old.is_some() && !old_dir {
                    if !inside {
                        self.editor.report.conflicts += 1;
                        return Ok(false);
                    }
                    self.editor.clear(name, path)?;
                }
                Ok(true)
            }
            (Some(_), Some(_)) if old_dir && !whole => Ok(true),
            (old, Some(item)) => {
                let equal = old.is_some_and(|old| self.lineage.shares(&old.meta, &item.meta));
                if inside && !equal {
                    self.editor.put(name, &item, path)?;
                }
                Ok(false)
            }
        }
    }

    fn leave(&mut self) -> Result<()> {
        let Some(stay) = self.stays.pop() else {
            return Ok(());
        };
        let depth = self.editor.walk.depth();
        let path = self.editor.walk.path().to_vec();
        match stay.end {
            End::Keep => {}
            End::Remove | End::Replace(_) => {
                if self.is_empty(&path)? {
                    let name = path[self.editor.walk.path_at(depth - 1).len() + 1..].to_vec();
                    return match stay.end {
                        End::Replace(item) => self.editor.put_at(depth - 1, &name, &item, &path),
                        End::Keep | End::Remove => self.editor.remove_at(depth - 1, &name, &path),
                    };
                }
                if matches!(stay.end, End::Replace(_)) {
                    self.editor.report.conflicts += 1;
                }
            }
        }
        self.dress(depth, &stay, &path)
    }

    fn is_empty(&mut self, path: &[u8]) -> Result<bool> {
        let [onto, _] = self.editor.walk.places()?.clone();
        for name in onto.all_names(path)?.iter() {
            if onto.visible(name.bytes, path)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives a directory its final owner, mode, attributes and times.
    fn dress(&mut self, depth: usize, stay: &Stay, path: &[u8]) -> Result<()> {
        let [onto, from] = self.editor.walk.places()?.clone();
        let like = match (&stay.was, from.top()) {
            (None, Some(like)) => Some(like),
            (Some(_), Some(like)) if stay.inside && self.overwrite => Some(like),
            _ => None,
        };
        match (like, stay.was) {
            (Some(like), was) => {
                let Some(top) = onto.top() else { return Ok(()) };
                if top.id == like.id || (was.is_some() && self.editor.dressed_alike(top, like, path)?) {
                    return Ok(());
                }
                let onto = self.editor.ensure_upper(depth)?;
                let meta = like.own_metadata().inside("stat", path)?;
                self.editor.copier.dress_dir(&onto, like, path)?;
                copy::set_dir_times(&onto, &meta).inside("set the times of", path)
            }
            // Entries came and went, but the directory is not ours to change.
            (None, Some(was)) => match &onto.upper {
                Some(upper) if self.editor.touched(depth) => {
                    copy::set_dir_times(upper, &was).inside("set the times of", path)
                }
                _ => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }
}

fn is_dir(item: Option<Item>) -> bool {
    item.is_some_and(|i| i.meta.is_dir())
}

/// An invariant of the editor that did not hold.
fn lost(path: &[u8]) -> Error {
    Error::Changed { path: crate::error::sandbox_path(path) }
}
