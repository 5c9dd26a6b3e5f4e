//! Running sandboxes in memory: what a command needs without a query, and one lock per sandbox.

use forkpoint_domain::{
    env::Environment,
    ids::{OrgId, SandboxId},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

#[derive(Debug, Default)]
pub(crate) struct LiveSandboxes {
    known: Mutex<HashMap<SandboxId, Arc<Live>>>,
    locks: Mutex<HashMap<SandboxId, Weak<AsyncMutex<()>>>>,
}

/// What a command in a running sandbox needs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) org_id: OrgId,
    pub(crate) env: Environment,
}

impl LiveSandboxes {
    pub(crate) fn get(&self, id: SandboxId) -> Option<Arc<Live>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn put(&self, id: SandboxId, live: Live) -> Arc<Live> {
        let live = Arc::new(live);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, live.clone());
        live
    }

    pub(crate) fn forget(&self, id: SandboxId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Waits for the right to change this sandbox; `None` when somebody else kept it for all of `wait`.
    pub(crate) async fn lock(&self, id: SandboxId, wait: Duration) -> Option<OwnedMutexGuard<()>> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 1024 {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            match locks.get(&id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    locks.insert(id, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        if wait.is_zero() {
            return lock.try_lock_owned().ok();
        }
        tokio::time::timeout(wait, lock.lock_owned()).await.ok()
    }
}
