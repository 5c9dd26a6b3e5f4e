//! Mends what is damaged in the vault, as far as layers on this machine allow.
//!
//! Whoever reads wrong bytes marks the pack, so that nothing new relies on it. Here it is read once more; if it is
//! damaged indeed, checkpoints that need it are stored again from their layers, and those that have none here say that
//! they failed. What nothing needs any more is put aside. A store that gave wrong bytes only on the way costs some
//! room: nothing whole is taken away.

use crate::{
    Platform, Result,
    ports::{
        records::{Change, RecordsError},
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
        for round in 0u32.. {
            if round.is_multiple_of(ASK_EVERY) {
                match vault.suspects().await {
                    Ok(suspects) => self.inner.durability.note_suspects(suspects),
                    Err(error) => tracing::warn!(%error, "could not look for damage in the vault"),
                }
            }
            for (org, object) in self.inner.durability.damage_due(self.inner.clock.now()) {
                match self.mend_object(&vault, org, &object).await {
                    Ok(true) => self.inner.durability.forget_damage(org, &object),
                    Ok(false) => self.inner.durability.mend_later(org, &object, self.inner.clock.now()),
                    Err(error) => {
                        tracing::warn!(object, %error, "could not mend a damaged object");
                        self.inner.durability.mend_later(org, &object, self.inner.clock.now());
                    }
                }
            }
            let _ = tokio::time::timeout(LOOK_EVERY, self.inner.durability.found_damage()).await;
        }
    }

    /// Mends one object; `false` if checkpoints need it still.
    async fn mend_object(&self, vault: &Arc<dyn Vault>, org: OrgId, object: &str) -> Result<bool, VaultFailure> {
        if !vault.is_damaged(object).await? {
            tracing::info!(org.id = %org, object, "a stored object is whole again, or gone");
            return Ok(true);
        }
        let touched = vault.touched(object).await?;
        if touched.is_empty() {
            let aside = vault.put_aside(object).await?;
            tracing::error!(org.id = %org, object, aside, "a damaged object that nothing needs was put aside");
            return Ok(true);
        }
        let names: Vec<String> = touched.iter().map(ToString::to_string).collect();
        tracing::error!(org.id = %org, object, touches = names.join(" "), "a stored object is damaged");
        if let Err(error) = self.store_again_or_fail(vault, touched, object).await {
            tracing::warn!(org.id = %org, object, %error, "could not see to checkpoints that are damaged in the vault");
        }
        Ok(false)
    }

    /// Lets checkpoints of this server that need a damaged object be stored again, if their layers are here. The others
    /// may be whole after that, for what they share is stored again, too; if not, they say that they have failed.
    async fn store_again_or_fail(
        &self,
        vault: &Arc<dyn Vault>,
        touched: Vec<CheckpointId>,
        object: &str,
    ) -> Result<()> {
        let (mut gone, mut is_being_stored) = (Vec::new(), false);
        for id in touched {
            let Some(row) = self.inner.records.checkpoint(id).await? else { continue };
            if row.server != self.here() {
                continue;
            }
            let _claim = self.inner.claims.claim(row.layer);
            match row.durability {
                Durability::Captured => is_being_stored = true,
                Durability::Durable | Durability::Verified if self.layer_is_here(row.layer).await? => {
                    is_being_stored = true;
                    self.fall_back(&row, Durability::Captured, object).await?;
                    self.inner.durability.begin_anew(id);
                }
                Durability::Durable | Durability::Verified => gone.push(row),
                Durability::Failed => {}
            }
        }
        for row in gone.into_iter().filter(|_| !is_being_stored) {
            match vault.verify(row.org_id, row.id).await {
                Err(failure) if !failure.may_pass => self.fall_back(&row, Durability::Failed, object).await?,
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// A stored checkpoint is not whole in the vault any more.
    async fn fall_back(&self, row: &Checkpoint, to: Durability, object: &str) -> Result<()> {
        let fallen = Checkpoint {
            durability: to,
            durability_reason: Some(format!("what is stored of it is damaged: {object}")),
            durable_at: None,
            verified_at: None,
            ..row.clone()
        };
        let change = Change::SetDurability { checkpoint: Box::new(fallen), from: row.durability };
        match self.inner.records.commit(vec![change]).await {
            // Deleted, or changed, this moment.
            Ok(()) | Err(RecordsError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.inner.durability.figures.note(to);
        self.inner.durability.notify_changed();
        Ok(())
    }
}
