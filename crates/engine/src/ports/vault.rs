//! Durable checkpoint data, on this machine or in an object store.

use super::sealer::Sealed;
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    ids::{CheckpointId, OrgId},
};
use std::{fmt, path::Path};

/// Keeps checkpoints so that they survive the loss of their layer.
#[async_trait]
pub trait Vault: Send + Sync + fmt::Debug + 'static {
    /// Stores the tree of a layer under the checkpoint's name. All of it is written and synced in the store when
    /// this returns. `parent` is a stored checkpoint that it probably resembles.
    async fn persist(
        &self,
        checkpoint: &Checkpoint,
        env: Option<Sealed>,
        tree: &Path,
        parent: Option<CheckpointId>,
    ) -> Result<Stored, VaultFailure>;

    /// Reads a stored checkpoint back and hashes all of it again.
    async fn verify(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure>;

    /// Writes a stored tree into an empty directory, every chunk verified, durable when this returns.
    async fn materialize(&self, org: OrgId, checkpoint: CheckpointId, into: &Path) -> Result<(), VaultFailure>;

    /// Removes a stored checkpoint; one that is not there is removed already. Its bytes go with a collection.
    async fn delete(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure>;

    /// Removes bytes that no stored checkpoint needs any more.
    async fn collect(&self) -> Result<(), VaultFailure>;
}

/// What storing a checkpoint gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The hash of its tree, `b3:<hex>`.
    pub checksum: String,
    /// Bytes written to the store.
    pub bytes_sent: u64,
}

/// Why the vault failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct VaultFailure {
    /// What went wrong, for the checkpoint's row and its owner.
    pub reason: String,
    /// Whether the same may succeed later with nothing else changed.
    pub may_pass: bool,
}
