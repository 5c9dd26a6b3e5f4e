//! What the server knows of checkpoints on their way into the vault besides their rows: who waits, what was tried,
//! what was counted. Lost with the server, and needed by nobody after that.

use crate::ports::vault::{Usage, VaultFailure};
use forkpoint_domain::{
    checkpoint::Durability,
    ids::{CheckpointId, OrgId},
};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify, futures::OwnedNotified, watch};

/// How long to wait for the first look at marks of others.
const MARKS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Durabilities {
    tries: Mutex<HashMap<CheckpointId, Tries>>,
    wanted: Notify,
    changed: Arc<Notify>,
    /// Layers come back from the vault one at a time.
    alone: AsyncMutex<()>,
    pub(crate) figures: Figures,
    /// Stored objects that were found damaged, and whose they are: until they are mended, layers of that organisation
    /// stay here.
    damaged: Mutex<HashMap<(OrgId, String), Mending>>,
    found_damage: Notify,
    /// Whether the marks of others were read since the start.
    knows_damage: watch::Sender<bool>,
    /// Checkpoints whose rows the vault has to be told of again.
    changed_rows: Mutex<HashSet<CheckpointId>>,
    usage: Mutex<Usages>,
}

/// What was tried of one checkpoint.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tries {
    pub(crate) failed: u32,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) hurried: bool,
    pub(crate) last_error: Option<String>,
    /// How often it was stored again since it could not be read back.
    pub(crate) stored_again: u32,
}

/// What is known of a damaged object.
#[derive(Debug, Default, Clone)]
struct Mending {
    tries: u32,
    /// When it is looked at again.
    not_before: Option<Timestamp>,
    /// Checkpoints that use it and could be read back all the same.
    whole: HashSet<CheckpointId>,
}

/// Counted since the server started.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) stored: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) brought_back: AtomicU64,
}

