//! What can be asked of the platform, one file an operation family.

pub mod accounts;
pub mod build;
pub mod checkpoints;
pub mod compare;
pub mod create;
pub mod durability;
pub mod exec;
pub mod files;
pub mod fork;
pub mod housekeeping;
pub mod idempotency;
pub mod portable;
pub mod restore;
pub mod sandboxes;
mod services;
pub mod templates;
pub mod terminals;
pub mod vault_status;
pub mod verify;

use crate::{Caller, Error, Platform, Result, platform::new_event_id};
use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointStatus},
    event::{Event, EventKind},
    ids::{CheckpointId, OrgId, SandboxId},
    sandbox::{Sandbox, SandboxState},
};
use tokio::sync::OwnedMutexGuard;

impl Platform {
    /// The caller's sandbox; another organisation's does not exist for it.
    pub(crate) async fn own_sandbox(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        self.inner
            .records
            .sandbox(id)
            .await?
            .filter(|sandbox| sandbox.org_id == caller.org_id)
            .ok_or_else(|| Error::not_found("sandbox", id))
    }

    /// The caller's sandbox, which must be on this server.
    pub(crate) async fn own_sandbox_here(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        let sandbox = self.own_sandbox(caller, id).await?;
        self.require_here(&sandbox).await?;
        Ok(sandbox)
    }

    /// The caller's checkpoint; another organisation's does not exist for it.
    pub(crate) async fn own_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Checkpoint> {
        self.inner
            .records
            .checkpoint(id)
            .await?
            .filter(|checkpoint| checkpoint.org_id == caller.org_id)
            .ok_or_else(|| Error::not_found("checkpoint", id))
    }

    /// Takes the lock of a sandbox, or refuses when another operation keeps it too long.
    pub(crate) async fn lock(&self, id: SandboxId) -> Result<OwnedMutexGuard<()>> {
        self.inner.live.lock(id, self.inner.settings.lock_wait).await.ok_or_else(|| {
            Error::conflict(
                "operation_in_progress",
                format!("another operation on {id} is still in progress; try again"),
            )
        })
    }

    pub(crate) fn event(&self, org_id: OrgId, kind: EventKind, data: serde_json::Value) -> Event {
        Event {
            id: new_event_id(),
            org_id,
            sandbox_id: None,
            checkpoint_id: None,
            kind,
            data,
            at: self.inner.clock.now(),
        }
    }

    pub(crate) fn sandbox_event(&self, sandbox: &Sandbox, kind: EventKind, data: serde_json::Value) -> Event {
        Event { sandbox_id: Some(sandbox.id), ..self.event(sandbox.org_id, kind, data) }
    }

    pub(crate) fn checkpoint_event(&self, checkpoint: &Checkpoint, kind: EventKind, data: serde_json::Value) -> Event {
        Event {
            sandbox_id: Some(checkpoint.sandbox_id),
            checkpoint_id: Some(checkpoint.id),
            ..self.event(checkpoint.org_id, kind, data)
        }
    }
}

/// Refuses unless the sandbox runs.
pub(crate) fn require_running(sandbox: &Sandbox) -> Result<()> {
    if sandbox.state == SandboxState::Running {
        return Ok(());
    }
    Err(Error::conflict(
        "sandbox_not_running",
        format!("sandbox {} is {}, not running; start it first", sandbox.id, sandbox.state),
    ))
}

/// Refuses unless the checkpoint can be used.
pub(crate) fn require_ready(checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.status == CheckpointStatus::Ready {
        return Ok(());
    }
    let why = checkpoint.failure.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    Err(Error::conflict(
        "checkpoint_not_ready",
        format!("checkpoint {} is {}, not ready{why}", checkpoint.id, checkpoint.status),
    ))
}
