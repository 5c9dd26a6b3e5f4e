//! Looking at sandboxes, and the rest of their life: stop, start, extend, delete.

use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    ports::{
        records::{Change, RecordsError, SandboxFilter},
        runtime::Launch,
    },
};
use forkpoint_domain::{
    event::EventKind,
    ids::SandboxId,
    organization::KeyScope,
    sandbox::{Sandbox, SandboxState, StopReason, expiry, extended_expiry},
};
use serde_json::json;

impl Platform {
    /// One sandbox.
    pub async fn get_sandbox(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        caller.require(KeyScope::Read)?;
        self.own_sandbox(caller, id).await
    }

    /// All sandboxes of the organisation, newest first.
    pub async fn list_sandboxes(&self, caller: &Caller) -> Result<Vec<Sandbox>> {
        caller.require(KeyScope::Read)?;
        Ok(self.inner.records.sandboxes(SandboxFilter { org: Some(caller.org_id), ..SandboxFilter::default() }).await?)
    }

    /// How many sandboxes of all organisations are in each state on this server, for the operator.
    pub async fn count_sandboxes(&self) -> Result<Vec<(SandboxState, u64)>> {
        let all = self.inner.records.sandboxes(self.own()).await?;
        let count = |state| all.iter().filter(|sandbox| sandbox.state == state).count() as u64;
        Ok(SandboxState::ALL.into_iter().map(|state| (state, count(state))).collect())
    }

