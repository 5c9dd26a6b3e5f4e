//! Brings checkpoints into the vault: `captured -> durable -> verified`, or `failed` with the reason.
//!
//! The rows are the queue. What a crash interrupts is found again by its durability; storing it anew under the
//! same name is harmless.

use crate::{
    Platform, Result,
    failpoint::{Point, pass},
    platform::{claims::Claim, new_uuid},
    ports::{
        records::{Change, CheckpointFilter, RecordsError},
        vault::{Vault, VaultFailure},
    },
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability, retention_end},
    ids::LayerId,
    restore::{TreeRef, plan_fork},
    scope::Scope,
    server::LEASE,
};
use jiff::SignedDuration;
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a checkpoint is left alone: many are deleted at once, and storing should not slow what follows a capture.
const SETTLE: SignedDuration = SignedDuration::from_secs(2);
/// How often the queue is looked at without a reason.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often storing is tried before it has failed.
const ATTEMPTS: u32 = 5;
const BATCH: u32 = 20;
/// How often what cannot be read back is stored again: as often as it may meet another damaged pack.
const STORED_AGAIN: u32 = 12;

impl Platform {
    /// Stores and verifies checkpoints, one at a time, oldest first, for ever.
    pub(crate) async fn keep_persisting(&self) {
        let Some(vault) = self.inner.vault.clone() else { return };
        if let Err(error) = self.forget_deleted(&vault).await {
            tracing::warn!(%error, "could not look for deleted checkpoints in the vault");
        }
        if let Err(error) = self.compare_retention().await {
            tracing::warn!(%error, "could not look for checkpoints that are kept for longer");
        }
        loop {
            let worked = self.persist_due(&vault).await;
            self.restate_changed(&vault).await;
            if !worked {
                let _ = tokio::time::timeout(LOOK_EVERY, self.inner.durability.wanted()).await;
            }
        }
    }

