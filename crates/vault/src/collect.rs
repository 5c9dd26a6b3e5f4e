//! Removes what no checkpoint needs: marks from all records, condemns packs, removes those no writer relies on.
//!
//! Safe beside writers of this and of other processes (see `session.rs`), and at every step interruptible: a mark
//! that was left is taken up, or taken back, by the next collection. Two collectors at once could each rely on the copy
//! of a chunk that the other removes, so there is one at a time (see `leases.rs`).

use crate::{
    Vault, VaultError,
    crypto::ChunkId,
    error::Result,
    fetch::Fetcher,
    leases::{self, CLOCK_SKEW, Held},
    object_keys::{ObjectKey, PackId, SnapshotRef},
    org::{Org, Refreshed},
    pack::{Stream, Stretch},
    quarantine,
    session::{Progress, Session},
    sink::{Bundler, Sink, with_sink},
    store::{Keep, StoreError},
    tree::NodeRef,
    vault::Inner,
    walk,
};
use forkpoint_domain::ids::OrgId;
use forkpoint_engine::failpoint::{Point, pass};
use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

/// A pack is written anew when less than this part of it is needed, in percent.
const KEEP_FROM: u64 = 60;
/// So many small packs are put together into full ones.
const SMALL_PACKS: usize = 24;

/// What is to be collected.
#[derive(Debug, Clone, Default)]
pub struct CollectOptions {
    /// Only this organisation; `None`: all.
    pub org: Option<OrgId>,
    /// Records that are still wanted: others go, unless they are young. `None`: every record in the store stays.
    pub live: Option<BTreeSet<SnapshotRef>>,
    /// Records and packs younger than this stay, whatever they hold.
    pub keep_newer_than: Duration,
    /// Only tell what would go.
    pub dry_run: bool,
    /// The way to stop it.
    pub progress: Arc<Progress>,
}

/// What a collection did, or with `dry_run` would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Records removed because they are not wanted.
    pub records_removed: u64,
    /// Packs marked to go now.
    pub packs_condemned: u64,
    /// Packs removed.
    pub packs_removed: u64,
    /// Packs whose needed chunks were written into new ones.
    pub packs_rewritten: u64,
    /// Packs marked to go that still wait for a writer to end.
    pub packs_waiting: u64,
    /// Bytes of removed packs and records.
    pub bytes_removed: u64,
    /// Bytes written anew.
    pub bytes_rewritten: u64,
    /// Organisations left alone because something of theirs cannot be read, and why.
    pub skipped: Vec<(OrgId, String)>,
}

impl Vault {
    /// Removes what no record needs. An organisation whose records or directories cannot all be read is left
    /// alone: what looks unneeded may be needed.
    pub fn collect(&self, options: &CollectOptions) -> Result<Collected> {
        let _one = self.0.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let mut collected = Collected::default();
        if !options.dry_run {
            self.0.store.tidy()?;
        }
        let orgs = options.org.map_or_else(|| self.list_orgs(), |org| Ok(vec![org]))?;
        for id in orgs {
            options.progress.go_on()?;
            let outcome = match self.0.org(id) {
                Ok(Some(org)) => self.collect_org(org, options, &mut collected),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match outcome {
                Err(VaultError::Cancelled) => return Err(VaultError::Cancelled),
                Err(error @ VaultError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(org.id = %id, %error, "organisation is not collected");
                    collected.skipped.push((id, error.to_string()));
                }
                Ok(()) => {}
            }
        }
        Ok(collected)
    }

    fn collect_org(&self, org: Arc<Org>, options: &CollectOptions, collected: &mut Collected) -> Result<()> {
        let alone = (!options.dry_run).then(|| Held::upkeep(&self.0, org.id)).transpose()?;
        Collection { vault: &self.0, org, options, alone }.run(collected)
    }
}

struct Collection<'a> {
    vault: &'a Inner,
    org: Arc<Org>,
    options: &'a CollectOptions,
    /// Keeps other collectors away; `None` if nothing is changed.
    alone: Option<Held<'a>>,
}

/// All that is needed, and the records it was found from.
#[derive(Default)]
struct Marks {
    live: HashSet<ChunkId>,
    seen: HashSet<[u8; 32]>,
    records: HashSet<(SnapshotRef, SystemTime)>,
}

