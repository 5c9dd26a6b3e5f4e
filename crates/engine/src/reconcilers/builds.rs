//! Removes what builds of recipes left: sandboxes of steps whose build is over, and outcomes of steps beyond what is
//! to be kept.

use crate::{
    Platform,
    operations::build::BUILD_LABEL,
    platform::Caller,
    ports::records::{CheckpointFilter, SandboxFilter},
};
use forkpoint_domain::ids::ApiKeyId;

impl Platform {
    /// Deletes the sandboxes of steps that no build in progress has.
    pub(crate) async fn end_lost_builds(&self) {
        let rows = match self.inner.records.sandboxes(SandboxFilter::default()).await {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "could not look for what builds left"),
        };
        for row in rows {
            let Some(build) = row.metadata.get(BUILD_LABEL) else { continue };
            if self.inner.builds.is_live(build) {
                continue;
            }
            tracing::info!(sandbox.id = %row.id, build.id = build, "removing the sandbox of a build that is over");
            let owner =
                Caller { org_id: row.org_id, key_id: ApiKeyId::from_uuid(uuid::Uuid::nil()), scopes: Vec::new() };
            if let Err(error) = self.delete_sandbox(&owner, row.id).await {
                tracing::warn!(sandbox.id = %row.id, %error, "could not remove the sandbox of a build that is over");
            }
        }
    }

    /// Removes outcomes of steps, those that were not used longest first, until what is left may be kept.
    pub(crate) async fn bound_build_cache(&self) {
        let filter = CheckpointFilter { steps: Some(true), ..CheckpointFilter::default() };
        let mut kept = match self.inner.records.checkpoints(filter).await {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "could not look at what steps of recipes left"),
        };
        // Each use moves the end of its retention, so the earliest end was not used longest.
        kept.sort_by_key(|one| one.expires_at);
        let limit = self.inner.settings.build_cache;
        let (mut layers, mut bytes) = (kept.len() as u64, kept.iter().map(|one| one.size_bytes).sum::<u64>());
        for one in kept {
            if layers <= limit.layers && bytes <= limit.bytes {
                return;
            }
            layers -= 1;
            bytes = bytes.saturating_sub(one.size_bytes);
            if self.inner.claims.is_claimed(one.layer) {
                continue;
            }
            match self.remove_checkpoint(&one, "build cache is full").await {
                Ok(()) => tracing::debug!(checkpoint.id = %one.id, "removed what a recipe's step left"),
                Err(error) => tracing::warn!(checkpoint.id = %one.id, %error, "could not remove what a step left"),
            }
        }
    }
}
