//! Empty layers kept ready, so that a new sandbox need not wait until one is on the disk.
//!
//! A spare has the id under which it will be used; ids of version 8 tell what may be one. No row names it: a server
//! that starts takes those of its predecessor for what they are, layers that nothing needs, and removes them.

use super::{LocalRuntime, blocking, trees};
use forkpoint_domain::ids::LayerId;
use forkpoint_engine::ports::runtime::RuntimeError;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use uuid::{Builder, Uuid};

/// How long to wait after one could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// Those that are ready, and one that is being made.
#[derive(Debug, Default)]
pub(super) struct Spares {
    state: Mutex<State>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<LayerId>,
    making: Option<LayerId>,
}

impl Spares {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one. `claim` is told of it before it is a layer like others.
    pub(super) fn take(&self, claim: &mut dyn FnMut(LayerId)) -> Option<LayerId> {
        let mut state = self.state();
        let layer = state.ready.last().copied()?;
        claim(layer);
        state.ready.pop();
        self.taken.notify_one();
        Some(layer)
    }

    /// Leaves out those that wait to be taken.
    pub(super) fn without(&self, mut layers: Vec<LayerId>) -> Vec<LayerId> {
        let state = self.state();
        layers.retain(|layer| !state.ready.contains(layer) && state.making != Some(*layer));
        layers
    }
}

/// Whether a layer may be, or have been, a spare.
pub(super) fn is_spare(layer: LayerId) -> bool {
    layer.uuid().get_version_num() == 8
}

impl LocalRuntime {
    /// Keeps so many empty layers ready, until dropped.
    pub async fn keep_spares(&self, count: usize) {
        loop {
            let missing = count.saturating_sub(self.inner.spares.state().ready.len());
            if missing == 0 {
                self.inner.spares.taken.notified().await;
                continue;
            }
            let inner = self.inner.clone();
            let made = blocking(move || {
                let layer = LayerId::from_uuid(Builder::from_custom_bytes(*Uuid::now_v7().as_bytes()).into_uuid());
                // Known before it is there: nobody takes it for one that nothing needs.
                inner.spares.state().making = Some(layer);
                let made = inner.layers.create(layer.uuid()).map_err(trees::failed("make spare layer"));
                let mut state = inner.spares.state();
                state.making = None;
                state.ready.extend(made.is_ok().then_some(layer));
                made
            });
            if let Err(error) = made.await {
                tracing::warn!(%error, "could not make an empty layer ahead");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Removes those that are ready.
    pub(super) async fn drop_spares(&self) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            let ready = std::mem::take(&mut inner.spares.state().ready);
            let delete =
                |layer: LayerId| inner.layers.delete(layer.uuid()).map_err(trees::failed("delete spare layer"));
            ready.into_iter().try_for_each(delete)
        })
        .await
    }
}
