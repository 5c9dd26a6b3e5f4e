//! Slots made ahead, so that a sandbox need not wait for one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::address::LAST_SLOT;
use crate::error::Result;
use crate::hub::Hub;
use crate::slot::Slot;

/// After a failure the pool waits so long before it tries again, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps a number of slots ready. Dropping the pool gives all of them back.
#[derive(Debug)]
pub struct SlotPool {
    shared: Arc<Shared>,
    filler: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    hub: Hub,
    size: usize,
    ready: Mutex<VecDeque<Slot>>,
    taken: Notify,
}

impl Shared {
    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) {
        let slots = std::mem::take(&mut *self.ready());
        slots.into_iter().for_each(|slot| self.hub.release_unused(slot));
    }

    /// Fills the pool, then waits until something is taken, for ever.
    async fn keep_full(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            while self.ready().len() < self.size {
                match self.hub.make_slot().await {
                    Ok(slot) => {
                        self.ready().push_back(slot);
                        pause = FIRST_PAUSE;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a network slot could not be made ahead");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            self.taken.notified().await;
        }
    }
}

impl SlotPool {
    /// Starts to make `size` slots in the background; 0 makes none ahead. Must be called in a tokio
    /// runtime.
    pub fn new(hub: Hub, size: usize) -> Self {
        let size = size.min(usize::from(LAST_SLOT));
        let shared = Arc::new(Shared { hub, size, ready: Mutex::new(VecDeque::new()), taken: Notify::new() });
        let filler = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.keep_full().await })
        };
        Self { shared, filler }
    }

    /// Takes a slot that is ready, or makes one. It belongs to the caller, who frees it through the hub.
    ///
    /// # Errors
    /// As [`Hub::make_slot`], if none is ready.
    pub async fn take(&self) -> Result<Slot> {
        let ready = self.shared.ready().pop_front();
        self.shared.taken.notify_one();
        match ready {
            Some(slot) => Ok(slot),
            None => self.shared.hub.make_slot().await,
        }
    }

    /// How many are ready now.
    pub fn ready(&self) -> usize {
        self.shared.ready().len()
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        self.filler.abort();
        self.shared.give_back();
    }
}

impl Drop for Shared {
    /// Gives back what the filler added before it heard that it should end.
    fn drop(&mut self) {
        self.give_back();
    }
}
