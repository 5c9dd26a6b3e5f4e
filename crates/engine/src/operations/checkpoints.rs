//! Making, looking at, cloning, comparing and deleting checkpoints.

use super::{idempotency::IdempotencyKey, require_ready, require_running};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::{claims::Claim, new_uuid},
    ports::records::{Change, CheckpointFilter, Kept, RecordsError},
};
use forkpoint_domain::{
    checkpoint::{
        Checkpoint, CheckpointKind, CheckpointStatus, Durability, Retention, check_description, check_metadata,
        check_name,
    },
    env::Environment,
    event::EventKind,
    ids::{CheckpointId, LayerId, SandboxId},
    organization::KeyScope,
    restore::TreeRef,
    sandbox::SandboxState,
    scope::{Scope, ScopeSpec},
};
use serde_json::{Map, Value, json};

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct CreateCheckpoint {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What is captured.
    pub scope: ScopeSpec,
    /// Whether the environment is captured.
    pub include_env: bool,
    /// The caller's own JSON object.
    pub metadata: Map<String, Value>,
    /// How long it is kept.
    pub retention: Retention,
}

/// What makes a capture the outcome of a recipe's step.
#[derive(Debug, Clone)]
pub(crate) struct StepOutcome {
    /// The step's key.
    pub(crate) key: String,
    /// How long it is kept if nobody uses it.
    pub(crate) expires_at: jiff::Timestamp,
}

impl Platform {
    /// Captures a running sandbox. What this gives is on stable storage.
    pub async fn create_checkpoint(
        &self,
        caller: &Caller,
        sandbox_id: SandboxId,
        request: CreateCheckpoint,
        key: Option<IdempotencyKey>,
    ) -> Result<Checkpoint> {
        Ok(self.create_or_find_checkpoint(caller, sandbox_id, request, key).await?.0)
    }

