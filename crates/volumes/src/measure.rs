//! How many files a captured set has and how big they are, given up early when it is too much.

use std::collections::HashSet;

use rustix::fs::FileType;

use crate::error::{At, Error, Result};
use crate::region::Region;
use crate::tree::dir::FileKind;
use crate::tree::inodes::Inodes;
use crate::tree::names::Name;
use crate::tree::place::{Place, may_be_dir};
use crate::tree::walk::{Step, Walk};
use crate::tree::{Basis, Tree};

/// Beyond which a measurement ends in [`Error::TooManyFiles`] or [`Error::TooLarge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureLimits {
    pub max_files: u64,
    pub max_bytes: u64,
}

impl MeasureLimits {
    /// No limit but those of every walk.
    pub const NONE: Self = Self { max_files: u64::MAX, max_bytes: u64::MAX };
}

/// The size of a captured set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measure {
    /// Regular files and symlinks; each name of a hard-linked file.
    pub file_count: u64,
    /// Sum of the regular files' sizes in bytes; hard-linked files once.
    pub size_bytes: u64,
}

/// Measures what `tree` has inside `region`, its changes or all that is seen.
pub fn measure(tree: &Tree, region: &dyn Region, basis: Basis, limits: MeasureLimits) -> Result<Measure> {
    measure_with(None, tree, region, basis, limits)
}

/// The same of a tree whose layer is a snapshot that nothing has written to since it was made; much faster on btrfs.
pub fn measure_snapshot(tree: &Tree, region: &dyn Region, basis: Basis, limits: MeasureLimits) -> Result<Measure> {
    measure_with(tree.layer.as_deref().and_then(Inodes::read), tree, region, basis, limits)
}

fn measure_with(
    inodes: Option<Inodes>,
    tree: &Tree,
    region: &dyn Region,
    basis: Basis,
    limits: MeasureLimits,
) -> Result<Measure> {
    let mut walk = Walk::new([Place::root(tree)?]);
    let mut sum = Sum { measure: Measure::default(), limits, inodes, linked: HashSet::new() };
    while let Some(step) = walk.next()? {
        if step == Step::Leave {
            continue;
        }
        let mut path = walk.path().to_vec();
        let [place] = &*walk.places()?;
        if !place.is_visible() || (basis == Basis::Changes && place.is_plain()) {
            continue;
        }
        let place = place.clone();
        let names = match basis {
            Basis::Changes => place.changed_names(&path)?,
            Basis::Merged => place.all_names(&path)?,
        };
        walk.count(names.len())?;
        let dir_len = path.len();
        let mut below = Vec::new();
        for name in names.iter() {
            path.truncate(dir_len);
            path.push(b'/');
            path.extend_from_slice(name.bytes);
            if may_be_dir(name.kind) && region.may_contain_below(&path) {
                below.push(name.bytes.into());
            }
            if name.kind != FileType::Directory && region.contains(&path) {
                sum.add(&place, &name, basis, &path)?;
            }
        }
        walk.queue(below);
    }
    Ok(sum.measure)
}

struct Sum {
    measure: Measure,
    limits: MeasureLimits,
    /// What is known of the layer's files without a look at each.
    inodes: Option<Inodes>,
    linked: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, place: &Place, name: &Name<'_>, basis: Basis, path: &[u8]) -> Result<()> {
        // The common cases need no more than the listing, or one call.
        let meta = if name.in_upper() {
            match (name.kind, &place.upper) {
                (FileType::Symlink, _) => return self.count(),
                (FileType::RegularFile, Some(upper))
                    if let Some(known) = self.inodes.as_ref().and_then(|inodes| inodes.file(name.inode)) =>
                {
                    let (links, id, size) = (known.links, (upper.id.0, known.number), known.size);
                    return self.file(links, id, size);
                }
                (FileType::RegularFile | FileType::Unknown, Some(upper)) => {
                    upper.stat(name.bytes).inside("stat", path)?
                }
                _ => return Ok(()),
            }
        } else {
            let below = place.in_lower(name.bytes, path)?;
            match (basis, below) {
                // Seen through a renamed directory: a change unless the template has it here too.
                (Basis::Changes, Some(meta))
                    if place.in_base(name.bytes, path)?.is_some_and(|base| base.id == meta.id) =>
                {
                    return Ok(());
                }
                (_, below) => below,
            }
        };
        let Some(meta) = meta else { return Ok(()) };
        match meta.kind {
            FileKind::Symlink => self.count(),
            FileKind::File => self.file(meta.links, meta.id, meta.size),
            FileKind::Directory | FileKind::Fifo | FileKind::Socket | FileKind::Device => Ok(()),
        }
    }

    fn file(&mut self, links: u32, id: (u64, u64), size: u64) -> Result<()> {
        self.count()?;
        if links < 2 || self.linked.insert(id) {
            self.measure.size_bytes = self.measure.size_bytes.saturating_add(size);
        }
        if self.measure.size_bytes > self.limits.max_bytes {
            return Err(Error::TooLarge { limit: self.limits.max_bytes });
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.measure.file_count += 1;
        if self.measure.file_count > self.limits.max_files {
            return Err(Error::TooManyFiles { limit: self.limits.max_files });
        }
        Ok(())
    }
}
