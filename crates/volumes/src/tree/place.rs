//! One directory of a tree: what the layer holds, what shows through, what the template has.

use std::rc::Rc;

use forkpoint_domain::stored::StoredEntry;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::dir::{Dir, Metadata, Opened};
use super::names::{IN_BASE, IN_LOWER, IN_UPPER, Names};
use super::stored::{StoredChild, StoredPlace};
use super::{Source, Tree};
use crate::error::{At, Error, Result, sandbox_path};
use crate::files::xattrs;

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
pub(crate) const REDIRECT: &str = "trusted.overlay.redirect";

/// Where a visible entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Upper,
    Lower,
    /// A layer that is not on this machine, in the place of the upper one.
    Stored,
}

/// A visible entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) side: Side,
    pub(crate) meta: Metadata,
}

/// Identities of the directories of a place, to find out whether it is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlaceId(Option<(u64, u64)>, Option<(u64, u64)>, Option<(u64, u64)>);

/// A directory path of a tree. Not visible if neither `upper` nor `lower` is there.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    template: Rc<Dir>,
    /// The layer's directory.
    pub(crate) upper: Option<Rc<Dir>>,
    /// The layer's directory, if the layer is not on this machine; then there is no `upper`.
    pub(crate) stored: Option<Rc<StoredPlace>>,
    /// The template's directory that shows through; elsewhere than `base` after a rename.
    pub(crate) lower: Option<Rc<Dir>>,
    /// What the bare template has at this path.
    pub(crate) base: Option<Rc<Dir>>,
}

impl Place {
    /// The root of a tree.
    pub(crate) fn root(tree: &Tree) -> Result<Self> {
        let template = Dir::open(&tree.template)?;
        let upper = match &tree.layer {
            None => None,
            Some(layer) => {
                let holder = Dir::open(layer)?;
                match holder.child(b"upper").at("open directory", &layer.join("upper"))? {
                    Opened::Dir(dir) => Some(dir),
                    Opened::Other => {
                        return Err(Error::io("open directory", layer.join("upper"), Errno::NOTDIR));
                    }
                    Opened::Nothing => {
                        return Err(Error::io("open directory", layer.join("upper"), Errno::NOENT));
                    }
                }
            }
        };
        Ok(Self { lower: Some(template.clone()), base: Some(template.clone()), template, upper, stored: None })
    }

    /// The root of a tree wherever its layer is.
    pub(crate) fn root_of(source: &Source<'_>) -> Result<Self> {
        match source {
            Source::Here(tree) => Self::root(tree),
            Source::Stored { template, layer } => {
                let bare = Tree { template: template.to_path_buf(), layer: None };
                Ok(Self { stored: Some(StoredPlace::top(layer)?), ..Self::root(&bare)? })
            }
        }
    }

    /// A directory of the host as it is, with nothing laid over it.
    pub(crate) fn bare(dir: Rc<Dir>) -> Self {
        Self { lower: Some(dir.clone()), base: None, template: dir, upper: None, stored: None }
    }

    pub(crate) fn id(&self) -> PlaceId {
        let upper = self.stored.as_ref().map(|stored| stored.id()).or(id(self.upper.as_ref()));
        PlaceId(upper, id(self.lower.as_ref()), id(self.base.as_ref()))
    }

    pub(crate) fn is_visible(&self) -> bool {
        self.upper.is_some() || self.stored.is_some() || self.lower.is_some()
    }

    /// Nothing here or below differs from the template.
    pub(crate) fn is_plain(&self) -> bool {
        self.upper.is_none() && self.stored.is_none() && same(self.lower.as_ref(), self.base.as_ref())
    }

    /// The directory that owners, mode and times are taken from.
    pub(crate) fn top(&self) -> Option<&Rc<Dir>> {
        self.upper.as_ref().or(self.lower.as_ref())
    }

    /// The directory that holds a visible entry of that side.
    pub(crate) fn on(&self, side: Side) -> Option<&Rc<Dir>> {
        match side {
            Side::Upper => self.upper.as_ref(),
            Side::Lower => self.lower.as_ref(),
            Side::Stored => None,
        }
    }

    /// What is seen under `name`. `path` is that of this directory, for messages.
    pub(crate) fn visible(&self, name: &[u8], path: &[u8]) -> Result<Option<Item>> {
        if let Some(stored) = &self.stored
            && let Some(entry) = stored.dir.find(name)
        {
            return Ok(stored.visible(entry)?.map(|meta| Item { side: Side::Stored, meta }));
        }
        for side in [Side::Upper, Side::Lower] {
            if let Some(dir) = self.on(side)
                && let Some(meta) = dir.stat(name).inside("stat an entry of", path)?
            {
                return Ok((!meta.is_whiteout()).then_some(Item { side, meta }));
            }
        }
        Ok(None)
    }

    /// What the stored layer has under `name`.
    pub(crate) fn entry(&self, name: &[u8]) -> Option<&StoredEntry> {
        self.stored.as_ref()?.dir.find(name)
    }

    /// What the bare template has under `name`.
    pub(crate) fn in_base(&self, name: &[u8], path: &[u8]) -> Result<Option<Metadata>> {
        stat_shown(self.base.as_ref(), name, path)
    }

    /// What would show through under `name` if the layer did not have it.
    pub(crate) fn in_lower(&self, name: &[u8], path: &[u8]) -> Result<Option<Metadata>> {
        stat_shown(self.lower.as_ref(), name, path)
    }

    /// All names of the layer and of what shows through, whiteouts included.
    pub(crate) fn all_names(&self, path: &[u8]) -> Result<Names> {
        self.names(path, true, false)
    }

