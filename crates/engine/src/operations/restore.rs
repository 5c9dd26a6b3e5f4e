//! Restoring a checkpoint into a sandbox.

use super::{require_ready, require_running};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::new_uuid,
    ports::{records::Change, runtime::Launch},
};
use forkpoint_domain::{
    checkpoint::Checkpoint,
    event::EventKind,
    ids::{CheckpointId, LayerId, SandboxId},
    organization::KeyScope,
    restore::{LayerPlan, TreeRef, plan_restore},
    sandbox::{Sandbox, SandboxState},
    scope::Scope,
};
use serde_json::json;

/// What is to be restored.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    /// From which checkpoint.
    pub checkpoint: CheckpointId,
    /// Whether the tree is restored.
    pub files: bool,
    /// Whether the environment is restored, if the checkpoint has one.
    pub env: bool,
    /// Whether what is there is replaced and what was added removed, or only what is missing comes back.
    pub overwrite: bool,
}

impl Platform {
    /// Restores a checkpoint into a running or stopped sandbox; a stopped one stays stopped.
    ///
    /// The sandbox shows the old tree or the new one, never a mix. Its processes end when files are restored.
    pub async fn restore_checkpoint(&self, caller: &Caller, id: SandboxId, restore: Restore) -> Result<Sandbox> {
        caller.require(KeyScope::Write)?;
        self.own_sandbox_here(caller, id).await?;
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let _guard = platform.lock(id).await?;
            let sandbox = platform.own_sandbox(&caller, id).await?;
            let (checkpoint, _claim) = platform.claimed_checkpoint(&caller, restore.checkpoint).await?;
            require_ready(&checkpoint)?;
            if restore.files {
                platform.bring_layer_back(&checkpoint).await?;
            }
            if sandbox.state != SandboxState::Stopped {
                require_running(&sandbox)?;
            }
            let env = if restore.env { platform.checkpoint_environment(&checkpoint).await? } else { None };
            let mut changes = Vec::new();
            if let Some(env) = &env {
                changes.push(Change::SetSandboxEnv { id, env: platform.inner.seal_env(&id.to_string(), env) });
            }
            let data = json!({ "checkpointId": checkpoint.id });
            let event = platform.checkpoint_event(&checkpoint, EventKind::CheckpointRestored, data);
            changes.push(Change::InsertEvent(forkpoint_domain::event::Event { sandbox_id: Some(id), ..event }));
            let restored = if restore.files {
                platform.restore_files(sandbox, &checkpoint, restore.overwrite, changes).await?
            } else {
                platform.inner.records.commit(changes).await?;
                sandbox
            };
            // The next command reads the environment anew.
            platform.inner.live.forget(id);
            if restore.files && restored.state == SandboxState::Running {
                platform.start_services_again(&restored).await;
            }
            Ok(restored)
        })
        .await
    }

    async fn restore_files(
        &self,
        sandbox: Sandbox,
        checkpoint: &Checkpoint,
        overwrite: bool,
        mut changes: Vec<Change>,
    ) -> Result<Sandbox> {
        let inner = &self.inner;
        let Some(old_layer) = sandbox.layer else {
            return Err(Error::conflict("layer_removed", "the layer of this stopped sandbox was removed by retention"));
        };
        let current = TreeRef { template: sandbox.template.clone(), layer: Some(old_layer) };
        let saved = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        let plan = plan_restore(&saved, &Scope::parse(checkpoint.scope.clone())?, &current, overwrite);
        let layer = LayerId::from_uuid(new_uuid());
        let _claim = inner.claims.claim(layer);
        let running = sandbox.state == SandboxState::Running;
        let mut next = Sandbox {
            template: plan.template.clone(),
            layer: Some(layer),
            based_on: Some(checkpoint.id),
            ..sandbox.clone()
        };

        let mut ended = false;
        let outcome = async {
            // What the new tree takes over from the current one must not change any more.
            if running && needs_still_tree(&plan, &current) {
                ended = true;
                inner.runtime.end(sandbox.id).await?;
                pass(Point::RestoreStill);
            }
            inner.runtime.make_layer(layer, &plan).await?;
            pass(Point::RestoreLayer);
            if running {
                ended = true;
                inner.runtime.end(sandbox.id).await?;
                pass(Point::RestoreEnded);
                next.address = Some(inner.runtime.launch(&launch_of(&next, layer)).await?.address);
                pass(Point::RestoreLaunched);
            }
            changes.push(Change::UpdateSandbox { sandbox: Box::new(next.clone()), from: sandbox.state });
            inner.records.commit(changes).await?;
            pass(Point::RestoreRow);
            Ok::<_, Error>(())
        }
        .await;
        match outcome {
            Ok(()) => {
                self.behind_drop_layer(old_layer);
                Ok(next)
            }
            Err(error) => {
                // What was refused before (a full disk) has cost the sandbox nothing.
                if ended {
                    self.back_to(&sandbox, old_layer).await;
                }
                self.behind_drop_layer(layer);
                Err(error)
            }
        }
    }

    /// Brings a sandbox back on the layer its row names, after a restore that failed or was cut short.
    pub(crate) async fn back_to(&self, sandbox: &Sandbox, layer: LayerId) {
        let inner = &self.inner;
        let back = async {
            inner.runtime.end(sandbox.id).await?;
            pass(Point::BackEnded);
            let launched = inner.runtime.launch(&launch_of(sandbox, layer)).await;
            pass(Point::BackLaunched);
            launched
        };
        match back.await {
            Ok(instance) if Some(&instance.address) == sandbox.address.as_ref() => {
                self.start_services_again(sandbox).await
            }
            Ok(instance) => {
                self.start_services_again(sandbox).await;
                let moved = Sandbox { address: Some(instance.address), ..sandbox.clone() };
                let change = Change::UpdateSandbox { sandbox: Box::new(moved), from: sandbox.state };
                if let Err(error) = inner.records.commit(vec![change]).await {
                    tracing::warn!(sandbox.id = %sandbox.id, %error, "could not note a sandbox's new address");
                }
            }
            Err(error) => {
                tracing::error!(sandbox.id = %sandbox.id, %error, "could not bring a sandbox back after a failed restore");
                if let Err(error) = self.record_stop(sandbox.clone(), forkpoint_domain::sandbox::StopReason::Died).await
                {
                    tracing::error!(sandbox.id = %sandbox.id, %error, "could not record that a sandbox stopped");
                }
            }
        }
    }
}

/// How a sandbox is started on a layer.
pub(crate) fn launch_of(sandbox: &Sandbox, layer: LayerId) -> Launch {
    Launch { sandbox: sandbox.id, template: sandbox.template.clone(), layer, limits: sandbox.limits }
}

/// Whether a plan reads the tree that the sandbox is changing.
fn needs_still_tree(plan: &LayerPlan, current: &TreeRef) -> bool {
    plan.base == current.layer || plan.graft.as_ref().is_some_and(|graft| graft.from == *current)
}
