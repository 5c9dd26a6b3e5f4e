//! What a layer changes in its template, entry by entry.

use crate::error::Result;
use crate::tree::Tree;
use crate::tree::dir::Metadata;
use crate::tree::names::Name;
use crate::tree::place::Place;
use crate::tree::walk::{Step, Walk};

/// How an entry differs from the template's at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The template has nothing there.
    Added,
    /// The layer has another entry there, or other owner or mode of a directory. What is in a
    /// file was not compared.
    Modified,
    /// The sandbox does not see the template's entry any more.
    Removed,
}

/// One difference between a layer's tree and its template.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Absolute inside the sandbox, any bytes.
    pub path: &'a [u8],
    pub kind: ChangeKind,
    /// What is seen now; none if removed.
    pub now: Option<Metadata>,
    /// What the template has; none if added.
    pub was: Option<Metadata>,
}

/// Calls `visit` for each entry that `tree` shows other than its template does, directories before
/// what is in them, in each directory by the bytes of the names. An error of `visit` ends the walk.
///
/// Only directories in which the layer has something are looked at. Of a directory that was
/// replaced or renamed, everything below is reported, as removed at the old path and added at the
/// new.
pub fn changes(tree: &Tree, visit: &mut dyn FnMut(&Change<'_>) -> Result<()>) -> Result<()> {
    let mut walk = Walk::new([Place::root(tree)?]);
    while let Some(step) = walk.next()? {
        if step == Step::Leave {
            continue;
        }
        let mut path = walk.path().to_vec();
        let [place] = &*walk.places()?;
        if place.is_plain() {
            continue;
        }
        let place = place.clone();
        let names = place.changed_names(&path)?;
        walk.count(names.len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for name in names.iter() {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name.bytes);
            let (change, descend) = judge(&place, &name, &path)?;
            if let Some(change) = change {
                visit(&change)?;
            }
            if descend {
                below.push(name.bytes.into());
            }
        }
        walk.queue(below);
    }
    Ok(())
}

/// What happened to one name, and whether there may be more below it.
fn judge<'a>(place: &Place, name: &Name<'_>, path: &'a [u8]) -> Result<(Option<Change<'a>>, bool)> {
    let now = place.visible(name.bytes, path)?.map(|item| item.meta);
    let was = place.in_base(name.bytes, path)?;
    let descend = now.is_some_and(|m| m.is_dir()) || was.is_some_and(|m| m.is_dir());
    let kind = match (now, was) {
        (None, None) => None,
        (Some(_), None) => Some(ChangeKind::Added),
        (None, Some(_)) => Some(ChangeKind::Removed),
        (Some(a), Some(b)) if a.id == b.id => None,
        (Some(a), Some(b)) if a.is_dir() && b.is_dir() => {
            // A directory is in the layer as soon as anything below it is.
            ((a.mode, a.uid, a.gid) != (b.mode, b.uid, b.gid)).then_some(ChangeKind::Modified)
        }
        (Some(_), Some(_)) => Some(ChangeKind::Modified),
    };
    Ok((kind.map(|kind| Change { path, kind, now, was }), descend))
}
