//! A writer at work: its lease in the store, its pins in memory, and how far it is.
//!
//! What keeps a writer and a collector of *another* process apart is the order of their steps. A writer puts its
//! lease, then reads which packs are condemned and does not rely on those, and drops the lease after its record is
//! written. A collector condemns a pack, then reads the leases, then the records, and only then deletes. So a
//! writer whose lease it does not see has either read the mark or written its record.

use crate::{
    VaultError,
    error::Result,
    leases::Note,
    object_keys::{Lease, ObjectKey, PackId},
    org::Org,
    store::Keep,
    vault::Inner,
};
use forkpoint_engine::failpoint::{Point, pass};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// After this long without a sign of life a lease counts for nothing.
pub(crate) const LEASE_LIFE: Duration = Duration::from_secs(60 * 60);
/// A writer that could not show life for this long gives up.
const LEASE_TRUST: Duration = Duration::from_secs(30 * 60);
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// How far a long call is; shared with whoever watches or wants to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Leaves (files, links, …) there are in all.
    pub files_total: AtomicU64,
    /// Leaves done.
    pub files_done: AtomicU64,
    /// Bytes of content there are in all, as far as known.
    pub bytes_total: AtomicU64,
    /// Bytes of content done.
    pub bytes_done: AtomicU64,
    /// Bytes sent to or got from the store.
    pub bytes_moved: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Asks the call to stop; it ends with [`VaultError::Cancelled`] and leaves nothing behind that counts.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(VaultError::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A writer at work.
#[derive(Debug)]
pub(crate) struct Session<'v> {
    pub(crate) vault: &'v Inner,
    pub(crate) org: Arc<Org>,
    lease: String,
    /// Held as long as this process lives; `None` without a cache directory.
    note: Option<Note>,
    renewed: Mutex<Instant>,
    held: Mutex<HashSet<PackId>>,
}

impl<'v> Session<'v> {
    /// Announces a writer, then learns what it may rely on.
    pub(crate) fn begin(vault: &'v Inner, org: Arc<Org>) -> Result<Self> {
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let lease = Lease { began_ms, nonce: rand::random() };
        // Before the lease, so that none is left of which this machine does not know whose it was.
        let note = vault.cache.as_ref().and_then(|cache| Note::write(cache, org.id, lease));
        let lease = ObjectKey::Lease(org.id, lease).to_string();
        let session = Self { vault, org, lease, note, renewed: Mutex::new(Instant::now()), held: Mutex::default() };
        session.put_lease()?;
        pass(Point::VaultLeased);
        session.org.refresh(vault)?;
        Ok(session)
    }

    fn put_lease(&self) -> Result<()> {
        let at = Instant::now();
        self.vault.store.put(&self.lease, bytes::Bytes::from_static(b"writing"), Keep::WhileRunning)?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
        Ok(())
    }

    /// Shows life if that is due.
    pub(crate) fn keep_alive(&self) -> Result<()> {
        let due = self.age() > RENEW_AFTER;
        self.check()?;
        if due { self.put_lease() } else { Ok(()) }
    }

    fn age(&self) -> Duration {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Refuses if others may hold this writer for dead.
    pub(crate) fn check(&self) -> Result<()> {
        if self.age() > LEASE_TRUST { Err(VaultError::LeaseLost(LEASE_TRUST.as_secs())) } else { Ok(()) }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, HashSet<PackId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.org.index().release(&self.held());
        if let Err(error) = self.vault.store.delete(&self.lease) {
            // Whoever collects on this machine tries again, and others ignore it once it is old enough.
            tracing::warn!(object = %self.lease, %error, "lease was not removed");
            if let Some(note) = &mut self.note {
                note.outlives = true;
            }
        }
    }
}
