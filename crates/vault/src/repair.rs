//! Puts aside what is damaged, and tells which checkpoints have to be stored anew.

use crate::{
    Quarantined, Vault, VaultError,
    check::CheckReport,
    error::Result,
    object_keys::{ObjectKey, SnapshotRef},
    session::Progress,
};
use std::collections::BTreeSet;

/// A damaged object, and what was done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Its key.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Checkpoints that it touches.
    pub affects: Vec<SnapshotRef>,
    /// Where it is now; `None`: it stays where it is, for it is whole itself, or cannot be done without.
    pub aside: Option<Quarantined>,
}

/// A checkpoint that the store does not have whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub name: SnapshotRef,
    /// What is missing.
    pub problem: String,
}

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// What was looked at.
    pub checked: CheckReport,
    /// Damaged objects.
    pub damaged: Vec<Repaired>,
    /// Checkpoints that have to be stored anew from their layers, or are lost.
    pub broken: Vec<Broken>,
}

impl Vault {
    /// Checks everything, all data included. Damaged packs and records are put aside, after what is good in them was
    /// saved; every checkpoint they touch is then read back. Those that are whole all the same are not told. Keys of
    /// organisations are left where they are: nothing can take their place.
    pub fn repair(&self, progress: &Progress) -> Result<Repair> {
        let checked = self.check(100, progress)?;
        let mut suspects: BTreeSet<SnapshotRef> = BTreeSet::new();
        let mut damaged = Vec::new();
        for problem in &checked.problems {
            progress.go_on()?;
            suspects.extend(&problem.affects);
            let aside = match ObjectKey::parse(&problem.object) {
                Some(ObjectKey::Pack(..)) => Some(self.quarantine(&problem.object)?),
                // A record that is whole and lacks chunks takes no harm where it is: storing anew replaces it.
                Some(ObjectKey::Record(name)) => {
                    suspects.insert(name);
                    match self.read(name) {
                        Err(VaultError::Corrupt { .. }) => Some(self.quarantine(&problem.object)?),
                        Ok(_) | Err(VaultError::NotFound(_) | VaultError::Version { .. }) => None,
                        Err(error) => return Err(error),
                    }
                }
                _ => None,
            };
            damaged.push(Repaired {
                object: problem.object.clone(),
                problem: problem.problem.clone(),
                affects: problem.affects.clone(),
                aside,
            });
        }
        let mut broken = Vec::new();
        for name in suspects {
            match self.verify(name, None, progress) {
                Ok(_) => {}
                Err(error @ (VaultError::Store(_) | VaultError::Cancelled)) => return Err(error),
                Err(error) => broken.push(Broken { name, problem: error.to_string() }),
            }
        }
        Ok(Repair { checked, damaged, broken })
    }
}
