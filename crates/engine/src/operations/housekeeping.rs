//! Removing at once what may go: what the reconcilers would come to in time, and what only an operator asks for.

use crate::{
    Platform, Result,
    ports::{
        records::{CheckpointFilter, SandboxFilter},
        runtime::Garbage,
    },
};
use forkpoint_domain::{
    ids::{LayerId, OrgId},
    sandbox::SandboxState,
    template::TemplateName,
};
use std::collections::{HashMap, HashSet};

impl Platform {
    /// Removes layers of sandboxes whose retention is over, checkpoints whose retention is over, layers that nothing
    /// names, versions of templates that are neither the newest of their name nor needed, unfinished imports and stale
    /// caches; tells what, and what each holds. With `dry_run` only tells. Works beside all other operations.
    pub async fn collect_now(&self, dry_run: bool) -> Result<Vec<Garbage>> {
        let platform = self.clone();
        self.to_the_end(async move {
            let mut found = Vec::new();
            let mut layers = HashSet::new();
            platform.collect_stopped(dry_run, &mut found, &mut layers).await?;
            platform.collect_expired(dry_run, &mut found, &mut layers).await?;
            platform.collect_unnamed(dry_run, &mut found, &layers).await?;
            platform.collect_templates(dry_run, &mut found).await?;
            found.extend(platform.inner.runtime.collect_files(dry_run).await?);
            Ok(found)
        })
        .await
    }

    async fn collect_stopped(
        &self,
        dry_run: bool,
        found: &mut Vec<Garbage>,
        layers: &mut HashSet<LayerId>,
    ) -> Result<()> {
        let Some(before) = self.stopped_before() else { return Ok(()) };
        let filter = SandboxFilter { states: vec![SandboxState::Stopped], stopped_before: Some(before), ..self.own() };
        for sandbox in self.inner.records.sandboxes(filter).await? {
            let Some(layer) = sandbox.layer else { continue };
            let bytes = self.bytes_of_layer(layer).await;
            if dry_run || self.remove_stopped_layer(&sandbox).await {
                layers.insert(layer);
                found.push(Garbage { kind: "stopped sandbox", name: sandbox.id.to_string(), bytes });
            }
        }
        Ok(())
    }

    async fn collect_expired(
        &self,
        dry_run: bool,
        found: &mut Vec<Garbage>,
        layers: &mut HashSet<LayerId>,
    ) -> Result<()> {
        let filter = CheckpointFilter { expired_at: Some(self.inner.clock.now()), ..CheckpointFilter::default() };
        let expired = self.inner.records.checkpoints(filter).await?;
        let mut uses: HashMap<LayerId, usize> = HashMap::new();
        for checkpoint in self.inner.records.checkpoints(CheckpointFilter::default()).await? {
            *uses.entry(checkpoint.layer).or_default() += 1;
        }
        for checkpoint in expired {
            // Clones share a layer: it goes with the last of them.
            let left = uses.entry(checkpoint.layer).or_default();
            *left = left.saturating_sub(1);
            let bytes = if *left == 0 { self.bytes_of_layer(checkpoint.layer).await } else { 0 };
            // Another server may be a moment ahead: then it is gone, and not by this call.
            if dry_run || self.remove_expired(&checkpoint).await.is_ok() {
                layers.insert(checkpoint.layer);
                found.push(Garbage { kind: "checkpoint", name: checkpoint.id.to_string(), bytes });
            }
        }
        Ok(())
    }

    /// The order matters, see `platform/claims.rs`; removing looks once more.
    async fn collect_unnamed(&self, dry_run: bool, found: &mut Vec<Garbage>, known: &HashSet<LayerId>) -> Result<()> {
        let mut layers = self.inner.runtime.layers().await?;
        layers.retain(|layer| !known.contains(layer) && !self.inner.claims.is_claimed(*layer));
        let used: HashSet<LayerId> = self.inner.records.layers_in_use().await?.into_iter().collect();
        layers.retain(|layer| !used.contains(layer));
        for layer in layers {
            let bytes = self.bytes_of_layer(layer).await;
            if !dry_run {
                self.drop_unused_layers(vec![layer]).await;
            }
            if dry_run || !self.inner.runtime.has_layer(layer).await? {
                found.push(Garbage { kind: "layer", name: layer.to_string(), bytes });
            }
        }
        Ok(())
    }

    async fn collect_templates(&self, dry_run: bool, found: &mut Vec<Garbage>) -> Result<()> {
        // Later versions of a name come later: what is replaced here was not the newest.
        let mut newest: HashMap<(TemplateName, Option<OrgId>), _> = HashMap::new();
        let mut older = Vec::new();
        for version in self.inner.runtime.templates().await? {
            older.extend(newest.insert((version.template.name.clone(), version.owner), version));
        }
        for version in older {
            // In use, or about to be.
            let Ok(_removal) = self.removable(&version.template).await else { continue };
            if !dry_run {
                self.inner.runtime.remove_template(&version.template).await?;
            }
            let (name, bytes) = (version.template.to_string(), version.size_bytes);
            found.push(Garbage { kind: "template", name, bytes });
        }
        Ok(())
    }

    /// What a layer holds; 0 if that cannot be told.
    async fn bytes_of_layer(&self, layer: LayerId) -> u64 {
        self.inner.runtime.layer_bytes(layer).await.unwrap_or_else(|error| {
            tracing::warn!(layer.id = %layer, %error, "could not measure a layer");
            0
        })
    }
}
