//! Brings sandbox rows and running processes in step.

use crate::{
    Platform,
    failpoint::{Point, pass},
    ports::{
        records::{Change, SandboxFilter},
        runtime::{Death, Instance},
    },
};
use forkpoint_domain::{
    ids::SandboxId,
    sandbox::{Sandbox, SandboxState, StopReason},
};
use std::{collections::HashMap, time::Duration};

impl Platform {
    /// Undoes sandboxes that were left half-made, by a crash or by a creation that could not undo itself: nobody was
    /// told of them.
    pub(crate) async fn finish_interrupted(&self) {
        let filter = SandboxFilter { states: vec![SandboxState::Creating, SandboxState::Stopping], ..self.own() };
        let rows = match self.inner.records.sandboxes(filter).await {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "could not look for half-made sandboxes"),
        };
        for id in rows.into_iter().map(|row| row.id) {
            // Who is still at work on it has its lock.
            let Some(_guard) = self.inner.live.lock(id, Duration::ZERO).await else { continue };
            let Ok(Some(sandbox)) = self.inner.records.sandbox(id).await else { continue };
            if !matches!(sandbox.state, SandboxState::Creating | SandboxState::Stopping) {
                continue;
            }
            tracing::info!(sandbox.id = %id, state = %sandbox.state, "undoing a half-made sandbox");
            if let Err(error) = self.inner.runtime.end(id).await {
                tracing::warn!(sandbox.id = %id, %error, "could not end a half-made sandbox");
                continue;
            }
            pass(Point::RecoverEnded);
            let change = Change::DeleteSandbox { id, at: self.inner.clock.now() };
            if let Err(error) = self.inner.records.commit(vec![change]).await {
                tracing::warn!(sandbox.id = %id, %error, "could not remove the row of a half-made sandbox");
            }
            pass(Point::RecoverRow);
        }
    }

    /// Compares rows with processes: rows without processes are stopped, processes without a row are ended,
    /// processes on another layer than their row names are started again on that one. After a start, so is what the
    /// earlier server was just ending or starting.
    pub(crate) async fn compare_with_host(&self, after_start: bool) {
        // Processes first: a row that appears after this list is in the hands of an operation.
        let instances: HashMap<SandboxId, Instance> = match self.inner.runtime.instances().await {
            Ok(list) => list.into_iter().map(|instance| (instance.sandbox, instance)).collect(),
            Err(error) => return tracing::warn!(%error, "could not list what runs"),
        };
        let filter = SandboxFilter { states: vec![SandboxState::Running], ..self.own() };
        let rows = match self.inner.records.sandboxes(filter).await {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "could not list running sandboxes"),
        };
        for row in &rows {
            if after_start {
                self.inner.budget.hold(row.id, row.limits.memory_bytes);
            }
            if instances.get(&row.id).is_none_or(|instance| !agree(row, instance)) {
                self.mend(row.id, after_start).await;
            }
        }
        let named: std::collections::HashSet<SandboxId> = rows.iter().map(|row| row.id).collect();
        let strays = self.inner.runtime.strays().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not look for what failed starts and ends left");
            Vec::new()
        });
        for id in instances.into_keys().chain(strays).filter(|id| !named.contains(id)) {
            self.mend(id, after_start).await;
        }
    }

    /// Brings one sandbox in step, unless an operation is at work on it.
    async fn mend(&self, id: SandboxId, after_start: bool) {
        let Some(_guard) = self.inner.live.lock(id, Duration::ZERO).await else { return };
        // Under the lock both sides are read again and hold still.
        let Ok(row) = self.inner.records.sandbox(id).await else { return };
        let row = row.filter(|row| row.server == self.here());
        let Ok(instances) = self.inner.runtime.instances().await else { return };
        let instance = instances.into_iter().find(|instance| instance.sandbox == id);
        match (row, instance) {
            (Some(row), None) if row.state == SandboxState::Running => {
                let reason = if after_start { self.inner.runtime.lost(id) } else { Some(StopReason::Died) };
                match (reason, row.layer) {
                    (None, Some(layer)) => {
                        tracing::warn!(sandbox.id = %id, "an operation on a sandbox was cut short; starting it again");
                        self.back_to(&row, layer).await;
                    }
                    (reason, _) => {
                        let reason = reason.unwrap_or(StopReason::Died);
                        tracing::warn!(sandbox.id = %id, reason = reason.as_str(), "a running sandbox has no processes");
                        self.free_and_stop(row, reason).await;
                    }
                }
            }
            (Some(row), Some(instance)) if row.state == SandboxState::Running => {
                if let Some(layer) = row.layer
                    && layer != instance.layer
                {
                    tracing::warn!(sandbox.id = %id, "a sandbox runs on another layer than recorded; starting it again");
                    self.back_to(&row, layer).await;
                } else if !agree(&row, &instance) {
                    let moved = Sandbox { address: Some(instance.address), ..row };
                    let change = Change::UpdateSandbox { sandbox: Box::new(moved), from: SandboxState::Running };
                    if let Err(error) = self.inner.records.commit(vec![change]).await {
                        tracing::warn!(sandbox.id = %id, %error, "could not note a sandbox's new address");
                    }
                }
            }
            (Some(row), Some(_)) if matches!(row.state, SandboxState::Creating) => {}
            (_, instance) => {
                tracing::warn!(sandbox.id = %id, runs = instance.is_some(), "ending what no running sandbox names");
                if let Err(error) = self.inner.runtime.end(id).await {
                    tracing::warn!(sandbox.id = %id, %error, "could not end it");
                }
            }
        }
    }

    /// A sandbox ended by itself.
    pub(crate) async fn note_death(&self, death: Death) {
        let Some(_guard) = self.inner.live.lock(death.sandbox, self.inner.settings.lock_wait).await else { return };
        let alive =
            self.inner.runtime.instances().await.is_ok_and(|list| list.iter().any(|one| one.sandbox == death.sandbox));
        if alive {
            // Restored or started again since.
            return;
        }
        if let Ok(Some(row)) = self.inner.records.sandbox(death.sandbox).await
            && row.state == SandboxState::Running
        {
            tracing::warn!(sandbox.id = %row.id, reason = death.reason.as_str(), "sandbox ended by itself");
            self.free_and_stop(row, death.reason).await;
        }
    }

    /// Records that a sandbox ended by itself, then frees what it held. In this order: what is freed and not recorded
    /// would look as if an operation had ended it.
    async fn free_and_stop(&self, row: Sandbox, reason: StopReason) {
        let id = row.id;
        if let Err(error) = self.record_stop(row, reason).await {
            return tracing::warn!(sandbox.id = %id, %error, "could not record that a sandbox stopped");
        }
        pass(Point::LostRecorded);
        if let Err(error) = self.inner.runtime.end(id).await {
            tracing::warn!(sandbox.id = %id, %error, "could not free what a dead sandbox held");
        }
    }
}

/// Whether a row says of running processes what is.
fn agree(row: &Sandbox, instance: &Instance) -> bool {
    row.layer == Some(instance.layer) && row.address.as_ref() == Some(&instance.address)
}
