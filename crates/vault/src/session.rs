//! A writer at work: its lease in the store, its pins in memory, and how far it is.
//!
//! What keeps a writer and a collector of *another* process apart is the order of their steps. A writer puts its
//! lease, then reads which packs are condemned and does not rely on those, and drops the lease after its record is
//! written. A collector condemns a pack, then reads the leases, then the records, and only then deletes. So a
//! writer whose lease it does not see has either read the mark or written its record.

use crate::{VaultError, error::Result, leases::Held, object_keys::PackId, org::Org, vault::Inner};
use forkpoint_engine::failpoint::{Point, pass};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

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
    lease: Held<'v>,
    held: Mutex<HashSet<PackId>>,
}

impl<'v> Session<'v> {
    /// Announces a writer, then learns what it may rely on.
    pub(crate) fn begin(vault: &'v Inner, org: Arc<Org>) -> Result<Self> {
        let lease = Held::writing(vault, org.id)?;
        let session = Self { vault, org, lease, held: Mutex::default() };
        pass(Point::VaultLeased);
        session.org.refresh(vault)?;
        Ok(session)
    }

    /// Shows life if that is due.
    pub(crate) fn keep_alive(&self) -> Result<()> {
        self.lease.keep_alive()
    }

    /// Refuses if others may hold this writer for dead.
    pub(crate) fn check(&self) -> Result<()> {
        self.lease.check()
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, HashSet<PackId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // The lease goes after this.
        self.org.index().release(&self.held());
    }
}
