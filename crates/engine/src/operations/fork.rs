//! Forking a running sandbox: a checkpoint of it and new sandboxes from that.

use super::{
    checkpoints::CreateCheckpoint,
    create::{AT_ONCE, CreateSandbox},
    idempotency::IdempotencyKey,
};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
};
use forkpoint_domain::{
    checkpoint::Retention,
    ids::{CheckpointId, SandboxId},
    organization::KeyScope,
    sandbox::{MAX_TIMEOUT_SECONDS, Sandbox, SandboxState},
    scope::ScopeSpec,
};
use futures::{StreamExt as _, stream};
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
    /// Whether those that can be made are made when others cannot; else all or none.
    pub partial: bool,
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
    /// Those that could not be made: which of those asked for, from 0 on, and why. Only of a partial fork.
    pub failed: Vec<(u32, Error)>,
}

impl Platform {
    /// Captures a running sandbox and makes `count` new ones from that: all or none, or, if partial, as many as can be
    /// made, but at least one. Where none is made, the checkpoint goes too.
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
            let (checkpoint, is_new) = platform.create_or_find_checkpoint(&caller, id, capture, capture_key).await?;
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
            let parts: Vec<String> = match fork.partial {
                true => (0..fork.count).map(|index| format!("fork {index}")).collect(),
                false => vec!["forks".into()],
            };
            let keys: Vec<_> = parts.iter().map(|name| key.as_ref().map(|key| part(key, name))).collect();
            let outcome = if fork.partial {
                platform.create_some(&caller, &request, keys.clone()).await
            } else {
                let made = platform.create_sandboxes(&caller, request, fork.count, keys[0].clone()).await;
                made.map(|forks| (forks, Vec::new()))
            };
            match outcome {
                Ok((forks, failed)) => {
                    pass(Point::ForkMade);
                    Ok(Forked { parent: id, checkpoint: checkpoint.id, forks, failed })
                }
                Err(error) => {
                    // That of an earlier request with this key, or one that another is forking, is not ours to undo.
                    let is_ours = is_new && matches!(platform.any_made(&caller, &keys).await, Ok(false));
                    if is_ours && let Err(error) = platform.remove_checkpoint(&checkpoint, "fork failed").await {
                        tracing::warn!(checkpoint.id = %checkpoint.id, %error, "could not remove the checkpoint of a failed fork");
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    /// Whether some request with one of these keys made a sandbox, or is making one.
    async fn any_made(&self, caller: &Caller, keys: &[Option<IdempotencyKey>]) -> Result<bool> {
        for key in keys {
            for id in self.made_before(caller, key.as_ref()).await?.unwrap_or_default() {
                if let Ok(id) = id.parse()
                    && let Some(sandbox) = self.inner.records.sandbox(id).await?
                    && sandbox.state != SandboxState::Failed
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Makes one sandbox for each of these keys, in their order as far as they can be made; an error if none can.
    async fn create_some(
        &self,
        caller: &Caller,
        request: &CreateSandbox,
        keys: Vec<Option<IdempotencyKey>>,
    ) -> Result<(Vec<Sandbox>, Vec<(u32, Error)>)> {
        let mut attempts = Vec::new();
        for key in keys {
            attempts.push(self.create_sandboxes(caller, request.clone(), 1, key));
        }
        let outcomes: Vec<_> = stream::iter(attempts).buffered(AT_ONCE).collect().await;
        let (mut made, mut failed) = (Vec::new(), Vec::new());
        for (index, outcome) in (0..).zip(outcomes) {
            match outcome {
                Ok(sandboxes) => made.extend(sandboxes),
                Err(error) => failed.push((index, error)),
            }
        }
        match failed.first() {
            Some((_, error)) if made.is_empty() => Err(error.clone()),
            _ => Ok((made, failed)),
        }
    }
}