    /// Ends a sandbox's processes and keeps its layer. One that is stopped stays so.
    pub async fn stop_sandbox(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox> {
        caller.require(KeyScope::Write)?;
        self.own_sandbox_here(caller, id).await?;
        let platform = self.clone();
        self.to_the_end(async move { platform.stop(id, StopReason::Requested).await })
            .await?
            .ok_or_else(|| Error::not_found("sandbox", id))
    }

    /// Brings a stopped sandbox back from its layer, with its whole lifetime (or another one) before it.
    pub async fn start_sandbox(&self, caller: &Caller, id: SandboxId, timeout_seconds: Option<i64>) -> Result<Sandbox> {
        caller.require(KeyScope::Write)?;
        self.own_sandbox_here(caller, id).await?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let _guard = platform.lock(id).await?;
            let sandbox = platform.own_sandbox(&caller, id).await?;
            match sandbox.state {
                SandboxState::Running => return Ok(sandbox),
                SandboxState::Stopped => {}
                state => {
                    let message = format!("sandbox {id} is {state}; only a stopped one can be started");
                    return Err(Error::conflict("sandbox_not_stopped", message));
                }
            }
            let Some(layer) = sandbox.layer else {
                return Err(Error::conflict(
                    "layer_removed",
                    "the layer of this stopped sandbox was removed by retention",
                ));
            };
            let now = platform.inner.clock.now();
            let whole_life = sandbox.expires_at.duration_since(sandbox.created_at).as_secs();
            let most = forkpoint_domain::sandbox::MAX_TIMEOUT_SECONDS;
            let expires_at = expiry(now, timeout_seconds.or(Some(whole_life.clamp(1, most))))?;
            let launch = Launch { sandbox: id, template: sandbox.template.clone(), layer, limits: sandbox.limits };
            let admission = platform.admit(vec![id], sandbox.limits.memory_bytes).await?;
            let instance = platform.inner.runtime.launch(&launch).await?;
            pass(Point::StartLaunched);
            let env = platform.sandbox_environment(&sandbox).await?;
            if let Err(error) = platform.start_services(id, &sandbox.template, &env).await {
                platform.end_quietly(id).await;
                return Err(error);
            }
            let started = Sandbox {
                state: SandboxState::Running,
                stop_reason: None,
                stopped_at: None,
                ready_at: Some(now),
                expires_at,
                address: Some(instance.address),
                ..sandbox
            };
            let data = json!({ "podIp": started.address, "startedAgain": true });
            let changes = vec![
                Change::UpdateSandbox { sandbox: Box::new(started.clone()), from: SandboxState::Stopped },
                Change::InsertEvent(platform.sandbox_event(&started, EventKind::SandboxReady, data)),
            ];
            if let Err(error) = platform.inner.records.commit(changes).await {
                platform.end_quietly(id).await;
                return Err(error.into());
            }
            pass(Point::StartRow);
            admission.keep();
            Ok(started)
        })
        .await
    }

    /// Ends the processes of a sandbox whose start failed; what cannot be ended now, the reconcilers find.
    async fn end_quietly(&self, id: SandboxId) {
        if let Err(error) = self.inner.runtime.end(id).await {
            tracing::warn!(sandbox.id = %id, %error, "could not end a sandbox whose start failed");
        }
    }

    /// Moves the end of a sandbox's life later.
    pub async fn extend_sandbox(&self, caller: &Caller, id: SandboxId, additional_seconds: i64) -> Result<Sandbox> {
        caller.require(KeyScope::Write)?;
        self.own_sandbox_here(caller, id).await?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let _guard = platform.lock(id).await?;
            let mut sandbox = platform.own_sandbox(&caller, id).await?;
            super::require_running(&sandbox)?;
            sandbox.expires_at = extended_expiry(
                sandbox.began_at(),
                platform.inner.clock.now(),
                sandbox.expires_at,
                additional_seconds,
            )?;
            let change = Change::UpdateSandbox { sandbox: Box::new(sandbox.clone()), from: SandboxState::Running };
            platform.inner.records.commit(vec![change]).await?;
            Ok(sandbox)
        })
        .await
    }

    /// Deletes a sandbox with its layer. Its checkpoints stay. One of a server that gives no sign of life can be
    /// deleted by any: should that server come back, it ends what has no row.
    pub async fn delete_sandbox(&self, caller: &Caller, id: SandboxId) -> Result<()> {
        caller.require(KeyScope::Write)?;
        let sandbox = self.own_sandbox(caller, id).await?;
        if sandbox.server != self.here() && self.is_alive(sandbox.server).await? {
            self.require_here(&sandbox).await?;
        }
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let _guard = platform.lock(id).await?;
            let sandbox = platform.own_sandbox(&caller, id).await?;
            let changes = vec![
                Change::DeleteSandbox { id, at: platform.inner.clock.now() },
                Change::InsertEvent(platform.sandbox_event(&sandbox, EventKind::SandboxDeleted, json!({}))),
            ];
            match platform.inner.records.commit(changes).await {
                Err(RecordsError::Conflict(_)) => return Err(Error::not_found("sandbox", id)),
                other => other?,
            }
            pass(Point::DeleteRow);
            platform.inner.live.forget(id);
            platform.inner.budget.release(id);
            if sandbox.server != platform.here() {
                return Ok(());
            }
            // The row is gone, so from here on failing would only be a late cleanup: reconcilers do it again.
            if let Err(error) = platform.inner.runtime.end(id).await {
                tracing::warn!(sandbox.id = %id, %error, "could not end a deleted sandbox");
            } else if let Some(layer) = sandbox.layer {
                pass(Point::DeleteEnded);
                platform.behind_drop_layer(layer);
            }
            Ok(())
        })
        .await
    }

    /// Stops a running sandbox for a reason; `None` if there is no such sandbox.
    pub(crate) async fn stop(&self, id: SandboxId, reason: StopReason) -> Result<Option<Sandbox>> {
        let _guard = self.lock(id).await?;
        let Some(sandbox) = self.inner.records.sandbox(id).await? else { return Ok(None) };
        if sandbox.state != SandboxState::Running {
            return Ok(Some(sandbox));
        }
        self.inner.live.forget(id);
        self.inner.runtime.end(id).await?;
        pass(Point::StopEnded);
        let stopped = self.record_stop(sandbox, reason).await?;
        pass(Point::StopRow);
        Ok(Some(stopped))
    }

    /// Records that a running sandbox has ended.
    pub(crate) async fn record_stop(&self, sandbox: Sandbox, reason: StopReason) -> Result<Sandbox> {
        self.inner.live.forget(sandbox.id);
        let stopped = Sandbox {
            state: SandboxState::Stopped,
            stop_reason: Some(reason),
            stopped_at: Some(self.inner.clock.now()),
            address: None,
            ..sandbox
        };
        let kind = match reason {
            StopReason::Requested | StopReason::HostRestart => EventKind::SandboxStopped,
            StopReason::Timeout => EventKind::SandboxTimeout,
            StopReason::Died | StopReason::OutOfMemory => EventKind::SandboxError,
        };
        let changes = vec![
            Change::UpdateSandbox { sandbox: Box::new(stopped.clone()), from: SandboxState::Running },
            Change::InsertEvent(self.sandbox_event(&stopped, kind, json!({ "reason": reason.as_str() }))),
        ];
        self.inner.records.commit(changes).await?;
        self.inner.budget.release(stopped.id);
        Ok(stopped)
    }
}
