//! Puts damaged objects aside, after saving what is still good in them.

use crate::{
    Vault, VaultError,
    collect::{Bundlers, copy_needed},
    error::Result,
    fetch::Fetcher,
    leases::Held,
    object_keys::{ObjectKey, PackId, QUARANTINE},
    org::Org,
    session::{Progress, Session},
    sink::with_sink,
    store::{Keep, StoreError},
    vault::Inner,
};
use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
};

/// What was done with a damaged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its new key.
    pub moved_to: String,
    /// Chunks of it that were still good and are kept elsewhere now.
    pub chunks_saved: u64,
    /// Chunks of it that are lost unless another pack has them; the next persist that meets them stores them anew.
    pub chunks_lost: u64,
}

/// Copies an object to where damaged ones lie; says where that is.
pub(crate) fn copy(vault: &Inner, object: &str) -> Result<String> {
    let to = format!("{QUARANTINE}{object}");
    match vault.store.get(object, None) {
        Ok(bytes) => vault.store.put(&to, bytes, Keep::Always)?,
        Err(StoreError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(to)
}

impl Vault {
    /// Moves an object that is damaged out of the way, so that nothing reads it and nothing new relies on it.
    /// Chunks of a pack that still open are saved into a new pack first. Objects that are whole can be moved, too:
    /// nothing is lost then. The format object and keys of organisations are refused.
    pub fn quarantine(&self, object: &str) -> Result<Quarantined> {
        let _one = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut saved, mut lost) = (0, 0);
        let packed = match ObjectKey::parse(object) {
            Some(ObjectKey::Pack(org, pack)) => self.0.org(org)?.map(|org| (org, pack)),
            Some(ObjectKey::Record(_) | ObjectKey::Condemned(..) | ObjectKey::Lease(..) | ObjectKey::Upkeep(..)) => {
                None
            }
            _ => {
                let problem = format!("{object} is not a pack, record, mark or lease of the vault");
                return Err(VaultError::Malformed { what: "the name of an object", problem });
            }
        };
        let _alone = packed.as_ref().map(|(org, _)| Held::upkeep(&self.0, org.id)).transpose()?;
        if let Some((org, pack)) = &packed {
            org.refresh(&self.0)?;
            (saved, lost) = self.save_chunks(org, *pack)?;
        }
        let moved_to = copy(&self.0, object)?;
        self.0.store.delete(object)?;
        if let Some((org, pack)) = packed {
            org.index().remove(&HashSet::from([pack]));
            org.drop_copy(&self.0, pack);
            org.unmark(&self.0, pack)?;
        }
        Ok(Quarantined { moved_to, chunks_saved: saved, chunks_lost: lost })
    }

    /// Copies the chunks of a pack that open; answers how many do and how many do not.
    fn save_chunks(&self, org: &Arc<Org>, pack: PackId) -> Result<(u64, u64)> {
        let session = Session::begin(&self.0, org.clone())?;
        org.suspect(&self.0, pack);
        let stretches = org.index().packs.get(&pack).map(|info| info.stretches.clone()).unwrap_or_default();
        let progress = Progress::default();
        let fetcher = Fetcher::new(&self.0, org, None);
        let (counts, _) = with_sink(&session, &progress, |sink| {
            let mut bundlers = Bundlers::new(sink);
            let (mut saved, mut lost) = (0, 0);
            for stretch in &stretches {
                let parts = stretch.parts.as_ref().map_or(1, Vec::len) as u64;
                let only = |other: &crate::pack::Stretch, _: &crate::index::Index| {
                    (other.offset == stretch.offset).then(|| vec![true; parts as usize])
                };
                match copy_needed(&fetcher, pack, &mut bundlers, only) {
                    Ok(()) => saved += parts,
                    Err(VaultError::Corrupt { .. }) => lost += parts,
                    Err(VaultError::Store(StoreError::Missing { .. })) => lost += parts,
                    Err(error) => return Err(error),
                }
            }
            bundlers.flush()?;
            Ok((saved, lost))
        })?;
        Ok(counts)
    }
}
