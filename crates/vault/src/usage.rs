//! How much space checkpoints take, and how much of it is theirs alone.

use crate::{
    Vault,
    crypto::ChunkId,
    error::Result,
    fetch::Fetcher,
    object_keys::{ObjectKey, SnapshotRef},
    store::ObjectInfo,
    walk,
};
use forkpoint_domain::ids::OrgId;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What one checkpoint takes in the store, in bytes as stored (compressed and sealed).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What no other checkpoint of the organisation needs: what deleting it gives back.
    pub unique_bytes: u64,
    /// All it needs.
    pub total_bytes: u64,
}

/// What an organisation, or the whole vault, has in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Organisations with anything in the store.
    pub orgs: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Packs that wait for their removal.
    pub condemned: u64,
    /// Packs that once gave wrong bytes, and were not found whole since.
    pub suspects: u64,
    /// Different chunks, as far as indexes are readable.
    pub chunks: u64,
    /// All objects, of any kind.
    pub objects: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// Damaged objects that were put aside.
    pub quarantined: u64,
}

impl Vault {
    /// What every checkpoint of an organisation takes. Reads their directories, each different one once or twice.
    pub fn usage(&self, id: OrgId) -> Result<BTreeMap<SnapshotRef, Usage>> {
        let Some(org) = self.0.org(id)? else { return Ok(BTreeMap::new()) };
        org.refresh(&self.0)?;
        let fetcher = Fetcher::new(&self.0, &org, None);
        let names = self.list(id)?;
        // Which checkpoint needs a chunk: its number, or `None` for several.
        let mut owners: HashMap<ChunkId, Option<usize>> = HashMap::new();
        let mut usages = BTreeMap::new();
        for (number, name) in names.iter().enumerate() {
            let (_, top) = self.0.record(&org, *name)?;
            let mut chunks = HashSet::new();
            walk::mark(&fetcher, &top, &mut chunks, &mut HashSet::new())?;
            let mut usage = Usage::default();
            for chunk in chunks {
                usage.total_bytes += stored_bytes(&fetcher, &chunk);
                owners.entry(chunk).and_modify(|owner| *owner = None).or_insert(Some(number));
            }
            usages.insert(*name, usage);
        }
        for (chunk, owner) in owners {
            if let Some(usage) = owner.and_then(|number| usages.get_mut(&names[number])) {
                usage.unique_bytes += stored_bytes(&fetcher, &chunk);
            }
        }
        Ok(usages)
    }

    /// Bytes that only this checkpoint needs.
    pub fn stored_bytes(&self, name: SnapshotRef) -> Result<u64> {
        let usage = self.usage(name.org)?.get(&name).copied();
        usage.map(|usage| usage.unique_bytes).ok_or(crate::VaultError::NotFound(name))
    }

    /// What the whole vault has in the store, or one organisation.
    pub fn stats(&self, only: Option<OrgId>) -> Result<Stats> {
        let mut stats = Stats::default();
        let mut orgs = HashSet::new();
        self.0.store.list("", &mut |info: ObjectInfo| {
            let key = ObjectKey::parse(&info.key);
            let org = match &key {
                Some(
                    ObjectKey::OrgKey(org)
                    | ObjectKey::Pack(org, _)
                    | ObjectKey::Condemned(org, _)
                    | ObjectKey::Suspect(org, _)
                    | ObjectKey::Lease(org, _)
                    | ObjectKey::Upkeep(org, _),
                ) => Some(*org),
                Some(ObjectKey::Record(name)) => Some(name.org),
                _ => None,
            };
            if only.is_some() && org != only {
                return;
            }
            orgs.extend(org);
            stats.objects += 1;
            stats.bytes += info.size;
            match key {
                Some(ObjectKey::Pack(..)) => {
                    stats.packs += 1;
                    stats.pack_bytes += info.size;
                }
                Some(ObjectKey::Record(_)) => stats.checkpoints += 1,
                Some(ObjectKey::Condemned(..)) => stats.condemned += 1,
                Some(ObjectKey::Suspect(..)) => stats.suspects += 1,
                Some(ObjectKey::Quarantined) => stats.quarantined += 1,
                _ => {}
            }
        })?;
        for id in &orgs {
            if let Some(org) = self.0.org(*id)? {
                org.refresh(&self.0)?;
                stats.chunks += org.index().chunks() as u64;
            }
        }
        stats.orgs = orgs.len() as u64;
        Ok(stats)
    }
}

/// A chunk's share of the store: its own sealed length, or its part of its bundle's.
fn stored_bytes(fetcher: &Fetcher<'_>, chunk: &ChunkId) -> u64 {
    let Some(place) = fetcher.org.index().find(chunk) else { return 0 };
    u64::from(place.stored) * u64::from(place.chunk_len()) / u64::from(place.len.max(1))
}
