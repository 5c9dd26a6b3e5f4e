//! Ends what has lived its time: sandboxes, layers of stopped ones, checkpoints.

use crate::{
    Error, Platform,
    failpoint::{Point, pass},
    ports::records::{Change, CheckpointFilter, SandboxFilter},
};
use forkpoint_domain::{
    checkpoint::Checkpoint,
    sandbox::{Sandbox, SandboxState, StopReason},
};
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
            ..self.own()
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

    /// Removes checkpoints whose retention is over, unless another server is at it.
    pub(crate) async fn apply_retention(&self) {
        let now = self.inner.clock.now();
        let filter = CheckpointFilter { expired_at: Some(now), limit: Some(BATCH), ..CheckpointFilter::default() };
        let removed = match self.inner.records.checkpoints(filter).await {
            Ok(expired) if expired.is_empty() => return,
            Ok(expired) => self.leased("retention", self.remove_all_expired(expired)).await,
            Err(error) => return tracing::warn!(%error, "could not look for expired checkpoints"),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "could not claim the removal of expired checkpoints");
        }
    }

    async fn remove_all_expired(&self, expired: Vec<Checkpoint>) {
        for checkpoint in expired {
            match self.remove_expired(&checkpoint).await {
                Ok(()) => tracing::info!(checkpoint.id = %checkpoint.id, "removed a checkpoint after its retention"),
                // It was deleted, prolonged or pinned this moment.
                Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(checkpoint.id = %checkpoint.id, %error, "could not remove an expired checkpoint")
                }
            }
        }
    }

    /// Removes layers of this server's sandboxes that were stopped long ago; and old memory, unless another server is
    /// at it.
    pub(crate) async fn forget_old(&self) {
        if let Some(before) = self.stopped_before() {
            self.remove_stopped_layers(before).await;
        }
        if let Err(error) = self.leased("forget", self.prune()).await {
            tracing::warn!(%error, "could not claim the forgetting of old records");
        }
    }

    async fn prune(&self) {
        let now = self.inner.clock.now();
        if let Err(error) = self.inner.records.commit(vec![Change::Prune { before: now - MEMORY }]).await {
            tracing::warn!(%error, "could not prune old records");
        }
    }

    /// Sandboxes that were stopped before this lose their layer; `None`: none does.
    pub(crate) fn stopped_before(&self) -> Option<jiff::Timestamp> {
        let days = self.inner.settings.stopped_retention_days;
        (days > 0).then(|| self.inner.clock.now() - SignedDuration::from_hours(24 * i64::from(days)))
    }

    async fn remove_stopped_layers(&self, before: jiff::Timestamp) {
        let filter = SandboxFilter {
            states: vec![SandboxState::Stopped],
            stopped_before: Some(before),
            limit: Some(BATCH),
            ..self.own()
        };
        let Ok(stopped) = self.inner.records.sandboxes(filter).await else { return };
        for sandbox in stopped {
            self.remove_stopped_layer(&sandbox).await;
        }
    }

    /// Removes the layer of a sandbox unless that is used, or was since.
    pub(crate) async fn remove_stopped_layer(&self, sandbox: &Sandbox) -> bool {
        let Some(_guard) = self.inner.live.lock(sandbox.id, std::time::Duration::ZERO).await else { return false };
        let without = Sandbox { layer: None, ..sandbox.clone() };
        let change = Change::UpdateSandbox { sandbox: Box::new(without), from: SandboxState::Stopped };
        // Read again under the lock: it may have been started and stopped meanwhile.
        let unchanged =
            matches!(self.inner.records.sandbox(sandbox.id).await, Ok(Some(current)) if current == *sandbox);
        if !unchanged || self.inner.records.commit(vec![change]).await.is_err() {
            return false;
        }
        tracing::info!(sandbox.id = %sandbox.id, "removed the layer of a sandbox that was stopped for long");
        if let Some(layer) = sandbox.layer {
            self.behind_drop_layer(layer);
        }
        true
    }
}