    /// Works off what is due; `false` if nothing was.
    async fn persist_due(&self, vault: &Arc<dyn Vault>) -> bool {
        let waiting = match self.waiting(vault).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "could not look for checkpoints to store");
                return false;
            }
        };
        let now = self.inner.clock.now();
        let mut worked = false;
        for checkpoint in waiting {
            let tries = self.inner.durability.tries().get(&checkpoint.id).cloned().unwrap_or_default();
            let settled = tries.hurried || now.duration_since(checkpoint.created_at) >= SETTLE;
            if settled && tries.not_before.is_none_or(|time| time <= now) {
                worked |= self.persist_one(vault, checkpoint).await;
            }
        }
        worked
    }

    /// Lets all be compared that are not kept as long as any: their rows may have changed right before a crash.
    async fn compare_retention(&self) -> Result<()> {
        let days = self.inner.settings.checkpoint_retention_days;
        for durability in [Durability::Durable, Durability::Verified] {
            let own = CheckpointFilter {
                durability: Some(durability),
                server: Some(self.here()),
                steps: Some(false),
                ..CheckpointFilter::default()
            };
            for row in self.inner.records.checkpoints(own).await? {
                if row.pinned || row.expires_at != retention_end(row.created_at, days) {
                    self.inner.durability.row_changed(row.id);
                }
            }
        }
        Ok(())
    }

    /// Tells the vault of rows that have changed since they were stored.
    async fn restate_changed(&self, vault: &Arc<dyn Vault>) {
        for id in self.inner.durability.take_changed_rows(BATCH as usize) {
            let row = match self.inner.records.checkpoint(id).await {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(_) => {
                    self.inner.durability.keep_changed_row(id);
                    continue;
                }
            };
            let is_ours = row.server == self.here() || vault.shared().is_some();
            if !is_ours {
                continue;
            }
            // If it is on its way with the row as it was, that is seen when it is stored.
            if row.durability == Durability::Captured {
                continue;
            }
            if let Err(failure) = vault.restate(&row).await {
                tracing::warn!(checkpoint.id = %id, %failure, "could not tell the vault how long a checkpoint is kept");
                self.inner.durability.note_damage(row.org_id, &failure);
                if failure.may_pass {
                    self.inner.durability.keep_changed_row(id);
                }
            }
            match self.inner.records.checkpoint(id).await {
                Ok(Some(now)) if now.is_kept_as(&row) => {}
                // Deleted meanwhile: what was written after that is not to stay.
                Ok(None) => self.behind_forget_stored(&row),
                Ok(Some(_)) | Err(_) => self.inner.durability.keep_changed_row(id),
            }
        }
    }

    /// This server's checkpoints that are on their way, oldest first. From a store that others share anybody can read
    /// back what is in it: those that another server stored, and then left, too.
    async fn waiting(&self, vault: &Arc<dyn Vault>) -> Result<Vec<Checkpoint>> {
        let filter = CheckpointFilter {
            steps: Some(false),
            oldest_first: true,
            limit: Some(BATCH),
            ..CheckpointFilter::default()
        };
        let own = CheckpointFilter { server: Some(self.here()), on_the_way: true, ..filter.clone() };
        let mut waiting = self.inner.records.checkpoints(own).await?;
        if self.inner.records.is_shared() && vault.shared().is_some() {
            let left = CheckpointFilter { durable_before: Some(self.inner.clock.now() - LEASE), ..filter };
            let left = self.inner.records.checkpoints(left).await?;
            waiting.extend(left.into_iter().filter(|one| one.server != self.here()));
        }
        Ok(waiting)
    }

    /// Brings one checkpoint a step further; `false` if that is somebody else's by now.
    async fn persist_one(&self, vault: &Arc<dyn Vault>, checkpoint: Checkpoint) -> bool {
        let (id, layer) = (checkpoint.id, checkpoint.layer);
        // What only this server can do needs no claim.
        let alone = !self.inner.records.is_shared() || vault.shared().is_none();
        let done = if alone || checkpoint.durability == Durability::Captured {
            self.step(vault, checkpoint, None).await;
            true
        } else {
            let job = format!("verify {id}");
            let done = self.leased(&job, self.step(vault, checkpoint, Some(&job))).await;
            done.is_ok_and(|done| done.is_some())
        };
        // Whoever deleted it meanwhile found its layer in use here, and left it.
        if let Ok(None) = self.inner.records.checkpoint(id).await {
            self.drop_unused_layers(vec![layer]).await;
        }
        done
    }

    /// `job` is what is claimed for this: its result is recorded only if it is claimed still.
    async fn step(&self, vault: &Arc<dyn Vault>, checkpoint: Checkpoint, job: Option<&str>) {
        let (id, was) = (checkpoint.id, checkpoint.durability);
        let _claim = self.inner.claims.claim(checkpoint.layer);
        // Since the query it may have been deleted, or another server has done this.
        let Ok(Some(checkpoint)) = self.inner.records.checkpoint(id).await else { return };
        if checkpoint.durability != was {
            return;
        }
        let outcome = match was {
            Durability::Captured => self.store(vault, &checkpoint).await,
            Durability::Durable => self.verify(vault, &checkpoint).await,
            Durability::Verified | Durability::Failed => return,
        };
        let next = match outcome {
            Ok(next) => next,
            Err(failure) => match self.failed_once(&checkpoint, failure).await {
                Some(failed) => failed,
                None => return,
            },
        };
        let durability = next.durability;
        let mut changes = vec![Change::SetDurability { checkpoint: Box::new(next), from: checkpoint.durability }];
        changes.extend(job.map(|job| self.end_of_job(job)));
        let recorded = self.inner.records.commit(changes).await;
        match &recorded {
            Ok(()) if matches!(durability, Durability::Captured | Durability::Durable) => {}
            Ok(()) | Err(RecordsError::Conflict(_)) => drop(self.inner.durability.tries().remove(&id)),
            // To be tried again, and not at once.
            Err(_) => drop(self.inner.durability.put_off(id, self.inner.clock.now())),
        }
        if recorded.is_ok() {
            self.inner.durability.figures.note(durability);
        }
        match recorded {
            Ok(()) if durability == Durability::Verified => {
                pass(Point::VerifiedRow);
                tracing::info!(checkpoint.id = %id, "checkpoint is verified");
            }
            Ok(()) if durability == Durability::Durable => {
                pass(Point::DurableRow);
                let now = self.inner.records.checkpoint(id).await;
                if !now.is_ok_and(|now| now.is_some_and(|now| now.is_kept_as(&checkpoint))) {
                    self.inner.durability.row_changed(id);
                }
            }
            Ok(()) => {}
            Err(RecordsError::Conflict(_)) => {
                // It was deleted while it was being stored: what was stored after that is not to stay.
                if let Ok(None) = self.inner.records.checkpoint(id).await {
                    self.behind_forget_stored(&checkpoint);
                }
            }
            Err(error) => {
                tracing::warn!(checkpoint.id = %id, %error, "could not record how far a checkpoint is");
            }
        }
        self.inner.durability.usage_changed(checkpoint.org_id);
        self.inner.durability.notify_changed();
        if durability == Durability::Verified {
            self.inner.hot.changed.notify_one();
        }
    }

    /// The row of a checkpoint that has failed for good; `None` if it is tried again later.
    async fn failed_once(&self, checkpoint: &Checkpoint, failure: VaultFailure) -> Option<Checkpoint> {
        tracing::warn!(checkpoint.id = %checkpoint.id, %failure, "could not bring a checkpoint into the vault");
        self.inner.durability.note_damage(checkpoint.org_id, &failure);
        let failed = self.inner.durability.put_off(checkpoint.id, self.inner.clock.now());
        self.inner.durability.tries().entry(checkpoint.id).or_default().last_error = Some(failure.reason.clone());
        // What is stored and cannot be read back now may be all there is of it: it is not given up for a bad hour.
        let is_patient = failed < ATTEMPTS || checkpoint.durability == Durability::Durable;
        // Of another server's checkpoint this one may simply not see the store: it is not the one to give it up.
        if checkpoint.server != self.here() || failure.may_pass && is_patient {
            return None;
        }
        let reason = Some(failure.reason);
        // What cannot be read back is stored again, as long as its layer is here.
        if checkpoint.durability == Durability::Durable
            && self.layer_is_here(checkpoint.layer).await.ok()?
            && self.inner.durability.put_off_again(checkpoint.id, self.inner.clock.now()) <= STORED_AGAIN
        {
            let durability = Durability::Captured;
            return Some(Checkpoint { durability, durability_reason: reason, durable_at: None, ..checkpoint.clone() });
        }
        Some(Checkpoint { durability: Durability::Failed, durability_reason: reason, ..checkpoint.clone() })
    }

    async fn store(&self, vault: &Arc<dyn Vault>, checkpoint: &Checkpoint) -> Result<Checkpoint, VaultFailure> {
        let began = std::time::Instant::now();
        // The claim is held: it stays here, if it is.
        if !self.layer_is_here(checkpoint.layer).await.map_err(|error| passing(&error))? {
            let lost = checkpoint.durability_reason.as_deref().map_or(String::new(), |why| format!(" ({why})"));
            let reason = format!("its layer is not on this machine, and the vault does not have all of it{lost}");
            return Err(VaultFailure::new(reason, false));
        }
        let env = self.inner.records.checkpoint_env(checkpoint.id).await.map_err(|error| passing(&error))?;
        let (layer, scoped) = self.layer_in_scope(checkpoint).await.map_err(|error| passing(&error))?;
        let stored = match self.inner.runtime.layer_tree(layer) {
            Some(tree) => vault.persist(checkpoint, env, &tree, checkpoint.cloned_from.or(checkpoint.parent_id)).await,
            None => Err(VaultFailure::new("layers of this runtime cannot be stored", false)),
        };
        if scoped.is_some()
            && let Err(error) = self.inner.runtime.drop_layer(layer).await
        {
            tracing::warn!(layer.id = %layer, %error, "could not remove the layer that a scoped checkpoint was stored from");
        }
        let stored = stored?;
        self.inner.durability.figures.bytes_sent.fetch_add(stored.bytes_sent, Ordering::Relaxed);
        tracing::info!(
            checkpoint.id = %checkpoint.id,
            bytes_sent = stored.bytes_sent,
            duration_ms = began.elapsed().as_millis() as u64,
            "checkpoint is durable"
        );
        Ok(Checkpoint {
            durability: Durability::Durable,
            durability_reason: None,
            verified_at: None,
            checksum: stored.checksum,
            durable_at: Some(self.inner.clock.now()),
            ..checkpoint.clone()
        })
    }

    async fn verify(&self, vault: &Arc<dyn Vault>, checkpoint: &Checkpoint) -> Result<Checkpoint, VaultFailure> {
        vault.verify(checkpoint.org_id, checkpoint.id).await?;
        pass(Point::VerifiedRead);
        let verified_at = Some(self.inner.clock.now());
        let durability = Durability::Verified;
        Ok(Checkpoint { durability, durability_reason: None, verified_at, ..checkpoint.clone() })
    }

    /// Whether a scoped checkpoint's layer holds just what is in scope, as that of an imported one does: then it has the
    /// checksum that was told, and grafted anew it would not.
    async fn is_exact(&self, checkpoint: &Checkpoint) -> Result<bool> {
        let Some(portable) = self.inner.runtime.portable().filter(|_| !checkpoint.checksum.is_empty()) else {
            return Ok(false);
        };
        Ok(portable.hash(checkpoint.layer, CancellationToken::new()).await? == checkpoint.checksum)
    }

    /// The layer to store: the checkpoint's own, or for a scoped one a new layer with just what is in scope.
    /// Such a layer is claimed: whatever interrupts this, collection removes it once the claim is gone.
    pub(crate) async fn layer_in_scope(&self, checkpoint: &Checkpoint) -> Result<(LayerId, Option<Claim>)> {
        let scope = Scope::parse(checkpoint.scope.clone())?;
        if scope.is_everything() || self.is_exact(checkpoint).await? {
            return Ok((checkpoint.layer, None));
        }
        let layer = LayerId::from_uuid(new_uuid());
        let claim = self.inner.claims.claim(layer);
        let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        self.inner.runtime.make_layer(layer, &plan_fork(&tree, &scope)).await?;
        Ok((layer, Some(claim)))
    }

    /// Removes bytes that no stored checkpoint needs, unless another server that shares the store is at it.
    pub(crate) async fn collect_vault(&self) {
        let Some(vault) = &self.inner.vault else { return };
        if let Err(error) = self.forget_deleted(vault).await {
            tracing::warn!(%error, "could not look for deleted checkpoints in the vault");
        }
        let collected = match vault.shared() {
            None => vault.collect(None).await,
            Some(name) => match self.leased(&format!("collect {name}"), vault.collect(None)).await {
                Ok(Some(outcome)) => outcome,
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "could not claim the collection of the vault"),
            },
        };
        if let Err(error) = collected {
            tracing::warn!(%error, "could not collect the vault");
        }
    }

    /// Removes stored checkpoints that were deleted while the store, or this server, did not work. Only those that
    /// were deleted here: others may belong to another server on the same store.
    async fn forget_deleted(&self, vault: &Arc<dyn Vault>) -> Result<(), VaultFailure> {
        let deleted = self.inner.records.deleted_checkpoints().await.map_err(|error| passing(&error))?;
        if deleted.is_empty() {
            return Ok(());
        }
        let stored: HashSet<_> = vault.stored().await?.into_iter().collect();
        for (org, id) in deleted.into_iter().filter(|name| stored.contains(name)) {
            vault.delete(org, id).await?;
            pass(Point::ForgetRecord);
            tracing::info!(checkpoint.id = %id, "removed a deleted checkpoint from the vault");
        }
        Ok(())
    }
}

fn passing(error: &impl std::fmt::Display) -> VaultFailure {
    VaultFailure::new(error.to_string(), true)
}
