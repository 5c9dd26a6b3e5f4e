//! Checks the store: every object known and readable, every record whole, a part of all packs read through.

use crate::{
    Vault, VaultError,
    crypto::ChunkId,
    error::Result,
    fetch::Fetcher,
    index::Place,
    object_keys::{ObjectKey, PackId, SnapshotRef},
    org::Org,
    pack::MAGIC,
    session::Progress,
    store::{ObjectInfo, StoreError},
    walk,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Something wrong in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object's key; for a lost chunk, the record that needs it.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Checkpoints that it touches.
    pub affects: Vec<SnapshotRef>,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Objects looked at.
    pub objects: u64,
    /// Checkpoints whose record and directories were read.
    pub checkpoints: u64,
    /// Packs in all.
    pub packs: u64,
    /// Packs of which every chunk was read, opened and hashed.
    pub packs_read: u64,
    /// Bytes of those.
    pub bytes_read: u64,
    /// What is wrong; empty: nothing found.
    pub problems: Vec<Problem>,
    /// Objects that are not the vault's, or lie in quarantine. They do no harm.
    pub strangers: Vec<String>,
}

impl Vault {
    /// Checks every object's name, every organisation's key, every pack's index, every record and all directories
    /// below it, that every chunk needed is somewhere; and reads `read_data_percent` of all packs through, other
    /// ones each time. Runs beside writers and collectors. Store failures end it; damage is reported, and damaged packs
    /// are marked, so that nothing new relies on them.
    pub fn check(&self, read_data_percent: u8, progress: &Progress) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut strangers = Vec::new();
        self.0.store.list("", &mut |info: ObjectInfo| {
            report.objects += 1;
            if matches!(ObjectKey::parse(&info.key), None | Some(ObjectKey::Quarantined)) {
                strangers.push(info.key);
            }
        })?;
        report.strangers = strangers;
        for id in self.list_orgs()? {
            progress.go_on()?;
            match self.0.org(id) {
                Ok(Some(org)) => self.check_org(&org, read_data_percent, progress, &mut report)?,
                Ok(None) => {}
                Err(error @ VaultError::Store(_)) => return Err(error),
                Err(error) => {
                    let affects = self.list(id)?;
                    let object = ObjectKey::OrgKey(id).to_string();
                    report.problems.push(Problem { object, problem: error.to_string(), affects });
                }
            }
        }
        report.problems.sort_by(|one, other| one.object.cmp(&other.object));
        Ok(report)
    }

    fn check_org(&self, org: &Org, percent: u8, progress: &Progress, report: &mut CheckReport) -> Result<()> {
        let mut damage: BTreeMap<String, (String, BTreeSet<SnapshotRef>)> = BTreeMap::new();
        // Records before packs: what is written meanwhile is in packs that are listed later.
        let records = self.0.records(org.id)?;
        let refreshed = org.refresh(&self.0)?;
        let mut note = |object: String, problem: String| {
            damage.entry(object).or_insert((problem, BTreeSet::new()));
        };
        report.packs += refreshed.packs.len() as u64;
        for (pack, info) in &refreshed.packs {
            progress.go_on()?;
            match org.read_stored_index(&self.0, *pack, info) {
                Ok(_) | Err(VaultError::Store(StoreError::Missing { .. })) => {}
                Err(error @ VaultError::Store(_)) => return Err(error),
                Err(error) => note(info.key.clone(), error.to_string()),
            }
            if rand::random_range(0..100) < percent {
                self.check_pack(org, *pack, info, report, &mut note)?;
            }
        }
        for object in damage.keys() {
            if let Some(ObjectKey::Pack(_, pack)) = ObjectKey::parse(object) {
                org.suspect(&self.0, pack);
            }
        }
        let fetcher = Fetcher::new(&self.0, org, Some(progress));
        let bad: HashSet<String> = damage.keys().cloned().collect();
        for (name, _) in records {
            report.checkpoints += 1;
            self.check_record(&fetcher, name, &bad, &mut damage)?;
        }
        report.problems.extend(damage.into_iter().map(|(object, (problem, affects))| Problem {
            object,
            problem,
            affects: affects.into_iter().collect(),
        }));
        Ok(())
    }

    /// Reads every chunk of a pack.
    pub(crate) fn check_pack(
        &self,
        org: &Org,
        pack: PackId,
        info: &ObjectInfo,
        report: &mut CheckReport,
        note: &mut impl FnMut(String, String),
    ) -> Result<()> {
        let fetcher = Fetcher::new(&self.0, org, None);
        let Some(stretches) = org.index().packs.get(&pack).map(|known| known.stretches.clone()) else { return Ok(()) };
        report.packs_read += 1;
        match self.0.store.get(&info.key, Some(0..MAGIC.len() as u64)) {
            Ok(label) if label[..] == MAGIC[..] => {}
            Ok(_) => note(info.key.clone(), "it does not begin like a pack".into()),
            Err(StoreError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for stretch in stretches {
            let place = Place {
                pack,
                id: stretch.id,
                offset: stretch.offset,
                stored: stretch.stored,
                len: stretch.len,
                part: None,
            };
            match fetcher.run(&[place]) {
                Ok(opened) => {
                    report.bytes_read += u64::from(stretch.stored);
                    let mut rest = opened.first().map_or(&[][..], |clear| &clear[..]);
                    for (id, len) in stretch.parts.iter().flatten() {
                        let Some((part, after)) = rest.split_at_checked(*len as usize) else { break };
                        if org.keys.name(part) != *id {
                            note(info.key.clone(), "a part does not have its hash".into());
                        }
                        rest = after;
                    }
                }
                // It was collected this moment.
                Err(VaultError::Store(StoreError::Missing { .. })) => return Ok(()),
                Err(VaultError::Corrupt { problem, .. }) => note(info.key.clone(), problem),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Walks a record's directories, and looks for all chunks below it.
    fn check_record(
        &self,
        fetcher: &Fetcher<'_>,
        name: SnapshotRef,
        bad: &HashSet<String>,
        damage: &mut BTreeMap<String, (String, BTreeSet<SnapshotRef>)>,
    ) -> Result<()> {
        let mut touches = |object: String, problem: &str| {
            damage.entry(object).or_insert_with(|| (problem.to_owned(), BTreeSet::new())).1.insert(name);
        };
        let record = ObjectKey::Record(name).to_string();
        let walked = self.0.record(fetcher.org, name).and_then(|(_, top)| {
            let mut chunks: HashSet<ChunkId> = HashSet::new();
            walk::mark(fetcher, &top, &mut chunks, &mut HashSet::new()).map(|()| chunks)
        });
        match walked {
            Ok(chunks) => {
                let index = fetcher.org.index();
                let mut lost = 0u64;
                for chunk in &chunks {
                    match index.find(chunk) {
                        None => lost += 1,
                        Some(place) => {
                            let object = ObjectKey::Pack(name.org, place.pack).to_string();
                            if bad.contains(&object) {
                                touches(object, "");
                            }
                        }
                    }
                }
                drop(index);
                if lost > 0 {
                    touches(record, &format!("{lost} chunks it needs are in no pack that can be read"));
                }
                Ok(())
            }
            // It was deleted this moment.
            Err(VaultError::NotFound(_)) => Ok(()),
            Err(VaultError::Corrupt { object, problem }) => {
                touches(if object.is_empty() { record } else { object }, &problem);
                Ok(())
            }
            Err(error @ (VaultError::ChunkMissing { .. } | VaultError::Version { .. })) => {
                touches(record, &error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
