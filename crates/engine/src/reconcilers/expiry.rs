//! Ends what has lived its time: sandboxes, layers of stopped ones, checkpoints.

use crate::{
    Error, Platform,
    failpoint::{Point, pass},
    ports::records::{Change, CheckpointFilter, SandboxFilter},
};
use forkpoint_domain::sandbox::{Sandbox, SandboxState, StopReason};
use futures::{StreamExt, stream};
use jiff::SignedDuration;

const BATCH: u32 = 200;
/// How long idempotency keys, events and tombstones are kept.
const MEMORY: SignedDuration = SignedDuration::from_hours(24 * 30);

impl Platform {
    /// Stops sandboxes whose lifetime is over.
    pub(crate) async fn expire_sandboxes(&self) {
        let now = self.inner.clock.now();
        let filter = SandboxFilter {
            states: vec![SandboxState::Running],
            expired_at: Some(now),
            limit: Some(BATCH),
            ..SandboxFilter::default()
        };
        let expired = match self.inner.records.sandboxes(filter).await {
            Ok(expired) => expired,
            Err(error) => return tracing::warn!(%error, "could not look for expired sandboxes"),
        };
        stream::iter(expired)
            .for_each_concurrent(8, |sandbox| async move {
                match self.stop_expired(&sandbox).await {
                    Ok(()) => tracing::info!(sandbox.id = %sandbox.id, "sandbox reached the end of its lifetime"),
                    Err(error) => tracing::warn!(sandbox.id = %sandbox.id, %error, "could not stop an expired sandbox"),
                }
            })
            .await;
    }

    async fn stop_expired(&self, sandbox: &Sandbox) -> Result<(), Error> {
        // It may have been extended since the query.
        let current = self.inner.records.sandbox(sandbox.id).await?;
        if current.is_some_and(|current| current.expires_at <= self.inner.clock.now()) {
            pass(Point::ExpiryDue);
            self.stop(sandbox.id, StopReason::Timeout).await?;
        }
        Ok(())
    }

    /// Removes checkpoints whose retention is over.
    pub(crate) async fn apply_retention(&self) {
        let now = self.inner.clock.now();
        let filter = CheckpointFilter { expired_at: Some(now), limit: Some(BATCH), ..CheckpointFilter::default() };
        match self.inner.records.checkpoints(filter).await {
            Ok(expired) => {
                for checkpoint in expired {
                    match self.remove_expired(&checkpoint).await {
                        Ok(()) => {
                            tracing::info!(checkpoint.id = %checkpoint.id, "removed a checkpoint after its retention")
                        }
                        // It was deleted, prolonged or pinned this moment.
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => {
                            tracing::warn!(checkpoint.id = %checkpoint.id, %error, "could not remove an expired checkpoint")
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "could not look for expired checkpoints"),
        }
    }

    /// Removes layers of sandboxes that were stopped long ago, and old memory.
    pub(crate) async fn forget_old(&self) {
        let now = self.inner.clock.now();
        let days = self.inner.settings.stopped_retention_days;
        if days > 0 {
            self.remove_stopped_layers(now - SignedDuration::from_hours(24 * i64::from(days))).await;
        }
        if let Err(error) = self.inner.records.commit(vec![Change::Prune { before: now - MEMORY }]).await {
            tracing::warn!(%error, "could not prune old records");
        }
    }

    async fn remove_stopped_layers(&self, before: jiff::Timestamp) {
        let filter = SandboxFilter {
            states: vec![SandboxState::Stopped],
            stopped_before: Some(before),
            limit: Some(BATCH),
            ..SandboxFilter::default()
        };
        let Ok(stopped) = self.inner.records.sandboxes(filter).await else { return };
        for sandbox in stopped {
            let Some(_guard) = self.inner.live.lock(sandbox.id, std::time::Duration::ZERO).await else { continue };
            let without = Sandbox { layer: None, ..sandbox.clone() };
            let change = Change::UpdateSandbox { sandbox: Box::new(without), from: SandboxState::Stopped };
            // Read again under the lock: it may have been started and stopped meanwhile.
            let unchanged =
                matches!(self.inner.records.sandbox(sandbox.id).await, Ok(Some(current)) if current == sandbox);
            if unchanged && self.inner.records.commit(vec![change]).await.is_ok() {
                tracing::info!(sandbox.id = %sandbox.id, "removed the layer of a sandbox that was stopped for long");
                if let Some(layer) = sandbox.layer {
                    self.behind_drop_layer(layer);
                }
            }
        }
    }
}
