//! Archives that come and go: how many at a time, and how slow their other end may be.

use crate::{Error, Result};
use forkpoint_domain::ids::OrgId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many archives are read or written at a time, checkpoints that are read through among them.
const AT_ONCE: usize = 2;
/// How many archives come in at a time; each takes as much disk as it has bytes.
const UPLOADS: usize = 16;
/// How many of them one organisation may send.
const UPLOADS_OF_ONE: usize = 4;

/// Places for archives that come and go.
#[derive(Debug, Clone)]
pub(crate) struct Transfers {
    places: Arc<Semaphore>,
    uploads: Arc<Mutex<HashMap<OrgId, usize>>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), uploads: Arc::default() }
    }
}

impl Transfers {
    /// Waits at most `patience` for a place among those that read or write archives.
    pub(crate) async fn place(&self, patience: Duration) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(patience, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Error::Unavailable(format!(
                "{AT_ONCE} checkpoints are being exported, imported or verified already; try again later"
            ))),
        }
    }

    /// Takes a place among the archives that come in, which waits for nobody: senders may be slow.
    pub(crate) fn upload(&self, org: OrgId) -> Result<Upload> {
        let mut uploads = self.uploads();
        let own = uploads.get(&org).copied().unwrap_or_default();
        if own >= UPLOADS_OF_ONE || uploads.values().sum::<usize>() >= UPLOADS {
            return Err(Error::Unavailable(format!(
                "{own} archives of this organisation are coming in, of {} in all; at most {UPLOADS_OF_ONE} and \
                 {UPLOADS} may be; nothing was done",
                uploads.values().sum::<usize>()
            )));
        }
        uploads.insert(org, own + 1);
        drop(uploads);
        Ok(Upload { transfers: self.clone(), org })
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<OrgId, usize>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the archives that come in, given up when dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    transfers: Transfers,
    org: OrgId,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut uploads = self.transfers.uploads();
        if let Some(own) = uploads.get_mut(&self.org) {
            *own -= 1;
            if *own == 0 {
                uploads.remove(&self.org);
            }
        }
    }
}

/// How fast somebody sends or takes: who is slower on average than 64 KiB/s, after a minute, is taken for somebody who
/// only wants the place.
#[derive(Debug, Clone, Copy)]
pub struct Pace(Instant);

impl Pace {
    /// The least, in bytes a second.
    pub const LEAST: u64 = 64 << 10;
    const GRACE: Duration = Duration::from_secs(60);

    /// Begins now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Whether so many bytes are too few by now.
    pub fn is_too_slow(&self, bytes: u64) -> bool {
        too_slow(self.0.elapsed(), bytes)
    }
}

fn too_slow(elapsed: Duration, bytes: u64) -> bool {
    bytes < elapsed.saturating_sub(Pace::GRACE).as_secs() * Pace::LEAST
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn places_are_bounded_for_all_and_for_each() {
        let transfers = Transfers::default();
        let org = |number: u128| OrgId::from_uuid(Uuid::from_u128(number));
        let mut uploads: Vec<_> = (0..UPLOADS as u128).map(|n| transfers.upload(org(n / 4)).unwrap()).collect();
        assert!(transfers.upload(org(9)).is_err());
        uploads.pop();
        assert!(transfers.upload(org(0)).is_err());
        drop(transfers.upload(org(9)).unwrap());
        drop(uploads);
        assert!(transfers.uploads().is_empty());
        let _both = [transfers.place(Duration::ZERO).await.unwrap(), transfers.place(Duration::ZERO).await.unwrap()];
        assert!(transfers.place(Duration::ZERO).await.is_err());
    }

    #[test]
    fn slow_senders_have_a_minute() {
        let after = |seconds| Duration::from_secs(seconds);
        assert!(!too_slow(after(59), 0) && !too_slow(after(60), 0));
        assert!(too_slow(after(61), Pace::LEAST - 1) && !too_slow(after(61), Pace::LEAST));
        assert!(too_slow(after(3660), 3600 * Pace::LEAST - 1));
    }
}
