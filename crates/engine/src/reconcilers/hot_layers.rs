//! Keeps checkpoints' layers on this machine within their budget. What is not verified in the vault stays, whatever
//! the budget says.

use crate::{Platform, Result, ports::records::CheckpointFilter};
use forkpoint_domain::{
    checkpoint::{CaptureLimits, Checkpoint, CheckpointStatus, Durability},
    ids::LayerId,
    restore::TreeRef,
    scope::Scope,
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// How often the budget is looked at without a reason, and at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// A layer and what its rows say of it together.
struct Layer {
    one: Checkpoint,
    all_verified: bool,
    used: Timestamp,
}

impl Platform {
    /// Looks at the budget whenever there may be a reason, for ever.
    pub(crate) async fn keep_hot_layers_within_budget(&self) {
        loop {
            if let Err(error) = self.fit_hot_layers().await {
                tracing::warn!(%error, "could not keep layers within their budget");
            }
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(LOOK_EVERY, self.inner.hot.changed.notified()).await;
        }
    }

    async fn fit_hot_layers(&self) -> Result<()> {
        let inner = &self.inner;
        let here: HashSet<LayerId> = inner.runtime.layers().await?.into_iter().collect();
        let mut layers: HashMap<LayerId, Layer> = HashMap::new();
        for row in inner.records.checkpoints(CheckpointFilter::default()).await? {
            if row.status != CheckpointStatus::Ready || !here.contains(&row.layer) {
                continue;
            }
            let verified = row.durability == Durability::Verified;
            let used = inner.hot.used(row.layer).unwrap_or(row.created_at).max(row.created_at);
            let layer = layers.entry(row.layer).or_insert_with(|| Layer { one: row, all_verified: true, used });
            layer.all_verified &= verified;
            layer.used = layer.used.max(used);
        }
        inner.hot.retain(|layer| here.contains(layer));
        let mut total = 0_u64;
        let mut may_go = Vec::new();
        for (id, layer) in layers {
            let bytes = self.layer_bytes(&layer.one).await;
            total = total.saturating_add(bytes);
            if layer.all_verified {
                may_go.push((layer.used, id, bytes));
            }
        }
        may_go.sort_unstable();
        let budget = inner.settings.hot_layer_bytes.unwrap_or(u64::MAX);
        for (_, id, bytes) in may_go {
            if total <= budget {
                break;
            }
            if self.evict_layer(id).await? {
                total -= bytes;
                tracing::info!(layer.id = %id, bytes, "removed a verified layer for the budget");
            }
        }
        inner.hot.note_total(total);
        Ok(())
    }

    /// What a layer holds by the sizes of its files; what layers share counts in each. Without a budget, what was
    /// captured of it is near enough.
    async fn layer_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        if self.inner.settings.hot_layer_bytes.is_none() {
            return checkpoint.size_bytes;
        }
        if let Some(bytes) = self.inner.hot.bytes_of(checkpoint.layer) {
            return bytes;
        }
        let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        let no_limits = CaptureLimits { max_files: u64::MAX, max_bytes: u64::MAX };
        match self.inner.runtime.measure(&tree, &Scope::everything(), no_limits).await {
            Ok(measure) => {
                self.inner.hot.note_bytes(checkpoint.layer, measure.size_bytes);
                measure.size_bytes
            }
            Err(error) => {
                tracing::debug!(layer.id = %checkpoint.layer, %error, "a layer could not be measured");
                checkpoint.size_bytes
            }
        }
    }
}
