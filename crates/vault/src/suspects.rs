//! What was found damaged: whether it is so still, and which checkpoints it touches.
//!
//! A pack that gives wrong bytes is marked by whoever reads it ([`crate::org::Org::suspect`]). A mark takes nothing
//! away, since the way from the store may be what is bad; it is taken off again by who reads the pack through.

use crate::{
    Vault, VaultError,
    check::CheckReport,
    error::Result,
    fetch::Fetcher,
    object_keys::{ObjectKey, PackId, SUSPECTS, SnapshotRef},
    org::Org,
    session::Progress,
    store::StoreError,
    walk,
};
use forkpoint_domain::ids::OrgId;
use std::collections::{BTreeSet, HashSet};

impl Vault {
    /// Packs of all organisations that are marked, or that this process doubts, by their keys.
    pub fn suspects(&self) -> Result<Vec<(OrgId, String)>> {
        let mut suspects = BTreeSet::new();
        self.0.store.list(SUSPECTS, &mut |info| {
            if let Some(ObjectKey::Suspect(org, pack)) = ObjectKey::parse(&info.key) {
                suspects.insert((org, pack));
            }
        })?;
        for org in self.0.known_orgs() {
            suspects.extend(org.doubts().into_iter().map(|pack| (org.id, pack)));
        }
        Ok(suspects.into_iter().map(|(org, pack)| (org, ObjectKey::Pack(org, pack).to_string())).collect())
    }

    /// Reads one pack or record through; `false` if it is whole, or not there any more. A pack's mark goes then.
    pub fn is_damaged(&self, object: &str) -> Result<bool> {
        match ObjectKey::parse(object) {
            Some(ObjectKey::Pack(id, pack)) => {
                let Some(org) = self.0.org(id)? else { return Ok(false) };
                let damaged = self.is_pack_damaged(&org, pack)?;
                if !damaged {
                    org.trust(&self.0, pack)?;
                }
                Ok(damaged)
            }
            Some(ObjectKey::Record(name)) => match self.read(name) {
                Ok(_) | Err(VaultError::NotFound(_)) => Ok(false),
                Err(VaultError::Corrupt { .. }) => Ok(true),
                Err(error) => Err(error),
            },
            Some(ObjectKey::OrgKey(id)) => match self.0.org(id) {
                Ok(_) => Ok(false),
                Err(VaultError::Corrupt { .. }) => Ok(true),
                Err(error) => Err(error),
            },
            _ => Ok(false),
        }
    }

    fn is_pack_damaged(&self, org: &Org, pack: PackId) -> Result<bool> {
        let refreshed = org.refresh(&self.0)?;
        let Some(info) = refreshed.packs.get(&pack) else { return Ok(false) };
        match org.read_stored_index(&self.0, pack, info) {
            Ok(_) => {}
            Err(VaultError::Store(StoreError::Missing { .. })) => return Ok(false),
            Err(error @ VaultError::Store(_)) => return Err(error),
            Err(_) => return Ok(true),
        }
        // What could not be read a moment ago is not to be trusted for being readable now.
        if !org.index().packs.contains_key(&pack) {
            return Ok(true);
        }
        let mut problems = 0;
        self.check_pack(org, pack, info, &mut CheckReport::default(), &mut |_, _| problems += 1)?;
        Ok(problems > 0)
    }

    /// Checkpoints that need a damaged pack or record: what they hold is nowhere else, or not to be found. A record that
    /// cannot be read may need anything.
    pub fn touched(&self, object: &str, progress: &Progress) -> Result<Vec<SnapshotRef>> {
        let (id, pack) = match ObjectKey::parse(object) {
            Some(ObjectKey::Pack(id, pack)) => (id, pack),
            Some(ObjectKey::Record(name)) => return Ok(vec![name]),
            Some(ObjectKey::OrgKey(_)) => return Err(VaultError::corrupt(object, "only a backup can replace a key")),
            _ => return Ok(Vec::new()),
        };
        let Some(org) = self.0.org(id)? else { return Ok(Vec::new()) };
        org.refresh(&self.0)?;
        let fetcher = Fetcher::new(&self.0, &org, Some(progress));
        let mut touched = Vec::new();
        for name in self.list(id)? {
            let needed = self.0.record(&org, name).and_then(|(_, top)| {
                let mut chunks = HashSet::new();
                walk::mark(&fetcher, &top, &mut chunks, &mut HashSet::new()).map(|()| chunks)
            });
            let is_touched = match needed {
                Ok(chunks) => {
                    let index = org.index();
                    chunks.iter().any(|chunk| index.find(chunk).is_none_or(|place| place.pack == pack))
                }
                // Deleted this moment, unless the store lists what it denies.
                Err(VaultError::NotFound(_)) => self.0.is_listed(name)?,
                Err(VaultError::Corrupt { .. } | VaultError::ChunkMissing { .. }) => true,
                Err(error) => return Err(error),
            };
            if is_touched {
                touched.push(name);
            }
        }
        Ok(touched)
    }
}
