//! How many files a captured set has and how big they are, given up early when it is too much.

use std::collections::HashSet;

use rustix::fs::FileType;

use crate::error::{At, Error, Result};
use crate::region::Region;
use crate::tree::dir::FileKind;
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
    let mut walk = Walk::new([Place::root(tree)?]);
    let mut sum = Sum { measure: Measure::default(), limits, linked: HashSet::new() };
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
    linked: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, place: &Place, name: &Name<'_>, basis: Basis, path: &[u8]) -> Result<()> {
        // The common cases need no more than the listing, or one call.
        let meta = if name.in_upper() {
            match (name.kind, &place.upper) {
                (FileType::Symlink, _) => return self.count(),
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
            FileKind::File => {
                self.count()?;
                if meta.links < 2 || self.linked.insert(meta.id) {
                    self.measure.size_bytes = self.measure.size_bytes.saturating_add(meta.size);
                }
                if self.measure.size_bytes > self.limits.max_bytes {
                    return Err(Error::TooLarge { limit: self.limits.max_bytes });
                }
                Ok(())
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket | FileKind::Device => Ok(()),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.measure.file_count += 1;
        if self.measure.file_count > self.limits.max_files {
            return Err(Error::TooManyFiles { limit: self.limits.max_files });
        }
        Ok(())
    }
}
