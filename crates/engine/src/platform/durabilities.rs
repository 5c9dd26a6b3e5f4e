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
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify, futures::OwnedNotified};

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
    damaged: Mutex<HashSet<(OrgId, String)>>,
    usage: Mutex<Usages>,
}

/// What was tried of one checkpoint.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tries {
    pub(crate) failed: u32,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) hurried: bool,
    pub(crate) last_error: Option<String>,
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

    fn damaged(&self) -> MutexGuard<'_, HashSet<(OrgId, String)>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a failure says is damaged.
    pub(crate) fn note_damage(&self, org: OrgId, failure: &VaultFailure) {
        if let Some(object) = &failure.damaged {
            self.damaged().insert((org, object.clone()));
        }
    }

    /// What is known to be damaged of an organisation.
    pub(crate) fn damage_of(&self, org: OrgId) -> Vec<String> {
        self.damaged().iter().filter(|(owner, _)| *owner == org).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn forget_damage(&self, org: OrgId, object: &str) {
        self.damaged().remove(&(org, object.to_owned()));
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