    /// Also the names of the template at this path that the layer hides.
    pub(crate) fn all_and_hidden_names(&self, path: &[u8]) -> Result<Names> {
        self.names(path, true, !same(self.lower.as_ref(), self.base.as_ref()))
    }

    /// The names that may differ from the template's, whiteouts included.
    pub(crate) fn changed_names(&self, path: &[u8]) -> Result<Names> {
        let moved = !same(self.lower.as_ref(), self.base.as_ref());
        self.names(path, moved, moved)
    }

    /// The names of the layer alone, whiteouts included.
    pub(crate) fn upper_names(&self, path: &[u8]) -> Result<Names> {
        self.names(path, false, false)
    }

    fn names(&self, path: &[u8], lower: bool, base: bool) -> Result<Names> {
        let mut names = Names::default();
        if let Some(stored) = &self.stored {
            names.add_stored(&stored.dir, IN_UPPER, path)?;
        }
        for (dir, wanted, bit) in
            [(&self.upper, true, IN_UPPER), (&self.lower, lower, IN_LOWER), (&self.base, base, IN_BASE)]
        {
            if let (Some(dir), true) = (dir, wanted) {
                names.add(dir, bit, path)?;
            }
        }
        Ok(names.settle())
    }

    /// The directory path `name` below this one; `path` is its path, for messages.
    pub(crate) fn child(&self, name: &[u8], path: &[u8]) -> Result<Self> {
        let open = |dir: Option<&Rc<Dir>>| -> Result<Opened> {
            dir.map_or(Ok(Opened::Nothing), |d| d.child(name).inside("open directory", path))
        };
        let by_name = || open(self.lower.as_ref()).map(dir_of);
        if let Some(stored) = &self.stored {
            return self.stored_child(stored, name, path);
        }
        // `own`: the lower directory, if any, is the one of this very name.
        let (upper, lower, own) = match open(self.upper.as_ref())? {
            Opened::Other => (None, None, false),
            Opened::Nothing => (None, by_name()?, true),
            Opened::Dir(upper) => {
                if xattrs::get_small(&*upper, OPAQUE, path)?.as_deref() == Some(b"y") {
                    (Some(upper), None, false)
                } else if let Some(target) = xattrs::get_small(&*upper, REDIRECT, path)? {
                    let lower = self.redirected(&target, path)?;
                    (Some(upper), lower, false)
                } else {
                    (Some(upper), by_name()?, true)
                }
            }
        };
        let base = if own && same(self.lower.as_ref(), self.base.as_ref()) {
            lower.clone()
        } else {
            dir_of(open(self.base.as_ref())?)
        };
        Ok(Self { template: self.template.clone(), upper, stored: None, lower, base })
    }

    /// The same where the layer is not on this machine.
    fn stored_child(&self, stored: &StoredPlace, name: &[u8], path: &[u8]) -> Result<Self> {
        let open = |dir: Option<&Rc<Dir>>| -> Result<Option<Rc<Dir>>> {
            dir.map_or(Ok(None), |d| d.child(name).inside("open directory", path).map(dir_of))
        };
        let base = open(self.base.as_ref())?;
        let (stored, lower) = match stored.child(name)? {
            StoredChild::Other => (None, None),
            StoredChild::Nothing => (None, open(self.lower.as_ref())?),
            StoredChild::Dir(child) => {
                let lower = match (&child.dir.redirect, child.dir.opaque) {
                    (_, true) => None,
                    (Some(target), false) => self.redirected(target, path)?,
                    (None, false) => open(self.lower.as_ref())?,
                };
                (Some(child), lower)
            }
        };
        Ok(Self { template: self.template.clone(), upper: None, stored, lower, base })
    }

    /// The template directory that a redirect names: absolute from the template's root, else a
    /// sibling in the directory that shows through here.
    fn redirected(&self, target: &[u8], path: &[u8]) -> Result<Option<Rc<Dir>>> {
        let bad =
            || Error::BadRedirect { path: sandbox_path(path), target: String::from_utf8_lossy(target).into_owned() };
        let (start, parts) = match target.strip_prefix(b"/") {
            Some(rest) => (Some(&self.template), rest),
            None if target.contains(&b'/') => return Err(bad()),
            None => (self.lower.as_ref(), target),
        };
        let Some(start) = start else { return Ok(None) };
        let mut dir = start.clone();
        for part in parts.split(|b| *b == b'/') {
            if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
                return Err(bad());
            }
            match dir.child(part).inside("open the redirected directory", path)? {
                Opened::Dir(next) => dir = next,
                Opened::Other | Opened::Nothing => return Ok(None),
            }
        }
        Ok(Some(dir))
    }
}

/// Whether a listed name surely is or may be a directory.
pub(crate) fn may_be_dir(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::Unknown)
}

/// Whether both are the same directory, or both are not there.
pub(crate) fn same(a: Option<&Rc<Dir>>, b: Option<&Rc<Dir>>) -> bool {
    id(a) == id(b)
}

fn id(dir: Option<&Rc<Dir>>) -> Option<(u64, u64)> {
    dir.map(|d| d.id)
}

fn dir_of(opened: Opened) -> Option<Rc<Dir>> {
    match opened {
        Opened::Dir(dir) => Some(dir),
        Opened::Other | Opened::Nothing => None,
    }
}

fn stat_shown(dir: Option<&Rc<Dir>>, name: &[u8], path: &[u8]) -> Result<Option<Metadata>> {
    let found = match dir {
        Some(dir) => dir.stat(name).inside("stat an entry of", path)?,
        None => None,
    };
    Ok(found.filter(|meta| !meta.is_whiteout()))
}