impl Collection<'_> {
    /// Whether to go on: nobody wants this to stop, or may be at it, too.
    fn go_on(&self) -> Result<()> {
        self.options.progress.go_on()?;
        self.alone.as_ref().map_or(Ok(()), Held::keep_alive)
    }

    fn run(&self, collected: &mut Collected) -> Result<()> {
        let refreshed = self.org.refresh(self.vault)?;
        self.remove_records(collected)?;
        let mut marks = Marks::default();
        self.mark(&mut marks, collected)?;
        if !self.options.dry_run {
            for suspect in refreshed.suspects.iter().filter(|pack| !refreshed.packs.contains_key(pack)) {
                let object = ObjectKey::Pack(self.org.id, *suspect).to_string();
                if let Err(StoreError::Missing { .. }) = self.vault.store.get(&object, Some(0..1)) {
                    self.org.unmark(self.vault, *suspect)?;
                }
            }
        }
        let young = SystemTime::now().checked_sub(self.options.keep_newer_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let old = refreshed.packs.iter().filter(|(_, info)| info.modified <= young).map(|(pack, _)| *pack);
        let candidates = self.candidates(&marks, old.collect());
        if self.options.dry_run {
            for (pack, live) in candidates {
                let size = refreshed.packs.get(&pack).map_or(0, |info| info.size);
                collected.packs_condemned += 1;
                collected.packs_rewritten += u64::from(live > 0);
                collected.bytes_removed += size;
                collected.bytes_rewritten += live;
            }
            return Ok(());
        }
        if let Some((_, error)) = refreshed.damaged.first() {
            // Which chunks are in there is unknown: it stays as long as any chunk may be.
            let needed = self.may_be_unreadable(&marks);
            tracing::warn!(org.id = %self.org.id, %error, needed, "the index of a pack is damaged");
            for (pack, _) in refreshed.damaged.iter().filter(|_| !needed) {
                self.put_condemned(*pack)?;
                collected.packs_condemned += 1;
            }
        }
        self.rewrite(&candidates, &marks, collected)?;
        for (pack, _) in &candidates {
            self.go_on()?;
            collected.packs_condemned += u64::from(self.condemn(*pack)?);
        }
        self.sweep(&refreshed, marks, collected)
    }

    fn remove_records(&self, collected: &mut Collected) -> Result<()> {
        let Some(live) = &self.options.live else { return Ok(()) };
        let young = SystemTime::now().checked_sub(self.options.keep_newer_than).unwrap_or(SystemTime::UNIX_EPOCH);
        for (name, modified) in self.vault.records(self.org.id)? {
            if !live.contains(&name) && modified <= young {
                if !self.options.dry_run {
                    self.vault.store.delete(&ObjectKey::Record(name).to_string())?;
                }
                collected.records_removed += 1;
            }
        }
        Ok(())
    }

    /// Marks what records need that were not looked at yet.
    fn mark(&self, marks: &mut Marks, collected: &Collected) -> Result<()> {
        let fetcher = Fetcher::new(self.vault, &self.org, Some(&self.options.progress));
        let young = SystemTime::now().checked_sub(self.options.keep_newer_than).unwrap_or(SystemTime::UNIX_EPOCH);
        for (name, modified) in self.vault.records(self.org.id)? {
            self.go_on()?;
            let goes = self.options.dry_run
                && collected.records_removed > 0
                && modified <= young
                && self.options.live.as_ref().is_some_and(|live| !live.contains(&name));
            if goes || !marks.records.insert((name, modified)) {
                continue;
            }
            let top: NodeRef = match self.vault.record(&self.org, name) {
                Ok((_, top)) => top,
                // It was deleted this moment, unless the store still lists it: then its answer is not to be trusted,
                // and what looks unneeded without this record may be needed.
                Err(VaultError::NotFound(_)) if !self.vault.is_listed(name)? => continue,
                Err(error) => return Err(error),
            };
            walk::mark(&fetcher, &top, &mut marks.live, &mut marks.seen)?;
        }
        Ok(())
    }

    /// Packs that may go, and how many bytes of each are needed.
    fn candidates(&self, marks: &Marks, old: HashSet<PackId>) -> Vec<(PackId, u64)> {
        let index = self.org.index();
        let idle = index.packs.iter().filter(|(pack, info)| old.contains(pack) && !info.condemned && info.pins == 0);
        let (mut wasted, mut small) = (Vec::new(), Vec::new());
        for (pack, info) in idle {
            let live: u64 = info.stretches.iter().map(|stretch| live_bytes(stretch, *pack, &index, marks)).sum();
            let all: u64 = info.stretches.iter().map(|stretch| u64::from(stretch.stored)).sum();
            // What cannot be read cannot be written anew: it stays as long as anything of it is nowhere else.
            if info.suspect && live > 0 {
                continue;
            }
            if live * 100 < all * KEEP_FROM || live == 0 {
                wasted.push((*pack, live));
            } else if all < self.vault.pack_bytes as u64 / 4 {
                small.push((*pack, live));
            }
        }
        // Every checkpoint leaves a small pack or two; enough of them are put together.
        if small.len() >= SMALL_PACKS {
            wasted.append(&mut small);
        }
        wasted
    }

    /// Writes the needed chunks of partly needed packs into new packs.
    fn rewrite(&self, candidates: &[(PackId, u64)], marks: &Marks, collected: &mut Collected) -> Result<()> {
        let partly: Vec<PackId> = candidates.iter().filter(|(_, live)| *live > 0).map(|(pack, _)| *pack).collect();
        if partly.is_empty() {
            return Ok(());
        }
        let session = Session::begin(self.vault, self.org.clone())?;
        let ((), sent) = with_sink(&session, &self.options.progress, |sink| {
            let mut bundlers = Bundlers::new(sink);
            for pack in &partly {
                self.go_on()?;
                let fetcher = Fetcher::new(self.vault, &self.org, Some(&self.options.progress));
                copy_needed(&fetcher, *pack, &mut bundlers, |stretch, index| {
                    needed_parts(stretch, *pack, index, marks)
                })?;
            }
            bundlers.flush()
        })?;
        session.check()?;
        pass(Point::VaultRewritten);
        collected.packs_rewritten += partly.len() as u64;
        collected.bytes_rewritten += sent.bytes.into_inner();
        Ok(())
    }

    /// Marks a pack as to go, unless a writer has come to rely on it meanwhile.
    fn condemn(&self, pack: PackId) -> Result<bool> {
        {
            let mut index = self.org.index();
            if index.packs.get(&pack).is_none_or(|info| info.pins > 0) {
                return Ok(false);
            }
            let mut condemned: HashSet<PackId> = condemned_in(&index);
            condemned.insert(pack);
            index.condemn(&condemned);
        }
        self.put_condemned(pack)?;
        Ok(true)
    }

    fn put_condemned(&self, pack: PackId) -> Result<()> {
        let key = ObjectKey::Condemned(self.org.id, pack).to_string();
        self.vault.store.put(&key, bytes::Bytes::from_static(b"condemned"), Keep::Always)?;
        pass(Point::VaultCondemned);
        Ok(())
    }

    /// Whether a needed chunk may be in a pack whose index cannot be read: it is in no other that can be relied on.
    fn may_be_unreadable(&self, marks: &Marks) -> bool {
        let index = self.org.index();
        marks.live.iter().any(|id| !index.is_safe(id))
    }

    /// Removes condemned packs that no record needs and no writer may rely on.
    fn sweep(&self, refreshed: &Refreshed, mut marks: Marks, collected: &mut Collected) -> Result<()> {
        // In this order: marks of packs (all written above or earlier), then leases, then records.
        let condemned = self.org.condemned(self.vault)?;
        if condemned.is_empty() {
            return Ok(());
        }
        // Others may have met damage meanwhile: then what was needless is needed.
        let suspects = self.org.read_suspects(self.vault)?;
        let oldest = leases::oldest_writer(self.vault, self.org.id)?;
        self.mark(&mut marks, &Collected::default())?;
        let mut gone = HashSet::new();
        for (pack, mark) in &condemned {
            self.go_on()?;
            let key = ObjectKey::Condemned(self.org.id, *pack).to_string();
            if !refreshed.packs.contains_key(pack) {
                // Removed with its mark still to go; or the store did not list it, and it can be marked again.
                self.vault.store.delete(&key)?;
                continue;
            }
            let known = {
                let index = self.org.index();
                index.packs.get(pack).map(|info| {
                    let needed = |stretch: &Stretch| needed_parts(stretch, *pack, &index, &marks).is_some();
                    (info.pins > 0, info.stretches.iter().any(needed))
                })
            };
            let is_unreadable = refreshed.damaged.iter().any(|(damaged, _)| damaged == pack);
            let (pinned, needed) = match known {
                Some(known) => known,
                None if is_unreadable => (false, self.may_be_unreadable(&marks)),
                // It came, or went, this moment.
                None => {
                    collected.packs_waiting += 1;
                    continue;
                }
            };
            if needed {
                // A writer relied on it before it was condemned.
                self.vault.store.delete(&key)?;
                let mut index = self.org.index();
                let mut rest = condemned_in(&index);
                rest.remove(pack);
                index.condemn(&rest);
                continue;
            }
            if pinned || oldest.is_some_and(|oldest| oldest <= mark.modified + CLOCK_SKEW) {
                collected.packs_waiting += 1;
                continue;
            }
            let object = ObjectKey::Pack(self.org.id, *pack).to_string();
            match suspects.contains(pack).then(|| quarantine::copy(self.vault, &object)) {
                // A full store must not keep the rest from going.
                Some(Err(VaultError::Store(StoreError::NoSpace { .. }))) => {
                    collected.packs_waiting += 1;
                    continue;
                }
                Some(copied) => drop(copied?),
                None => {}
            }
            self.vault.store.delete(&object)?;
            pass(Point::VaultSwept);
            self.vault.store.delete(&key)?;
            if suspects.contains(pack) {
                self.org.unmark(self.vault, *pack)?;
            }
            self.org.drop_copy(self.vault, *pack);
            gone.insert(*pack);
            collected.packs_removed += 1;
            collected.bytes_removed += refreshed.packs.get(pack).map_or(0, |info| info.size);
        }
        self.org.index().remove(&gone);
        Ok(())
    }
}

