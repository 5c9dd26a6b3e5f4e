//! Mends what is damaged in the vault, as far as layers on this machine allow.
//!
//! Whoever reads wrong bytes marks the pack, so that nothing new relies on it. Here it is read once more; if it is
//! damaged indeed, checkpoints that need it are stored again from their layers, one after the other, and those that
//! have none here say that they failed. What nothing needs any more is put aside by a collection. A store that gave
//! wrong bytes only on the way costs some room: nothing whole is taken away.

use crate::{
    Error, Platform, Result,
    ports::{
        records::{Change, CheckpointFilter, RecordsError},
        vault::{Vault, VaultFailure},
    },
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::{CheckpointId, OrgId},
};
use std::{sync::Arc, time::Duration};

/// How often what is damaged is looked at again without a reason.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How many looks there are to one for marks that others have made.
const ASK_EVERY: u32 = 150;

impl Platform {
    /// Mends for ever.
    pub(crate) async fn keep_mending(&self) {
        let Some(vault) = self.inner.vault.clone() else { return };
        let mut looks_until_asking = 0;
        loop {
            if looks_until_asking == 0 {
                match vault.suspects().await {
                    Ok(suspects) => {
                        self.inner.durability.note_suspects(suspects);
                        looks_until_asking = ASK_EVERY;
                    }
                    Err(error) => tracing::warn!(%error, "could not look for damage in the vault"),
                }
            }
            looks_until_asking = looks_until_asking.saturating_sub(1);
            for (org, object) in self.inner.durability.damage_due(self.inner.clock.now()) {
                let mended = self.mend_object(&vault, org, &object).await;
                let is_going_on = match mended {
                    Ok(Mended::Done) => {
                        self.inner.durability.forget_damage(org, &object);
                        self.inner.hot.changed.notify_one();
                        continue;
                    }
                    Ok(Mended::GoesOn) => true,
                    Ok(Mended::Stuck) => false,
                    Err(error) => {
                        tracing::warn!(object, %error, "could not mend a damaged object");
                        false
                    }
                };
                self.inner.durability.mend_later(org, &object, is_going_on, self.inner.clock.now());
            }
            let _ = tokio::time::timeout(LOOK_EVERY, self.inner.durability.found_damage()).await;
        }
    }

    /// Forgets what is not damaged any more of an organisation: somebody waits for that.
    pub(crate) async fn look_at_damage(&self, org: OrgId) -> Result<()> {
        let Some(vault) = &self.inner.vault else { return Ok(()) };
        for object in self.inner.durability.damage_of(org) {
            if self.is_over(vault, org, &object).await? {
                self.inner.durability.forget_damage(org, &object);
            }
        }
        Ok(())
    }

    /// Whether an object is whole again, or gone. What failed for it is read back again then.
    async fn is_over(&self, vault: &Arc<dyn Vault>, org: OrgId, object: &str) -> Result<bool> {
        if vault.is_damaged(object).await.map_err(|failure| Error::Unavailable(failure.reason))? {
            return Ok(false);
        }
        tracing::info!(org.id = %org, object, "a stored object that was damaged is whole, or gone");
        self.read_again(org, object).await?;
        Ok(true)
    }

    /// Mends one object, as far as that is possible now.
    async fn mend_object(&self, vault: &Arc<dyn Vault>, org: OrgId, object: &str) -> Result<Mended> {
        let failed = |failure: VaultFailure| Error::Unavailable(failure.reason);
        if self.is_over(vault, org, object).await? {
            return Ok(Mended::Done);
        }
        let touched = vault.touched(object).await.map_err(failed)?;
        if touched.is_empty() {
            // Beside writers and other servers only a collection knows that nothing comes to need it.
            vault.collect(Some(org)).await.map_err(failed)?;
            return Ok(if self.is_over(vault, org, object).await? { Mended::Done } else { Mended::Stuck });
        }
        let names: Vec<String> = touched.iter().map(ToString::to_string).collect();
        tracing::error!(org.id = %org, object, touches = names.join(" "), "a stored object is damaged");
        self.store_one_again(vault, org, touched, object).await
    }

    /// Lets a checkpoint of this server that needs a damaged object be stored again, if the layer of one is here. The
    /// others may be whole after that, for what they share is stored again, too; if not, they say that they have
    /// failed.
    async fn store_one_again(
        &self,
        vault: &Arc<dyn Vault>,
        org: OrgId,
        touched: Vec<CheckpointId>,
        object: &str,
    ) -> Result<Mended> {
        let mut gone = Vec::new();
        for id in touched {
            let Some(row) = self.inner.records.checkpoint(id).await? else { continue };
            if row.server != self.here() {
                continue;
            }
            let _claim = self.inner.claims.claim(row.layer);
            match row.durability {
                Durability::Captured => return Ok(Mended::GoesOn),
                Durability::Durable | Durability::Verified if self.layer_is_here(row.layer).await? => {
                    let reason = format!("what is stored of it is damaged: {object}");
                    if self.fall_back(&row, Durability::Captured, reason).await? {
                        self.inner.durability.begin_anew(id);
                    }
                    return Ok(Mended::GoesOn);
                }
                Durability::Durable | Durability::Verified => gone.push(row),
                Durability::Failed => {}
            }
        }
        for row in gone {
            if self.inner.durability.is_whole(org, object, row.id) {
                continue;
            }
            match vault.verify(row.org_id, row.id).await {
                Ok(()) => self.inner.durability.note_whole(org, object, row.id),
                Err(failure) if failure.damaged.is_some() || failure.lost => {
                    let reason = format!("{}; {object} is damaged", failure.reason);
                    self.fall_back(&row, Durability::Failed, reason).await?;
                }
                Err(failure) => return Err(Error::Unavailable(failure.reason)),
            }
        }
        Ok(Mended::Stuck)
    }

    /// Lets checkpoints be read back again that failed for an object that is whole after all, or not needed any more.
    async fn read_again(&self, org: OrgId, object: &str) -> Result<()> {
        let failed = CheckpointFilter {
            org: Some(org),
            server: Some(self.here()),
            durability: Some(Durability::Failed),
            ..CheckpointFilter::default()
        };
        for row in self.inner.records.checkpoints(failed).await? {
            let names_it = row.durability_reason.as_ref().is_some_and(|reason| reason.contains(object));
            let _claim = self.inner.claims.claim(row.layer);
            if !names_it {
                continue;
            }
            let to = if self.layer_is_here(row.layer).await? { Durability::Captured } else { Durability::Durable };
            let reason = format!("{object} was damaged, and is not in the way any more");
            if self.fall_back(&row, to, reason).await? {
                self.inner.durability.begin_anew(row.id);
            }
        }
        Ok(())
    }

    /// Sets a checkpoint back on its way; `false` if it was changed, or deleted, this moment.
    async fn fall_back(&self, row: &Checkpoint, to: Durability, reason: String) -> Result<bool> {
        let fallen = Checkpoint {
            durability: to,
            durability_reason: Some(reason),
            durable_at: row.durable_at.filter(|_| to != Durability::Captured),
            verified_at: None,
            ..row.clone()
        };
        let change = Change::SetDurability { checkpoint: Box::new(fallen), from: row.durability };
        match self.inner.records.commit(vec![change]).await {
            Ok(()) => {}
            Err(RecordsError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.inner.durability.notify_changed();
        Ok(true)
    }
}

/// How far a damaged object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// It is whole, or gone.
    Done,
    /// A checkpoint that needs it is being stored again.
    GoesOn,
    /// Nothing can be done for now.
    Stuck,
}
