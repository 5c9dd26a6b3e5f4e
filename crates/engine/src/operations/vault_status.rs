//! How far checkpoints are on their way into the vault, for their owners and for the operator.

use crate::{
    Caller, Platform, Result,
    ports::{
        records::CheckpointFilter,
        vault::{Progress, Usage},
    },
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::CheckpointId,
    organization::KeyScope,
};
use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::Ordering;

/// How often what checkpoints take is counted at most; and how many times as long as counting took.
const COUNT_EVERY: SignedDuration = SignedDuration::from_secs(2);
const COUNT_SHARE: i32 = 20;

/// What is known of one checkpoint besides its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultStatus {
    /// Whether its layer is on this machine.
    pub is_local: bool,
    /// Its place among those that wait to be stored or read back, from 1; `None`: it does not wait.
    pub queue_position: Option<u64>,
    /// How often storing it has failed since it last succeeded, or since the server started.
    pub failed_attempts: u32,
    /// When it is tried again.
    pub retry_at: Option<Timestamp>,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// What is being done with it now.
    pub progress: Option<Progress>,
    /// What it takes in the store, as last counted.
    pub usage: Option<Usage>,
}

/// The vault's figures, for the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultFigures {
    /// Checkpoints that wait to be stored.
    pub waiting_to_store: u64,
    /// Checkpoints that wait to be read back.
    pub waiting_to_verify: u64,
    /// Checkpoints that could not be stored.
    pub failed_now: u64,
    /// For how long the oldest that waits has waited, in seconds.
    pub oldest_waits_seconds: u64,
    /// Stored since the server started; so are the next five.
    pub stored: u64,
    /// Read back and found right.
    pub verified: u64,
    /// Given up.
    pub failed: u64,
    /// Bytes written to the store.
    pub bytes_sent: u64,
    /// Layers removed from this machine for being verified.
    pub evicted: u64,
    /// Layers brought back.
    pub brought_back: u64,
    /// Bytes of checkpoints' layers on this machine, as last counted.
    pub hot_layer_bytes: u64,
    /// Stored objects that are known to be damaged.
    pub damaged_objects: u64,
}

impl Platform {
    /// A checkpoint, and how far it is. `None` where there is no vault.
    pub async fn checkpoint_status(
        &self,
        caller: &Caller,
        id: CheckpointId,
    ) -> Result<(Checkpoint, Option<VaultStatus>)> {
        caller.require(KeyScope::Read)?;
        let checkpoint = self.own_checkpoint(caller, id).await?;
        let Some(vault) = &self.inner.vault else { return Ok((checkpoint, None)) };
        let waits = matches!(checkpoint.durability, Durability::Captured | Durability::Durable);
        let queue_position = if waits {
            let queue = self.queue().await?;
            queue.iter().position(|one| one.id == id).map(|before| before as u64 + 1)
        } else {
            None
        };
        let tries = self.inner.durability.tries().get(&id).cloned().unwrap_or_default();
        let stored = matches!(checkpoint.durability, Durability::Durable | Durability::Verified);
        let status = VaultStatus {
            is_local: self.inner.runtime.has_layer(checkpoint.layer).await?,
            queue_position,
            failed_attempts: tries.failed,
            retry_at: tries.not_before,
            last_error: tries.last_error,
            progress: vault.progress(id),
            usage: if stored { self.inner.durability.usage(checkpoint.org_id, id) } else { None },
        };
        Ok((checkpoint, Some(status)))
    }

    /// The vault's figures; `None` where there is none.
    pub async fn vault_figures(&self) -> Result<Option<VaultFigures>> {
        if !self.has_vault() {
            return Ok(None);
        }
        let queue = self.queue().await?;
        let failed = CheckpointFilter { durability: Some(Durability::Failed), ..CheckpointFilter::default() };
        let failed_now = self.inner.records.checkpoints(failed).await?.len() as u64;
        let count = |durability| queue.iter().filter(|one| one.durability == durability).count() as u64;
        let now = self.inner.clock.now();
        let oldest = queue.first().map_or(0, |one| now.duration_since(one.created_at).as_secs().max(0) as u64);
        let figures = &self.inner.durability.figures;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Some(VaultFigures {
            waiting_to_store: count(Durability::Captured),
            waiting_to_verify: count(Durability::Durable),
            failed_now,
            oldest_waits_seconds: oldest,
            stored: read(&figures.stored),
            verified: read(&figures.verified),
            failed: read(&figures.failed),
            bytes_sent: read(&figures.bytes_sent),
            evicted: read(&figures.evicted),
            brought_back: read(&figures.brought_back),
            hot_layer_bytes: self.inner.hot.total(),
            damaged_objects: self.inner.durability.damaged_objects(),
        }))
    }

    /// What waits, in the order in which it is worked off.
    async fn queue(&self) -> Result<Vec<Checkpoint>> {
        let filter = CheckpointFilter { on_the_way: true, oldest_first: true, ..CheckpointFilter::default() };
        Ok(self.inner.records.checkpoints(filter).await?)
    }

    /// Counts what checkpoints take, for one organisation of which that is not known or has changed.
    pub(crate) async fn count_usage(&self) {
        let Some(vault) = &self.inner.vault else { return };
        let began = self.inner.clock.now();
        let Some(org) = self.inner.durability.usage_due(began) else { return };
        match vault.usage(org).await {
            Ok(counted) => {
                let now = self.inner.clock.now();
                let pause = now.duration_since(began).saturating_mul(COUNT_SHARE).max(COUNT_EVERY);
                self.inner.durability.note_usage(org, counted, now.saturating_add(pause).unwrap_or(Timestamp::MAX));
            }
            Err(error) => {
                tracing::warn!(%org, %error, "could not count what checkpoints take in the vault");
                self.inner.durability.count_again(org, self.inner.clock.now() + COUNT_EVERY);
            }
        }
    }
}