fn condemned_in(index: &crate::index::Index) -> HashSet<PackId> {
    index.packs.iter().filter(|(_, info)| info.condemned).map(|(pack, _)| *pack).collect()
}

/// Which parts of a stretch are needed from this very pack; `None`: nothing of it. A chunk of its own is one part.
fn needed_parts(stretch: &Stretch, pack: PackId, index: &crate::index::Index, marks: &Marks) -> Option<Vec<bool>> {
    // Two suspects must not go each for the other's sake.
    let is_suspect = index.is_suspect(&pack);
    let is_here = |id: &ChunkId| index.find(id).is_some_and(|place| place.pack == pack);
    let here = |id: &ChunkId| marks.live.contains(id) && (is_here(id) || is_suspect && !index.is_safe(id));
    let needed = match &stretch.parts {
        None => vec![here(&stretch.id)],
        Some(parts) => parts.iter().map(|(id, _)| here(id)).collect(),
    };
    needed.contains(&true).then_some(needed)
}

fn live_bytes(stretch: &Stretch, pack: PackId, index: &crate::index::Index, marks: &Marks) -> u64 {
    let Some(needed) = needed_parts(stretch, pack, index, marks) else { return 0 };
    match &stretch.parts {
        None => u64::from(stretch.stored),
        Some(parts) => {
            let clear: u64 =
                parts.iter().zip(needed).filter(|(_, needed)| *needed).map(|((_, len), _)| u64::from(*len)).sum();
            u64::from(stretch.stored) * clear / u64::from(stretch.len.max(1))
        }
    }
}

