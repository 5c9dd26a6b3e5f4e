//! Making sandboxes: on a template, or from a checkpoint.

use super::{idempotency::IdempotencyKey, require_ready};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::new_uuid,
    ports::{
        records::{Change, RecordsError},
        runtime::Launch,
    },
};
use forkpoint_domain::{
    Invalid,
    env::Environment,
    event::EventKind,
    ids::{CheckpointId, LayerId, SandboxId},
    limits::Limits,
    organization::KeyScope,
    restore::{LayerPlan, TreeRef, plan_create, plan_fork},
    sandbox::{Sandbox, SandboxState, expiry},
    scope::Scope,
    template::TemplateName,
};
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeMap;

/// What is to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateSandbox {
    /// Template to start from; with a checkpoint, its own one is used and this must agree.
    pub template: Option<TemplateName>,
    /// Checkpoint to start from.
    pub checkpoint: Option<CheckpointId>,
    /// Processor share in thousandths of a CPU.
    pub cpu_millis: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Lifetime in seconds.
    pub timeout_seconds: Option<i64>,
    /// Environment, laid over a checkpoint's.
    pub env: Environment,
    /// The caller's own labels.
    pub metadata: BTreeMap<String, String>,
}

impl Platform {
    /// Makes `count` sandboxes, all or none; all answer commands when this returns.
    pub async fn create_sandboxes(
        &self,
        caller: &Caller,
        request: CreateSandbox,
        count: u32,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<Sandbox>> {
        caller.require(KeyScope::Write)?;
        let most = self.inner.settings.max_count;
        if !(1..=most).contains(&count) {
            return Err(Invalid::new("count", format!("must be between 1 and {most}")).into());
        }
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            for _ in 0..3 {
                if let Some(made) = platform.made_before(&caller, key.as_ref()).await? {
                    match platform.settled(&caller, &made).await? {
                        Some(sandboxes) => return Ok(sandboxes),
                        None => {
                            if let Some(key) = &key {
                                platform.forget_key(&caller, key).await?;
                            }
                        }
                    }
                }
                match platform.create_all(&caller, &request, count, key.as_ref()).await {
                    // Somebody else came first with the same key: take what that request makes.
                    Err(Error::Conflict { code: "conflict", .. }) if key.is_some() => {}
                    other => return other,
                }
            }
            Err(Error::conflict("operation_in_progress", "another request with this Idempotency-Key is in progress"))
        })
        .await
    }

    /// Waits until all of these sandboxes are made; `None` if one is gone or failed.
    async fn settled(&self, caller: &Caller, made: &[String]) -> Result<Option<Vec<Sandbox>>> {
        let mut sandboxes = Vec::new();
        for id in made {
            let Ok(id) = id.parse::<SandboxId>() else { return Ok(None) };
            let _guard = self.lock(id).await?;
            match self.inner.records.sandbox(id).await? {
                Some(sandbox)
                    if sandbox.org_id == caller.org_id
                        && !matches!(sandbox.state, SandboxState::Creating | SandboxState::Failed) =>
                {
                    sandboxes.push(sandbox);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(sandboxes))
    }

    async fn create_all(
        &self,
        caller: &Caller,
        request: &CreateSandbox,
        count: u32,
        key: Option<&IdempotencyKey>,
    ) -> Result<Vec<Sandbox>> {
        let started = std::time::Instant::now();
        let now = self.inner.clock.now();
        let expires_at = expiry(now, request.timeout_seconds)?;
        // Claimed before its row is read: it may be deleted meanwhile.
        let origin = self.origin(caller, request).await?;
        let env = origin.env.overlaid(&request.env);
        let defaults = self.inner.settings.default_limits;
        let limits = Limits {
            cpu_millis: request.cpu_millis.unwrap_or(defaults.cpu_millis),
            memory_bytes: request.memory_bytes.unwrap_or(defaults.memory_bytes),
            ..defaults
        };
        let sandboxes: Vec<Sandbox> = (0..count)
            .map(|_| Sandbox {
                id: SandboxId::from_uuid(new_uuid()),
                org_id: caller.org_id,
                state: SandboxState::Creating,
                stop_reason: None,
                failure: None,
                template: origin.plan.template.clone(),
                layer: Some(LayerId::from_uuid(new_uuid())),
                limits,
                forked_from: request.checkpoint,
                based_on: request.checkpoint,
                created_at: now,
                ready_at: None,
                expires_at,
                stopped_at: None,
                startup_ms: None,
                address: None,
                metadata: request.metadata.clone(),
            })
            .collect();
        let admission = self.admit(sandboxes.iter().map(|one| one.id).collect(), limits.memory_bytes).await?;
        let _claims: Vec<_> =
            sandboxes.iter().filter_map(|one| one.layer).map(|layer| self.inner.claims.claim(layer)).collect();
        let mut guards = Vec::new();
        for sandbox in &sandboxes {
            guards.push(self.lock(sandbox.id).await?);
        }

        let mut changes = Vec::new();
        if let Some(key) = key {
            changes.push(self.remember(caller, key, sandboxes.iter().map(|one| one.id.to_string()).collect()));
        }
        for sandbox in &sandboxes {
            let env = self.inner.seal_env(&sandbox.id.to_string(), &env);
            changes.push(Change::InsertSandbox { sandbox: Box::new(sandbox.clone()), env });
            changes.push(Change::InsertEvent(self.sandbox_event(sandbox, EventKind::SandboxCreated, json!({}))));
        }
        let launches = || join_all(sandboxes.iter().map(|sandbox| self.build(sandbox, &origin.plan, started)));
        let record = async {
            let recorded = self.inner.records.commit(changes).await;
            pass(Point::CreateRows);
            recorded
        };
        let (recorded, built) = if key.is_some() {
            // The key decides who makes them, so it is recorded first.
            record.await?;
            (Ok(()), launches().await)
        } else {
            tokio::join!(record, launches())
        };

        let outcome = async {
            recorded?;
            let built = built.into_iter().collect::<Result<Vec<Sandbox>>>()?;
            let mut changes = Vec::new();
            for sandbox in &built {
                changes
                    .push(Change::UpdateSandbox { sandbox: Box::new(sandbox.clone()), from: SandboxState::Creating });
                let data = json!({ "podIp": sandbox.address, "startupMs": sandbox.startup_ms });
                changes.push(Change::InsertEvent(self.sandbox_event(sandbox, EventKind::SandboxReady, data)));
            }
            self.inner.records.commit(changes).await?;
            pass(Point::CreateRunning);
            Ok::<_, Error>(built)
        }
        .await;
        match outcome {
            Ok(built) => {
                admission.keep();
                for sandbox in &built {
                    self.remember_live(sandbox, env.clone());
                }
                Ok(built)
            }
            Err(error) => {
                self.unmake(caller, &sandboxes, key).await;
                Err(error)
            }
        }
    }

    /// Makes the layer and starts the processes of one sandbox; gives its row as it then is.
    async fn build(&self, sandbox: &Sandbox, plan: &LayerPlan, started: std::time::Instant) -> Result<Sandbox> {
        let layer = sandbox.layer.ok_or_else(|| Error::conflict("layer_removed", "the sandbox has no layer"))?;
        self.inner.runtime.make_layer(layer, plan).await?;
        pass(Point::CreateLayer);
        let instance = self
            .inner
            .runtime
            .launch(&Launch { sandbox: sandbox.id, template: sandbox.template.clone(), layer, limits: sandbox.limits })
            .await?;
        pass(Point::CreateLaunched);
        Ok(Sandbox {
            state: SandboxState::Running,
            ready_at: Some(self.inner.clock.now()),
            startup_ms: Some(started.elapsed().as_millis() as u64),
            address: Some(instance.address),
            ..sandbox.clone()
        })
    }

    /// Undoes a creation that failed; what cannot be undone now, the reconcilers find.
    async fn unmake(&self, caller: &Caller, sandboxes: &[Sandbox], key: Option<&IdempotencyKey>) {
        for sandbox in sandboxes {
            if let Err(error) = self.inner.runtime.end(sandbox.id).await {
                tracing::warn!(sandbox.id = %sandbox.id, %error, "could not end a half-made sandbox");
            }
            pass(Point::UndoEnded);
            if let Some(layer) = sandbox.layer
                && let Err(error) = self.inner.runtime.drop_layer(layer).await
            {
                tracing::warn!(sandbox.id = %sandbox.id, %error, "could not remove the layer of a half-made sandbox");
            }
            pass(Point::UndoLayer);
            let at = self.inner.clock.now();
            match self.inner.records.commit(vec![Change::DeleteSandbox { id: sandbox.id, at }]).await {
                Ok(()) | Err(RecordsError::Conflict(_)) => {}
                Err(error) => {
                    tracing::warn!(sandbox.id = %sandbox.id, %error, "could not remove the row of a half-made sandbox")
                }
            }
            pass(Point::UndoRow);
        }
        if let Some(key) = key
            && let Err(error) = self.forget_key(caller, key).await
        {
            tracing::warn!(%error, "could not forget the idempotency key of a failed request");
        }
    }

    /// Where new sandboxes start from. The checkpoint's layer stays claimed as long as the answer lives.
    async fn origin(&self, caller: &Caller, request: &CreateSandbox) -> Result<Origin> {
        let Some(id) = request.checkpoint else {
            let name = request.template.clone().unwrap_or_default();
            let (found, claim) = self.claimed_template(caller, &name).await?.ok_or_else(|| unknown_template(&name))?;
            let env = self.template_environment(&found)?;
            return Ok(Origin { plan: plan_create(&found.template), env, _claim: None, _template: Some(claim) });
        };
        let (checkpoint, claim) = self.claimed_checkpoint(caller, id).await?;
        require_ready(&checkpoint)?;
        self.bring_layer_back(&checkpoint).await?;
        if let Some(name) = &request.template
            && *name != checkpoint.template.name
        {
            return Err(Invalid::new(
                "template",
                format!("the checkpoint was made on template '{}'; leave template out", checkpoint.template.name),
            )
            .into());
        }
        let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        let plan = plan_fork(&tree, &Scope::parse(checkpoint.scope.clone())?);
        let env = self.checkpoint_environment(&checkpoint).await?.unwrap_or_default();
        Ok(Origin { plan, env, _claim: Some(claim), _template: None })
    }
}

/// From what, with which environment, new sandboxes are made.
struct Origin {
    plan: LayerPlan,
    env: Environment,
    _claim: Option<crate::platform::claims::Claim>,
    _template: Option<crate::platform::templates::TemplateClaim>,
}

fn unknown_template(name: &TemplateName) -> Error {
    Invalid::new("template", format!("there is no template '{name}'")).into()
}
