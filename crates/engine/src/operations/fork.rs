//! Forking a running sandbox: a checkpoint of it and new sandboxes from that.

use super::{checkpoints::CreateCheckpoint, create::CreateSandbox, idempotency::IdempotencyKey};
use crate::{
    Caller, Platform, Result,
    failpoint::{Point, pass},
};
use forkpoint_domain::{
    checkpoint::Retention,
    ids::{CheckpointId, SandboxId},
    organization::KeyScope,
    sandbox::{MAX_TIMEOUT_SECONDS, Sandbox},
    scope::ScopeSpec,
};
use serde_json::Map;

/// How a sandbox is to be forked.
#[derive(Debug, Clone)]
pub struct Fork {
    /// How many new sandboxes.
    pub count: u32,
    /// What the checkpoint is called; `None`: after the sandbox.
    pub checkpoint_name: Option<String>,
    /// What the checkpoint is for.
    pub checkpoint_description: Option<String>,
    /// Whether the forks get the sandbox's environment.
    pub include_env: bool,
    /// What else the forks get; the checkpoint is set here.
    pub create: CreateSandbox,
}

/// What a fork made.
#[derive(Debug, Clone)]
pub struct Forked {
    /// What was forked.
    pub parent: SandboxId,
    /// The checkpoint between.
    pub checkpoint: CheckpointId,
    /// The new sandboxes.
    pub forks: Vec<Sandbox>,
}

impl Platform {
    /// Captures a running sandbox and makes `count` new ones from that; all or none.
    pub async fn fork_sandbox(
        &self,
        caller: &Caller,
        id: SandboxId,
        fork: Fork,
        key: Option<IdempotencyKey>,
    ) -> Result<Forked> {
        caller.require(KeyScope::Write)?;
        let most = self.inner.settings.max_count;
        if !(1..=most).contains(&fork.count) {
            return Err(forkpoint_domain::Invalid::new("count", format!("must be between 1 and {most}")).into());
        }
        // One key for both halves would make the second half look like the first one's answer.
        let part =
            |key: &IdempotencyKey, part: &str| IdempotencyKey { key: format!("{}#{part}", key.key), ..key.clone() };
        let capture = CreateCheckpoint {
            name: fork.checkpoint_name.unwrap_or_else(|| format!("fork of {id}")),
            description: fork.checkpoint_description,
            scope: ScopeSpec::default(),
            include_env: fork.include_env,
            metadata: Map::new(),
            retention: Retention::default(),
        };
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let capture_key = key.as_ref().map(|key| part(key, "checkpoint"));
            let checkpoint = platform.create_checkpoint(&caller, id, capture, capture_key).await?;
            pass(Point::ForkCheckpoint);
            // A fork is like its parent in what was not asked for otherwise.
            let parent = platform.own_sandbox(&caller, id).await?;
            let lifetime = parent.expires_at.duration_since(parent.created_at).as_secs();
            let request = CreateSandbox {
                checkpoint: Some(checkpoint.id),
                cpu_millis: fork.create.cpu_millis.or(Some(parent.limits.cpu_millis)),
                memory_bytes: fork.create.memory_bytes.or(Some(parent.limits.memory_bytes)),
                timeout_seconds: fork.create.timeout_seconds.or(Some(lifetime.clamp(1, MAX_TIMEOUT_SECONDS))),
                ..fork.create
            };
            let forks_key = key.as_ref().map(|key| part(key, "forks"));
            match platform.create_sandboxes(&caller, request, fork.count, forks_key).await {
                Ok(forks) => {
                    pass(Point::ForkMade);
                    Ok(Forked { parent: id, checkpoint: checkpoint.id, forks })
                }
                Err(error) => {
                    if let Err(error) = platform.remove_checkpoint(&checkpoint, "fork failed").await {
                        tracing::warn!(checkpoint.id = %checkpoint.id, %error, "could not remove the checkpoint of a failed fork");
                    }
                    Err(error)
                }
            }
        })
        .await
    }
}
