//! Which checkpoints' layers are on this machine, how large they are and when they were last used.
//!
//! An operation claims a layer, then waits for [`HotLayers::settled`], then looks whether the layer is here. An
//! eviction holds [`HotLayers::settling`] while it looks at claims and removes. So whoever's claim an eviction did
//! not see looks after the layer is gone, and brings it back.

use forkpoint_domain::ids::LayerId;
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify};

#[derive(Debug, Default)]
pub(crate) struct HotLayers {
    evictions: AsyncMutex<()>,
    known: Mutex<HashMap<LayerId, Hot>>,
    bytes: AtomicU64,
    pub(crate) changed: Notify,
}

#[derive(Debug, Clone, Copy, Default)]
struct Hot {
    used: Option<Timestamp>,
    bytes: Option<u64>,
}

impl HotLayers {
    /// Keeps evictions that are not this one from happening.
    pub(crate) async fn settling(&self) -> AsyncMutexGuard<'_, ()> {
        self.evictions.lock().await
    }

    /// Waits until evictions at work have ended.
    pub(crate) async fn settled(&self) {
        drop(self.evictions.lock().await);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<LayerId, Hot>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_use(&self, layer: LayerId, now: Timestamp) {
        self.known().entry(layer).or_default().used = Some(now);
    }

    /// When it was last used since this server started.
    pub(crate) fn used(&self, layer: LayerId) -> Option<Timestamp> {
        self.known().get(&layer)?.used
    }

    pub(crate) fn bytes_of(&self, layer: LayerId) -> Option<u64> {
        self.known().get(&layer)?.bytes
    }

    pub(crate) fn note_bytes(&self, layer: LayerId, bytes: u64) {
        self.known().entry(layer).or_default().bytes = Some(bytes);
    }

    /// Forgets layers for which `keep` is false.
    pub(crate) fn retain(&self, keep: impl Fn(&LayerId) -> bool) {
        self.known().retain(|layer, _| keep(layer));
    }

    /// How many bytes all of them have, as last counted.
    pub(crate) fn total(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn note_total(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}