    /// The same, and whether this request made it: `false` if an earlier one with the same key did.
    pub(crate) async fn create_or_find_checkpoint(
        &self,
        caller: &Caller,
        sandbox_id: SandboxId,
        request: CreateCheckpoint,
        key: Option<IdempotencyKey>,
    ) -> Result<(Checkpoint, bool)> {
        caller.require(KeyScope::Write)?;
        check_name(&request.name)?;
        request.description.as_deref().map_or(Ok(()), check_description)?;
        check_metadata(&request.metadata)?;
        request.retention.check()?;
        Scope::parse(request.scope.clone())?;
        self.own_sandbox_here(caller, sandbox_id).await?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let _guard = platform.lock(sandbox_id).await?;
            if let Some(made) = platform.checkpoint_made_before(&caller, key.as_ref()).await? {
                return Ok((made, false));
            }
            Ok((platform.capture(&caller, sandbox_id, request, key.as_ref(), None).await?, true))
        })
        .await
    }

    /// The checkpoint that an earlier request with this key made. The key of one that was deleted since is forgotten.
    async fn checkpoint_made_before(
        &self,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Checkpoint>> {
        let Some(made) = self.made_before(caller, key).await? else { return Ok(None) };
        if let Some(id) = made.first().and_then(|id| id.parse::<CheckpointId>().ok())
            && let Some(checkpoint) = self.inner.records.checkpoint(id).await?
        {
            return Ok(Some(checkpoint));
        }
        if let Some(key) = key {
            self.forget_key(caller, key).await?;
        }
        Ok(None)
    }

    /// Captures under the sandbox's lock.
    pub(crate) async fn capture(
        &self,
        caller: &Caller,
        sandbox_id: SandboxId,
        request: CreateCheckpoint,
        key: Option<&IdempotencyKey>,
        step: Option<StepOutcome>,
    ) -> Result<Checkpoint> {
        let inner = &self.inner;
        let mut sandbox = self.own_sandbox(caller, sandbox_id).await?;
        require_running(&sandbox)?;
        let source = sandbox.layer.ok_or_else(|| Error::conflict("layer_removed", "the sandbox has no layer"))?;
        let id = CheckpointId::from_uuid(new_uuid());
        let env = match request.include_env {
            true => Some(inner.seal_env(&id.to_string(), &self.sandbox_environment(&sandbox).await?)),
            false => None,
        };
        let layer = LayerId::from_uuid(new_uuid());
        let _claim = inner.claims.claim(layer);
        let capture = inner.runtime.capture(sandbox_id, source, layer).await?;
        pass(Point::CheckpointCaptured);
        let outcome = async {
            let tree = TreeRef { template: sandbox.template.clone(), layer: Some(layer) };
            let mut spec = request.scope;
            let plain: Vec<String> = spec.plain_includes().map(str::to_owned).collect();
            if !plain.is_empty() {
                spec.absent_paths = inner.runtime.absent(&tree, plain).await?;
            }
            let measure =
                inner.runtime.measure(&tree, &Scope::parse(spec.clone())?, inner.settings.capture_limits).await?;
            pass(Point::CheckpointMeasured);
            let created_at = inner.clock.now();
            let (expires_at, pinned) = request.retention.of_new(created_at, inner.settings.checkpoint_retention_days);
            let checkpoint = Checkpoint {
                id,
                org_id: sandbox.org_id,
                server: sandbox.server,
                sandbox_id,
                parent_id: sandbox.based_on,
                cloned_from: None,
                name: request.name,
                description: request.description,
                kind: CheckpointKind::Files,
                status: CheckpointStatus::Ready,
                failure: None,
                durability: Durability::Captured,
                durability_reason: None,
                durable_at: None,
                verified_at: None,
                template: sandbox.template.clone(),
                layer,
                scope: spec,
                has_env: request.include_env,
                metadata: request.metadata,
                file_count: measure.file_count,
                size_bytes: measure.size_bytes,
                checksum: String::new(),
                pause_ms: capture.pause_ms,
                copy_duration_ms: capture.copy_duration_ms,
                created_at,
                expires_at: step.as_ref().map_or(expires_at, |step| Some(step.expires_at)),
                pinned,
                step_key: step.map(|step| step.key),
            };
            sandbox.based_on = Some(id);
            let data = json!({ "checkpointId": id, "name": checkpoint.name });
            let mut changes = vec![
                Change::InsertCheckpoint { checkpoint: Box::new(checkpoint.clone()), env },
                Change::UpdateSandbox { sandbox: Box::new(sandbox.clone()), from: SandboxState::Running },
                Change::InsertEvent(self.checkpoint_event(&checkpoint, EventKind::CheckpointCreated, data)),
            ];
            changes.extend(key.map(|key| self.remember(caller, key, vec![id.to_string()])));
            inner.records.commit(changes).await?;
            pass(Point::CheckpointRow);
            Ok(checkpoint)
        }
        .await;
        if outcome.is_err() {
            self.behind_drop_layer(layer);
        }
        outcome
    }

    /// One checkpoint.
    pub async fn get_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Checkpoint> {
        caller.require(KeyScope::Read)?;
        self.own_checkpoint(caller, id).await
    }

    /// The organisation's checkpoints but outcomes of recipes' steps; `filter.org` and `filter.steps` are set here.
    pub async fn list_checkpoints(&self, caller: &Caller, filter: CheckpointFilter) -> Result<Vec<Checkpoint>> {
        caller.require(KeyScope::Read)?;
        Ok(self
            .inner
            .records
            .checkpoints(CheckpointFilter { org: Some(caller.org_id), steps: Some(false), ..filter })
            .await?)
    }

    /// Makes another checkpoint that shares the data of this one and lives on its own.
    pub async fn clone_checkpoint(
        &self,
        caller: &Caller,
        id: CheckpointId,
        name: String,
        retention: Retention,
        key: Option<IdempotencyKey>,
    ) -> Result<Checkpoint> {
        caller.require(KeyScope::Write)?;
        check_name(&name)?;
        retention.check()?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            if let Some(made) = platform.checkpoint_made_before(&caller, key.as_ref()).await? {
                return Ok(made);
            }
            let (origin, _claim) = platform.claimed_checkpoint(&caller, id).await?;
            require_ready(&origin)?;
            let mut server = origin.server;
            if platform.has_vault() {
                // The clone is stored from it, here.
                platform.bring_layer_back(&origin).await?;
                server = platform.here();
            }
            let created_at = platform.inner.clock.now();
            let (expires_at, pinned) = retention.of_new(created_at, platform.inner.settings.checkpoint_retention_days);
            let clone = Checkpoint {
                id: CheckpointId::from_uuid(new_uuid()),
                server,
                cloned_from: Some(origin.id),
                name,
                created_at,
                expires_at,
                pinned,
                // It is stored under a name of its own; nearly nothing of it has to be sent again.
                durability: Durability::Captured,
                durability_reason: None,
                durable_at: None,
                verified_at: None,
                step_key: None,
                ..origin
            };
            let env = match platform.checkpoint_environment(&Checkpoint { id, ..clone.clone() }).await? {
                Some(env) => Some(platform.inner.seal_env(&clone.id.to_string(), &env)),
                None => None,
            };
            let data = json!({ "originalId": id, "newId": clone.id, "name": clone.name });
            let mut changes = vec![
                Change::InsertCheckpoint { checkpoint: Box::new(clone.clone()), env },
                Change::InsertEvent(platform.checkpoint_event(&clone, EventKind::CheckpointCloned, data)),
            ];
            changes.extend(key.as_ref().map(|key| platform.remember(&caller, key, vec![clone.id.to_string()])));
            match platform.inner.records.commit(changes).await {
                // Sent twice at once: the other one made it.
                Err(error @ RecordsError::Conflict(_)) if key.is_some() => {
                    platform.checkpoint_made_before(&caller, key.as_ref()).await?.ok_or_else(|| error.into())
                }
                done => Ok(done.map(|()| clone)?),
            }
        })
        .await
    }

    /// Changes how long a checkpoint is kept.
    pub async fn retain_checkpoint(
        &self,
        caller: &Caller,
        id: CheckpointId,
        retention: Retention,
    ) -> Result<Checkpoint> {
        caller.require(KeyScope::Write)?;
        retention.check()?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let (now, days) = (platform.inner.clock.now(), platform.inner.settings.checkpoint_retention_days);
            loop {
                let checkpoint = platform.own_checkpoint(&caller, id).await?;
                let (expires_at, pinned) = retention.changed(checkpoint.expires_at, checkpoint.pinned, now, days);
                let from = Kept { until: checkpoint.expires_at, pinned: checkpoint.pinned };
                let to = Kept { until: expires_at, pinned };
                match platform.inner.records.commit(vec![Change::SetRetention { id, from, to }]).await {
                    // Changed or deleted this moment: what this request leaves out must stay as that one left it.
                    Err(RecordsError::Conflict(_)) => {}
                    Ok(()) => {
                        if platform.has_vault() {
                            platform.inner.durability.row_changed(id);
                        }
                        return Ok(Checkpoint { expires_at, pinned, ..checkpoint });
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .await
    }

    /// Deletes a checkpoint. What was forked, restored or cloned from it stays.
    pub async fn delete_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<()> {
        caller.require(KeyScope::Write)?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let checkpoint = platform.own_checkpoint(&caller, id).await?;
            platform.remove_checkpoint(&checkpoint, "deleted").await
        })
        .await
    }

    /// Removes a checkpoint whose retention is over, unless it was prolonged or pinned meanwhile.
    pub(crate) async fn remove_expired(&self, checkpoint: &Checkpoint) -> Result<()> {
        let change = Change::ExpireCheckpoint { id: checkpoint.id, at: self.inner.clock.now() };
        self.remove_by(change, checkpoint, "retention").await
    }

    pub(crate) async fn remove_checkpoint(&self, checkpoint: &Checkpoint, reason: &str) -> Result<()> {
        let change = Change::DeleteCheckpoint { id: checkpoint.id, at: self.inner.clock.now() };
        self.remove_by(change, checkpoint, reason).await
    }

    async fn remove_by(&self, change: Change, checkpoint: &Checkpoint, reason: &str) -> Result<()> {
        let data = json!({ "checkpointId": checkpoint.id, "reason": reason });
        let changes =
            vec![change, Change::InsertEvent(self.checkpoint_event(checkpoint, EventKind::CheckpointDeleted, data))];
        match self.inner.records.commit(changes).await {
            Err(RecordsError::Conflict(_)) => return Err(Error::not_found("checkpoint", checkpoint.id)),
            other => other?,
        }
        pass(Point::CheckpointDeleteRow);
        self.behind_drop_layer(checkpoint.layer);
        self.behind_forget_stored(checkpoint);
        Ok(())
    }

    /// The caller's checkpoint with its layer claimed, so that deleting it meanwhile does not take the layer away.
    pub(crate) async fn claimed_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<(Checkpoint, Claim)> {
        let found = self.own_checkpoint(caller, id).await?;
        let template = self.inner.template_claims.claim_by_row(&found.template);
        let claim = self.inner.claims.claim(found.layer).with_template(template);
        self.inner.hot.settled().await;
        // Read again: it may have been deleted before the claim.
        Ok((self.own_checkpoint(caller, id).await?, claim))
    }

    pub(crate) async fn checkpoint_environment(&self, checkpoint: &Checkpoint) -> Result<Option<Environment>> {
        if !checkpoint.has_env {
            return Ok(None);
        }
        match self.inner.records.checkpoint_env(checkpoint.id).await? {
            Some(sealed) => Ok(Some(self.inner.open_env(&checkpoint.id.to_string(), &sealed)?)),
            None => Err(Error::not_found("checkpoint", checkpoint.id)),
        }
    }

    /// Removes a layer behind the answer, unless a row or an operation in flight needs it.
    pub(crate) fn behind_drop_layer(&self, layer: LayerId) {
        let platform = self.clone();
        self.behind(async move { platform.drop_unused_layers(vec![layer]).await });
    }
}
