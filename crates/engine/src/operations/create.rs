//! Making sandboxes: on a template, or from a checkpoint.

use super::{idempotency::IdempotencyKey, require_ready};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::{claims::Claim, new_uuid, templates::TemplateClaim},
    ports::{
        records::{Change, RecordsError},
        runtime::Launch,
    },
};
use forkpoint_domain::{
    Invalid,
    checkpoint::Checkpoint,
    env::Environment,
    event::EventKind,
    ids::{CheckpointId, LayerId, SandboxId},
    limits::Limits,
    organization::KeyScope,
    restore::{LayerPlan, TreeRef, plan_create, plan_fork},
    sandbox::{Sandbox, SandboxState, expiry},
    scope::Scope,
    template::{TemplateName, TemplateRef},
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::collections::BTreeMap;

/// Labels that begin so are the server's own.
const OWN_LABELS: &str = "forkpoint.";
/// How many sandboxes of one request are made at the same time.
pub(crate) const AT_ONCE: usize = 16;

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

/// How often to look whether another server has made what it was at.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

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
        if let Some(name) = request.metadata.keys().find(|name| name.starts_with(OWN_LABELS)) {
            return Err(Invalid::new(
                format!("metadata.{name}"),
                "begins with 'forkpoint.', which is the server's own",
            )
            .into());
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
            self.wait_for_another_server(id).await?;
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

    /// Whoever makes a sandbox on this server has its lock; what another server makes is waited for by its row.
    async fn wait_for_another_server(&self, id: SandboxId) -> Result<()> {
        let patience = tokio::time::Instant::now() + self.inner.settings.lock_wait;
        while let Some(sandbox) = self.inner.records.sandbox(id).await?
            && sandbox.server != self.here()
            && sandbox.state == SandboxState::Creating
        {
            if tokio::time::Instant::now() >= patience {
                let which = self.describe_server(sandbox.server).await?;
                return Err(Error::conflict(
                    "operation_in_progress",
                    format!("{which} is still making {id} for this Idempotency-Key; try again"),
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn create_all(
        &self,
        caller: &Caller,
        request: &CreateSandbox,
        count: u32,
        key: Option<&IdempotencyKey>,
    ) -> Result<Vec<Sandbox>> {
        let started = std::time::Instant::now();
        // Claimed before its row is read: it may be deleted meanwhile.
        let origin = self.origin(caller, request).await?;
        self.create_on(caller, request, &origin, count, key, started).await
    }

    /// Makes sandboxes from what `origin` says, whatever the request names as its origin.
    pub(crate) async fn create_on(
        &self,
        caller: &Caller,
        request: &CreateSandbox,
        origin: &Origin,
        count: u32,
        key: Option<&IdempotencyKey>,
        started: std::time::Instant,
    ) -> Result<Vec<Sandbox>> {
        let now = self.inner.clock.now();
        let expires_at = expiry(now, request.timeout_seconds)?;
        let env = origin.env.clone().overlaid(&request.env);
        let defaults = self.inner.settings.default_limits;
        let limits = Limits {
            cpu_millis: request.cpu_millis.unwrap_or(defaults.cpu_millis),
            memory_bytes: request.memory_bytes.unwrap_or(defaults.memory_bytes),
            ..defaults
        };
        let (layers, _claims) = self.new_layers(&origin.plan, count);
        let sandboxes: Vec<Sandbox> = layers
            .into_iter()
            .map(|layer| Sandbox {
                id: SandboxId::from_uuid(new_uuid()),
                org_id: caller.org_id,
                server: self.here(),
                state: SandboxState::Creating,
                stop_reason: None,
                failure: None,
                template: origin.plan.template.clone(),
                layer: Some(layer),
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
        // Many at once would only wait for each other.
        let mut builds = Vec::new();
        for sandbox in &sandboxes {
            builds.push(self.build(sandbox, origin, &env, started));
        }
        let launches = stream::iter(builds).buffered(AT_ONCE).collect::<Vec<_>>();
        let record = async {
            let recorded = self.inner.records.commit(changes).await;
            pass(Point::CreateRows);
            recorded
        };
        let (recorded, built) = if key.is_some() {
            // The key decides who makes them, so it is recorded first.
            record.await?;
            (Ok(()), launches.await)
        } else {
            tokio::join!(record, launches)
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

    /// Ids for new layers, claimed; those of layers that were made ahead, where such will do.
    fn new_layers(&self, plan: &LayerPlan, count: u32) -> (Vec<LayerId>, Vec<Claim>) {
        let mut claims = Vec::new();
        let new = |_| {
            let mut claim = |layer: LayerId| claims.push(self.inner.claims.claim(layer));
            let spare = if plan.is_empty() { self.inner.runtime.spare_layer(&mut claim) } else { None };
            spare.unwrap_or_else(|| {
                let layer = LayerId::from_uuid(new_uuid());
                claim(layer);
                layer
            })
        };
        let layers = (0..count).map(new).collect();
        (layers, claims)
    }

    /// Makes the layer and starts the processes of one sandbox; gives its row as it then is.
    async fn build(
        &self,
        sandbox: &Sandbox,
        origin: &Origin,
        env: &Environment,
        started: std::time::Instant,
    ) -> Result<Sandbox> {
        let layer = sandbox.layer.ok_or_else(|| Error::conflict("layer_removed", "the sandbox has no layer"))?;
        self.inner.runtime.make_layer(layer, &origin.plan).await?;
        pass(Point::CreateLayer);
        let instance = self
            .inner
            .runtime
            .launch(&Launch { sandbox: sandbox.id, template: sandbox.template.clone(), layer, limits: sandbox.limits })
            .await?;
        pass(Point::CreateLaunched);
        if !origin.quiet {
            self.start_services(sandbox.id, &sandbox.template, env).await?;
        }
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
            return Ok(Origin::template(&found.template, env, claim));
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
        let env = self.checkpoint_environment(&checkpoint).await?.unwrap_or_default();
        Origin::checkpoint(&checkpoint, env, claim)
    }
}

/// From what, with which environment, new sandboxes are made.
#[derive(Debug)]
pub(crate) struct Origin {
    plan: LayerPlan,
    env: Environment,
    /// Whether the template's services are left alone.
    quiet: bool,
    _claim: Option<Claim>,
    _template: Option<TemplateClaim>,
}

impl Origin {
    /// A template's bare tree.
    pub(crate) fn template(template: &TemplateRef, env: Environment, claim: TemplateClaim) -> Self {
        Self { plan: plan_create(template), env, quiet: false, _claim: None, _template: Some(claim) }
    }

    /// What a fork of a checkpoint starts from.
    pub(crate) fn checkpoint(checkpoint: &Checkpoint, env: Environment, claim: Claim) -> Result<Self> {
        let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        let plan = plan_fork(&tree, &Scope::parse(checkpoint.scope.clone())?);
        Ok(Self { plan, env, quiet: false, _claim: Some(claim), _template: None })
    }

    /// The same without the template's services.
    pub(crate) fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }
}

fn unknown_template(name: &TemplateName) -> Error {
    Invalid::new("template", format!("there is no template '{name}'")).into()
}
