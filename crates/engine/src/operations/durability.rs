//! What can be asked of a checkpoint's way into the vault and back.

use super::require_ready;
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::new_uuid,
    ports::{
        records::{Change, CheckpointFilter},
        vault::{Vault, VaultFailure},
    },
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::{CheckpointId, LayerId},
    organization::KeyScope,
    restore::{LayerPlan, plan_create},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// The longest that a request waits for a checkpoint to become durable.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How often to look whether another server has brought it further.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Platform {
    /// Whether checkpoints go into a vault.
    pub fn has_vault(&self) -> bool {
        self.inner.vault.is_some()
    }

    /// Waits until a checkpoint is as durable as `wanted`, or has failed to become so; gives it as it then is.
    pub async fn wait_for_durability(
        &self,
        caller: &Caller,
        id: CheckpointId,
        wanted: Durability,
    ) -> Result<Checkpoint> {
        caller.require(KeyScope::Read)?;
        if self.inner.vault.is_none() && wanted != Durability::Captured {
            return Err(Error::conflict(
                "durability_unavailable",
                "this server has no vault; checkpoints stay 'captured'",
            ));
        }
        self.own_checkpoint(caller, id).await?;
        self.inner.durability.hurry(id);
        let waited = tokio::time::timeout(LONGEST_WAIT, async {
            loop {
                let changed = self.inner.durability.changed();
                let checkpoint = self.own_checkpoint(caller, id).await?;
                let enough = match wanted {
                    Durability::Captured | Durability::Failed => true,
                    Durability::Durable => checkpoint.durability != Durability::Captured,
                    Durability::Verified => matches!(checkpoint.durability, Durability::Verified | Durability::Failed),
                };
                if enough {
                    return Ok(checkpoint);
                }
                let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
            }
        });
        match waited.await {
            Ok(checkpoint) => checkpoint,
            Err(_) => self.own_checkpoint(caller, id).await,
        }
    }

    /// Stores a checkpoint again that could not be stored. Its layer is still here: what failed keeps it.
    pub async fn retry_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Checkpoint> {
        caller.require(KeyScope::Write)?;
        if !self.has_vault() {
            return Err(Error::conflict("durability_unavailable", "this server has no vault"));
        }
        let (checkpoint, claim) = self.claimed_checkpoint(caller, id).await?;
        require_ready(&checkpoint)?;
        if checkpoint.durability != Durability::Failed {
            return Err(Error::conflict(
                "checkpoint_not_failed",
                format!(
                    "checkpoint {id} is {}; only one whose durability is failed is stored again",
                    checkpoint.durability
                ),
            ));
        }
        if checkpoint.server != self.here() {
            return Err(self.on_another_server(&checkpoint).await?);
        }
        // Not stored anew, then: what the vault has of it is read once more.
        let durability = match self.layer_is_here(checkpoint.layer).await? {
            true => Durability::Captured,
            false if self.is_stored(&checkpoint).await? => Durability::Durable,
            false => {
                return Err(Error::conflict(
                    "layer_removed",
                    format!("the layer of checkpoint {id} is not on this machine, and the vault does not have it"),
                ));
            }
        };
        let platform = self.clone();
        self.to_the_end(async move {
            let _claim = claim;
            let again = Checkpoint { durability, durability_reason: None, ..checkpoint };
            let change = Change::SetDurability { checkpoint: Box::new(again.clone()), from: Durability::Failed };
            platform.inner.records.commit(vec![change]).await?;
            platform.inner.durability.begin_anew(id);
            Ok(again)
        })
        .await
    }

    /// Whether the vault has a record of a checkpoint with the checksum that was told.
    async fn is_stored(&self, checkpoint: &Checkpoint) -> Result<bool> {
        let Some(vault) = &self.inner.vault else { return Ok(false) };
        let holds = vault.holds(checkpoint.org_id, checkpoint.id, &checkpoint.checksum).await;
        holds.map_err(|failure| self.unreadable(checkpoint, &failure))
    }

    /// Removes the layer of a verified checkpoint from this machine; it comes back from the vault when needed.
    pub async fn evict_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Checkpoint> {
        caller.require(KeyScope::Write)?;
        let checkpoint = self.own_checkpoint(caller, id).await?;
        require_ready(&checkpoint)?;
        let sharing = CheckpointFilter { layer: Some(checkpoint.layer), ..CheckpointFilter::default() };
        let all = self.inner.records.checkpoints(sharing).await?;
        if let Some(one) = all.iter().find(|one| one.durability != Durability::Verified) {
            return Err(Error::conflict(
                "checkpoint_not_verified",
                format!("checkpoint {} shares this layer and is {}, not verified", one.id, one.durability),
            ));
        }
        let (platform, layer, org) = (self.clone(), checkpoint.layer, checkpoint.org_id);
        let evicted = self.to_the_end(async move {
            platform.look_at_damage(org).await?;
            platform.evict_layer(layer).await
        });
        let gone = evicted.await?;
        if !gone {
            return Err(Error::conflict(
                "operation_in_progress",
                "the checkpoint is being restored, forked or stored, or what is stored of its organisation is damaged; \
                 try again, and see `forkpoint vault check`",
            ));
        }
        Ok(checkpoint)
    }

    /// Removes a layer that the vault can bring back; `false`: something needs it, or not all of it is verified.
    pub(crate) async fn evict_layer(&self, layer: LayerId) -> Result<bool> {
        // Before others have to wait for this: the store may take its time.
        if !self.may_come_back(layer).await? {
            return Ok(false);
        }
        let _settling = self.inner.hot.settling().await;
        if self.inner.claims.is_claimed(layer) {
            return Ok(false);
        }
        let sharing = CheckpointFilter { layer: Some(layer), ..CheckpointFilter::default() };
        let rows = self.inner.records.checkpoints(sharing).await?;
        if rows.is_empty() || rows.iter().any(|row| row.durability != Durability::Verified) {
            return Ok(false);
        }
        self.inner.runtime.drop_layer(layer).await?;
        pass(Point::EvictDropped);
        self.inner.durability.figures.evicted.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether the vault has every verified checkpoint that shares a layer; also if the layer went before.
    async fn may_come_back(&self, layer: LayerId) -> Result<bool> {
        if !self.inner.runtime.has_layer(layer).await? {
            return Ok(true);
        }
        let sharing = CheckpointFilter { layer: Some(layer), ..CheckpointFilter::default() };
        for row in self.inner.records.checkpoints(sharing).await? {
            if row.durability == Durability::Verified && !self.comes_back(&row).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the vault of now has a verified checkpoint, as far as that can be told without reading all of it.
    /// One that it does not have is on its way again: the vault was another one, or has lost it.
    async fn comes_back(&self, row: &Checkpoint) -> Result<bool> {
        let Some(vault) = &self.inner.vault else { return Ok(false) };
        let unknown = |failure: VaultFailure| Error::Unavailable(format!("the vault cannot be read now ({failure})"));
        if !self.inner.durability.knows_damage().await {
            return Err(Error::Unavailable("it is not known yet what is damaged in the vault; try again".into()));
        }
        if let Some(object) = self.inner.durability.damage_of(row.org_id).first() {
            tracing::warn!(layer.id = %row.layer, object, "a layer stays: its organisation's stored data is damaged");
            return Ok(false);
        }
        match vault.holds(row.org_id, row.id, &row.checksum).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(failure) if failure.damaged.is_some() => {
                tracing::error!(checkpoint.id = %row.id, %failure, "a layer stays: its checkpoint's record is damaged");
                self.inner.durability.note_damage(row.org_id, &failure);
                return Ok(false);
            }
            Err(failure) => return Err(unknown(failure)),
        }
        tracing::error!(checkpoint.id = %row.id, "a verified checkpoint is not in the vault; it is stored again");
        let again = Checkpoint {
            durability: Durability::Captured,
            durability_reason: Some("the vault did not have it any more".into()),
            durable_at: None,
            verified_at: None,
            ..row.clone()
        };
        let change = Change::SetDurability { checkpoint: Box::new(again), from: Durability::Verified };
        self.inner.records.commit(vec![change]).await?;
        Ok(false)
    }

    /// What a request gets whose checkpoint cannot be read from the vault.
    pub(crate) fn unreadable(&self, checkpoint: &Checkpoint, failure: &VaultFailure) -> Error {
        tracing::error!(checkpoint.id = %checkpoint.id, %failure, "a stored checkpoint cannot be read");
        self.inner.durability.note_damage(checkpoint.org_id, failure);
        Error::Unavailable(format!(
            "checkpoint {} cannot be read from the vault ({failure}); nothing was changed",
            checkpoint.id
        ))
    }

    /// Whether a checkpoint's layer is on this machine. The caller holds a claim on it, so it stays.
    pub(crate) async fn layer_is_here(&self, layer: LayerId) -> Result<bool> {
        self.inner.hot.settled().await;
        if self.has_vault() {
            self.inner.hot.note_use(layer, self.inner.clock.now());
        }
        Ok(self.inner.runtime.has_layer(layer).await?)
    }

    /// Makes sure that a checkpoint's layer is on this machine. The caller holds a claim on it.
    pub(crate) async fn bring_layer_back(&self, checkpoint: &Checkpoint) -> Result<()> {
        let inner = &self.inner;
        if self.layer_is_here(checkpoint.layer).await? {
            return Ok(());
        }
        let _alone = inner.durability.alone().await;
        if inner.runtime.has_layer(checkpoint.layer).await? {
            return Ok(());
        }
        let elsewhere = checkpoint.server != self.here();
        let is_readable = |vault: &Arc<dyn Vault>| match checkpoint.durability {
            Durability::Captured => false,
            Durability::Durable | Durability::Verified => !elsewhere || vault.shared().is_some(),
            // It may be there all the same: whatever is not whole is refused while it is read.
            Durability::Failed => !elsewhere,
        };
        let Some(vault) = inner.vault.clone().filter(is_readable) else {
            if elsewhere {
                return Err(self.on_another_server(checkpoint).await?);
            }
            return Err(Error::Unavailable(format!(
                "the layer of checkpoint {} is not on this machine and not in a vault; nothing was changed",
                checkpoint.id
            )));
        };
        // Beside, under a name of its own: a crash half-way must not leave half a layer under the checkpoint's.
        let beside = LayerId::from_uuid(new_uuid());
        let _claim = inner.claims.claim(beside);
        let brought = async {
            inner.runtime.make_layer(beside, &plan_create(&checkpoint.template)).await?;
            let into = inner.runtime.layer_tree(beside).ok_or_else(no_directories)?;
            let stored = vault.materialize(checkpoint.org_id, checkpoint.id, &into).await;
            stored.map_err(|failure| self.unreadable(checkpoint, &failure))?;
            pass(Point::ColdFetched);
            let whole = LayerPlan { template: checkpoint.template.clone(), base: Some(beside), graft: None };
            inner.runtime.make_layer(checkpoint.layer, &whole).await?;
            pass(Point::ColdPlaced);
            Ok(())
        }
        .await;
        if let Err(error) = inner.runtime.drop_layer(beside).await {
            tracing::warn!(layer.id = %beside, %error, "could not remove a layer that was brought back beside");
        }
        if brought.is_ok() {
            tracing::info!(checkpoint.id = %checkpoint.id, "brought a layer back from the vault");
            inner.durability.figures.brought_back.fetch_add(1, Ordering::Relaxed);
            inner.hot.changed.notify_one();
        }
        brought
    }

    /// Removes what the vault has of a deleted checkpoint, behind the answer.
    pub(crate) fn behind_forget_stored(&self, checkpoint: &Checkpoint) {
        let Some(vault) = self.inner.vault.clone() else { return };
        let (org, id) = (checkpoint.org_id, checkpoint.id);
        let platform = self.clone();
        self.behind(async move {
            match vault.delete(org, id).await {
                Ok(()) => pass(Point::ForgetRecord),
                Err(error) => {
                    tracing::warn!(checkpoint.id = %id, %error, "could not remove a deleted checkpoint from the vault");
                }
            }
            platform.inner.durability.usage_changed(org);
        });
    }
}

pub(super) fn no_directories() -> Error {
    Error::conflict("durability_unavailable", "this runtime's layers cannot be read from a vault")
}