/// Where copied chunks go: bundles stay bundles, the rest stays on its own.
pub(crate) struct Bundlers<'a, 's, 'v> {
    pub(crate) sink: &'a Sink<'s, 'v>,
    small: [Bundler<'a, 's, 'v>; 2],
}

impl<'a, 's, 'v> Bundlers<'a, 's, 'v> {
    pub(crate) fn new(sink: &'a Sink<'s, 'v>) -> Self {
        Self { sink, small: [Stream::Data, Stream::Tree].map(|stream| Bundler::new(sink, stream)) }
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.small.iter_mut().try_for_each(Bundler::flush)
    }
}

/// Copies chunks of a pack that `needed` names, although the index knows them: from there they are to go.
pub(crate) fn copy_needed(
    fetcher: &Fetcher<'_>,
    pack: PackId,
    to: &mut Bundlers<'_, '_, '_>,
    needed: impl Fn(&Stretch, &crate::index::Index) -> Option<Vec<bool>>,
) -> Result<()> {
    let (stream, wanted): (Stream, Vec<(Stretch, Vec<bool>)>) = {
        let index = fetcher.org.index();
        let Some(info) = index.packs.get(&pack) else { return Ok(()) };
        let wanted = info
            .stretches
            .clone()
            .into_iter()
            .filter_map(|stretch| needed(&stretch, &index).map(|needed| (stretch, needed)));
        (info.stream, wanted.collect())
    };
    for (stretch, needed) in wanted {
        to.sink.go_on()?;
        let place = crate::index::Place {
            pack,
            id: stretch.id,
            offset: stretch.offset,
            stored: stretch.stored,
            len: stretch.len,
            part: None,
        };
        let clear = fetcher.run(&[place])?.pop().unwrap_or_default();
        match &stretch.parts {
            None => to.sink.copy(stream, stretch.id, &clear)?,
            Some(parts) => {
                let mut rest = &clear[..];
                for ((id, len), needed) in parts.iter().zip(needed) {
                    let Some((part, after)) = rest.split_at_checked(*len as usize) else { break };
                    rest = after;
                    if needed {
                        to.small[stream as usize].copy(*id, part)?;
                    }
                }
            }
        }
    }
    Ok(())
}