impl Figures {
    pub(crate) fn note(&self, became: Durability) {
        let counter = match became {
            Durability::Captured => return,
            Durability::Durable => &self.stored,
            Durability::Verified => &self.verified,
            Durability::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What checkpoints take in the store, as last counted.
#[derive(Debug, Default)]
struct Usages {
    known: HashMap<OrgId, HashMap<CheckpointId, Usage>>,
    stale: HashSet<OrgId>,
    not_before: HashMap<OrgId, Timestamp>,
}

impl Durabilities {
    /// Somebody waits for this checkpoint.
    pub(crate) fn hurry(&self, id: CheckpointId) {
        self.tries().entry(id).or_default().hurried = true;
        self.wanted.notify_one();
    }

    /// What was tried before counts no more.
    pub(crate) fn begin_anew(&self, id: CheckpointId) {
        self.tries().insert(id, Tries { hurried: true, ..Tries::default() });
        self.wanted.notify_one();
    }

    /// Resolves when somebody waits.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Resolves at the next change of any checkpoint's durability after this call.
    pub(crate) fn changed(&self) -> Pin<Box<OwnedNotified>> {
        let mut changed = Box::pin(self.changed.clone().notified_owned());
        changed.as_mut().enable();
        changed
    }

    pub(crate) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    pub(crate) async fn alone(&self) -> AsyncMutexGuard<'_, ()> {
        self.alone.lock().await
    }

    pub(crate) fn tries(&self) -> MutexGuard<'_, HashMap<CheckpointId, Tries>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After another failure: leaves a checkpoint alone for a while, longer each time. Tells how often it has failed.
    pub(crate) fn put_off(&self, id: CheckpointId, now: Timestamp) -> u32 {
        let mut all = self.tries();
        let tries = all.entry(id).or_default();
        tries.failed += 1;
        tries.not_before = Some(now + SignedDuration::from_secs(1 << tries.failed.min(6)));
        tries.failed
    }

    /// After it could not be read back: lets a checkpoint be stored again after a while, longer each time. Tells how
    /// often it was.
    pub(crate) fn put_off_again(&self, id: CheckpointId, now: Timestamp) -> u32 {
        let mut all = self.tries();
        let tries = all.entry(id).or_default();
        tries.stored_again += 1;
        tries.failed = 0;
        tries.not_before = Some(now + SignedDuration::from_secs(1 << tries.stored_again.min(6)));
        tries.stored_again
    }

    fn damaged(&self) -> MutexGuard<'_, HashMap<(OrgId, String), Mending>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a failure says is damaged.
    pub(crate) fn note_damage(&self, org: OrgId, failure: &VaultFailure) {
        let Some(object) = failure.damaged.clone() else { return };
        let mut damaged = self.damaged();
        let count = damaged.len();
        damaged.entry((org, object)).or_default();
        if damaged.len() > count {
            self.found_damage.notify_one();
        }
    }

    /// Remembers damaged objects that others have marked.
    pub(crate) fn note_suspects(&self, suspects: Vec<(OrgId, String)>) {
        let mut damaged = self.damaged();
        for suspect in suspects {
            damaged.entry(suspect).or_default();
        }
        drop(damaged);
        self.knows_damage.send_replace(true);
    }

    /// Waits until it is known what others have marked; `false`: that takes too long.
    pub(crate) async fn knows_damage(&self) -> bool {
        let mut knows = self.knows_damage.subscribe();
        tokio::time::timeout(MARKS_WITHIN, knows.wait_for(|knows| *knows)).await.is_ok()
    }

    /// Resolves when something was found damaged.
    pub(crate) async fn found_damage(&self) {
        self.found_damage.notified().await;
    }

    /// What is known to be damaged of an organisation.
    pub(crate) fn damage_of(&self, org: OrgId) -> Vec<String> {
        self.damaged().keys().filter(|(owner, _)| *owner == org).map(|(_, object)| object.clone()).collect()
    }

    /// How many objects are known to be damaged.
    pub(crate) fn damaged_objects(&self) -> u64 {
        self.damaged().len() as u64
    }

    /// All that is known to be damaged and is to be looked at now.
    pub(crate) fn damage_due(&self, now: Timestamp) -> Vec<(OrgId, String)> {
        let damaged = self.damaged();
        let due = damaged.iter().filter(|(_, mending)| mending.not_before.is_none_or(|time| time <= now));
        due.map(|(object, _)| object.clone()).collect()
    }

    /// What is damaged still is left alone for a while: some seconds if a checkpoint is being stored again, else longer
    /// each time, up to about half an hour.
    pub(crate) fn mend_later(&self, org: OrgId, object: &str, is_going_on: bool, now: Timestamp) {
        if let Some(mending) = self.damaged().get_mut(&(org, object.to_owned())) {
            mending.tries = if is_going_on { 2 } else { mending.tries + 1 };
            mending.not_before = Some(now + SignedDuration::from_secs(1 << mending.tries.min(11)));
        }
    }

    /// A checkpoint that uses a damaged object could be read back all the same.
    pub(crate) fn note_whole(&self, org: OrgId, object: &str, id: CheckpointId) {
        if let Some(mending) = self.damaged().get_mut(&(org, object.to_owned())) {
            mending.whole.insert(id);
        }
    }

    /// Whether that is so.
    pub(crate) fn is_whole(&self, org: OrgId, object: &str, id: CheckpointId) -> bool {
        self.damaged().get(&(org, object.to_owned())).is_some_and(|mending| mending.whole.contains(&id))
    }

    pub(crate) fn forget_damage(&self, org: OrgId, object: &str) {
        self.damaged().remove(&(org, object.to_owned()));
    }

    fn changed_rows(&self) -> MutexGuard<'_, HashSet<CheckpointId>> {
        self.changed_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the vault keeps of this checkpoint's row is not as the row is any more.
    pub(crate) fn row_changed(&self, id: CheckpointId) {
        self.changed_rows().insert(id);
        self.wanted.notify_one();
    }

    /// Some of which that is so, once.
    pub(crate) fn take_changed_rows(&self, most: usize) -> Vec<CheckpointId> {
        let mut rows = self.changed_rows();
        let taken: Vec<_> = rows.iter().copied().take(most).collect();
        rows.retain(|id| !taken.contains(id));
        taken
    }

    /// To be tried again, though not at once.
    pub(crate) fn keep_changed_row(&self, id: CheckpointId) {
        self.changed_rows().insert(id);
    }

    fn usages(&self) -> MutexGuard<'_, Usages> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an organisation's checkpoints take must be counted again.
    pub(crate) fn usage_changed(&self, org: OrgId) {
        self.usages().stale.insert(org);
    }

    /// What a checkpoint takes, as last counted; `None`: not yet, it will be.
    pub(crate) fn usage(&self, org: OrgId, id: CheckpointId) -> Option<Usage> {
        let mut usages = self.usages();
        let known = usages.known.get(&org).and_then(|of_org| of_org.get(&id)).copied();
        if known.is_none() {
            usages.stale.insert(org);
        }
        known
    }

    /// An organisation to count for now.
    pub(crate) fn usage_due(&self, now: Timestamp) -> Option<OrgId> {
        let mut usages = self.usages();
        let due =
            usages.stale.iter().copied().find(|org| usages.not_before.get(org).is_none_or(|time| *time <= now))?;
        usages.stale.remove(&due);
        Some(due)
    }

    /// What an organisation's checkpoints take could not be counted, and is to be later.
    pub(crate) fn count_again(&self, org: OrgId, not_before: Timestamp) {
        let mut usages = self.usages();
        usages.stale.insert(org);
        usages.not_before.insert(org, not_before);
    }

    pub(crate) fn note_usage(&self, org: OrgId, counted: Vec<(CheckpointId, Usage)>, not_before: Timestamp) {
        let mut usages = self.usages();
        usages.known.insert(org, counted.into_iter().collect());
        usages.not_before.insert(org, not_before);
    }
}
