//! Durable checkpoint data, on this machine or in an object store.

use super::sealer::Sealed;
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    ids::{CheckpointId, OrgId},
    stored::StoredLayer,
};
use std::{fmt, path::Path, sync::Arc};

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

    /// The same, and tells what was read. Nothing is taken on trust.
    async fn examine(&self, org: OrgId, checkpoint: CheckpointId) -> Result<Examined, VaultFailure>;

    /// Whether a checkpoint is stored with this checksum; only its record is read.
    async fn holds(&self, org: OrgId, checkpoint: CheckpointId, checksum: &str) -> Result<bool, VaultFailure>;

    /// Stored objects that gave wrong bytes once and were not read through since, and whose they are.
    async fn suspects(&self) -> Result<Vec<(OrgId, String)>, VaultFailure>;

    /// Whether a stored object that was found damaged is so still: not if it was mended, or put aside.
    async fn is_damaged(&self, object: &str) -> Result<bool, VaultFailure>;

    /// Checkpoints that need a damaged object, since what it holds is nowhere else.
    async fn touched(&self, object: &str) -> Result<Vec<CheckpointId>, VaultFailure>;

    /// Brings what is stored of a checkpoint's row in step with the row; its tree stays as it is. One that is not
    /// stored is left so.
    async fn restate(&self, checkpoint: &Checkpoint) -> Result<(), VaultFailure>;

    /// Proves that a path (relative, any bytes) is in a stored tree: a JSON object that can be checked with the tree's
    /// checksum alone. `None`: it is not in it.
    async fn prove(
        &self,
        org: OrgId,
        checkpoint: CheckpointId,
        path: Vec<u8>,
    ) -> Result<Option<serde_json::Value>, VaultFailure>;

    /// Writes a stored tree into an empty directory, every chunk verified, durable when this returns.
    async fn materialize(&self, org: OrgId, checkpoint: CheckpointId, into: &Path) -> Result<(), VaultFailure>;

    /// A stored tree, to be looked at without writing it anywhere.
    async fn browse(&self, org: OrgId, checkpoint: CheckpointId) -> Result<Arc<dyn StoredLayer>, VaultFailure>;

    /// How far what is being done with a checkpoint is; `None`: nothing is.
    fn progress(&self, checkpoint: CheckpointId) -> Option<Progress>;

    /// All stored checkpoints, whoever stored them.
    async fn stored(&self) -> Result<Vec<(OrgId, CheckpointId)>, VaultFailure>;

    /// What each stored checkpoint of an organisation takes.
    async fn usage(&self, org: OrgId) -> Result<Vec<(CheckpointId, Usage)>, VaultFailure>;

    /// Removes a stored checkpoint; one that is not there is removed already. Its bytes go with a collection.
    async fn delete(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure>;

    /// The store's name if other servers use it too; `None` if it is this machine's own.
    fn shared(&self) -> Option<&str> {
        None
    }

    /// Removes bytes that no stored checkpoint needs any more, of one organisation or all. Damaged objects that nothing
    /// needs are kept aside.
    async fn collect(&self, org: Option<OrgId>) -> Result<(), VaultFailure>;
}

/// How far a long piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Files, links and the like there are in all.
    pub files_total: u64,
    /// How many of them are done.
    pub files_done: u64,
    /// Bytes of content there are in all, as far as known.
    pub bytes_total: u64,
    /// How many of them are done.
    pub bytes_done: u64,
}

/// What is done with a checkpoint that takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is written to the store.
    Storing,
    /// It is read back.
    Verifying,
    /// Its layer is brought back to this machine.
    Restoring,
}

impl Step {
    /// The step as clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storing => "storing",
            Self::Verifying => "verifying",
            Self::Restoring => "restoring",
        }
    }
}

/// What one checkpoint takes in the store, in bytes as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What no other checkpoint needs: what deleting it gives back.
    pub unique_bytes: u64,
    /// All it needs.
    pub total_bytes: u64,
}

/// What storing a checkpoint gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The hash of its tree, `b3:<hex>`.
    pub checksum: String,
    /// Bytes written to the store.
    pub bytes_sent: u64,
}

/// What reading a checkpoint back gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The hash of its tree, as computed from what was read: `b3:<hex>`.
    pub checksum: String,
    /// Directories that were read.
    pub directories: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
}

/// Why the vault failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct VaultFailure {
    /// What went wrong, for the checkpoint's row and its owner.
    pub reason: String,
    /// Whether the same may succeed later with nothing else changed.
    pub may_pass: bool,
    /// The stored object that is damaged, if that is why.
    pub damaged: Option<String>,
    /// Something that was stored is not there.
    pub lost: bool,
}

impl VaultFailure {
    /// For another reason than damage or loss.
    pub fn new(reason: impl Into<String>, may_pass: bool) -> Self {
        Self { reason: reason.into(), may_pass, damaged: None, lost: false }
    }
}
