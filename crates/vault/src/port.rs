//! The engine's port, by this vault: its blocking calls on threads that may block.

use crate::{CollectOptions, Header, PersistJob, Progress, SnapshotRef, Vault, VaultError};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    ids::{CheckpointId, OrgId},
};
use forkpoint_engine::ports::{
    sealer::Sealed,
    vault::{Stored, Vault as VaultPort, VaultFailure},
};
use jiff::SignedDuration;
use serde_json::json;
use std::{path::Path, sync::Arc};

/// A capture has ended when its row is written: what it captured is at most this much older.
const CAPTURE: SignedDuration = SignedDuration::from_secs(60);

#[async_trait]
impl VaultPort for Vault {
    async fn persist(
        &self,
        checkpoint: &Checkpoint,
        env: Option<Sealed>,
        tree: &Path,
        parent: Option<CheckpointId>,
    ) -> Result<Stored, VaultFailure> {
        let header = Header {
            org: checkpoint.org_id,
            checkpoint: checkpoint.id,
            sandbox: checkpoint.sandbox_id,
            parent: checkpoint.parent_id,
            template_name: checkpoint.template.name.to_string(),
            template_digest: checkpoint.template.digest.clone(),
            scope: json!(checkpoint.scope),
            metadata: json!({
                "name": checkpoint.name,
                "description": checkpoint.description,
                "metadata": checkpoint.metadata,
                "kind": checkpoint.kind.as_str(),
                "cloned_from": checkpoint.cloned_from,
                "file_count": checkpoint.file_count,
                "size_bytes": checkpoint.size_bytes,
                "expires_at": checkpoint.expires_at,
            }),
            env: env.map(|sealed| sealed.0),
            created_at: checkpoint.created_at,
        };
        let job = PersistJob {
            tree: tree.to_owned(),
            header,
            parent: parent.map(|checkpoint_id| SnapshotRef { org: checkpoint.org_id, checkpoint: checkpoint_id }),
            captured_after: checkpoint.created_at - CAPTURE,
            images: Vec::new(),
            progress: Arc::new(Progress::default()),
        };
        let vault = self.clone();
        let done = blocking(move || vault.persist(&job)).await?;
        Ok(Stored { checksum: done.root.to_string(), bytes_sent: done.bytes_sent })
    }

    async fn verify(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure> {
        let vault = self.clone();
        let name = SnapshotRef { org, checkpoint };
        blocking(move || vault.verify(name, None, &Progress::default())).await.map(drop)
    }

    async fn materialize(&self, org: OrgId, checkpoint: CheckpointId, into: &Path) -> Result<(), VaultFailure> {
        let (vault, into) = (self.clone(), into.to_owned());
        let name = SnapshotRef { org, checkpoint };
        blocking(move || vault.materialize(name, &into, &Progress::default())).await.map(drop)
    }

    async fn delete(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure> {
        let vault = self.clone();
        blocking(move || vault.delete(SnapshotRef { org, checkpoint })).await
    }

    async fn collect(&self) -> Result<(), VaultFailure> {
        let vault = self.clone();
        let done = blocking(move || vault.collect(&CollectOptions::default())).await?;
        tracing::info!(?done, "collected the vault");
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(VaultFailure { reason: error.to_string(), may_pass: error.may_pass() }),
        Err(error) => Err(VaultFailure { reason: error.to_string(), may_pass: false }),
    }
}
