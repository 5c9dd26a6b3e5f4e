//! A checkpoint, as this dialect shows it.

use crate::http::time::Time;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    ids::{CheckpointId, OrgId, SandboxId},
};
use forkpoint_engine::operations::vault_status::VaultStatus;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A checkpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checkpoint)]
pub(super) struct CheckpointView {
    /// Its name for ever.
    #[schema(value_type = String, example = "cp-01890a5d-ac96-774b-bcce-b302099a8057")]
    id: CheckpointId,
    /// The sandbox it was captured from.
    #[schema(value_type = String)]
    sandbox_id: SandboxId,
    /// Whose it is.
    #[schema(value_type = String)]
    org_id: OrgId,
    name: String,
    description: Option<String>,
    /// The same as `size_bytes`.
    size: u64,
    /// Bytes of its regular files, hard links once.
    size_bytes: u64,
    /// Regular files and symbolic links.
    file_count: u64,
    /// `b3:<hex>` once computed, until then empty.
    checksum: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// The caller's own JSON object.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// `processing`, `ready` or `failed`. `ready` survives a crash of this machine.
    #[schema(value_type = String)]
    status: &'static str,
    /// Why it failed, for a failed one.
    failure: Option<String>,
    /// How far it is stored beyond this machine: `captured`, `durable`, `verified` or `failed`.
    #[schema(value_type = String)]
    durability: &'static str,
    /// Why it is not in the vault, for durability `failed`.
    durability_reason: Option<String>,
    /// When all its data was in the vault.
    #[schema(value_type = Option<String>, format = DateTime)]
    durable_at: Option<Time>,
    /// When all its data had been read back from there.
    #[schema(value_type = Option<String>, format = DateTime)]
    verified_at: Option<Time>,
    /// `files`.
    #[schema(value_type = String)]
    kind: &'static str,
    /// The checkpoint that the sandbox's files came from when this one was captured.
    #[schema(value_type = Option<String>)]
    parent_id: Option<CheckpointId>,
    /// The checkpoint this one is a clone of.
    #[schema(value_type = Option<String>)]
    cloned_from: Option<CheckpointId>,
    /// How long the sandbox stood still, in milliseconds.
    pause_ms: f64,
    /// How long the capture took, in milliseconds.
    copy_duration_ms: f64,
    /// When retention removes it; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
    /// Whether retention leaves it alone.
    pinned: bool,
    /// What was captured; empty: everything.
    include_paths: Vec<String>,
    /// What was left out.
    exclude_paths: Vec<String>,
    /// Whether environment variables were captured.
    include_env: bool,
    /// Name of the template below.
    template: String,
}

impl From<Checkpoint> for CheckpointView {
    fn from(checkpoint: Checkpoint) -> Self {
        let expires_at = checkpoint.retained_until().map(Time);
        Self {
            id: checkpoint.id,
            sandbox_id: checkpoint.sandbox_id,
            org_id: checkpoint.org_id,
            name: checkpoint.name,
            description: checkpoint.description,
            size: checkpoint.size_bytes,
            size_bytes: checkpoint.size_bytes,
            file_count: checkpoint.file_count,
            checksum: checkpoint.checksum,
            created_at: Time(checkpoint.created_at),
            metadata: checkpoint.metadata,
            status: checkpoint.status.as_str(),
            failure: checkpoint.failure,
            durability: checkpoint.durability.as_str(),
            durability_reason: checkpoint.durability_reason,
            durable_at: checkpoint.durable_at.map(Time),
            verified_at: checkpoint.verified_at.map(Time),
            kind: checkpoint.kind.as_str(),
            parent_id: checkpoint.parent_id,
            cloned_from: checkpoint.cloned_from,
            pause_ms: checkpoint.pause_ms,
            copy_duration_ms: checkpoint.copy_duration_ms,
            expires_at,
            pinned: checkpoint.pinned,
            include_paths: checkpoint.scope.include_paths,
            exclude_paths: checkpoint.scope.exclude_paths,
            include_env: checkpoint.has_env,
            template: checkpoint.template.name.to_string(),
        }
    }
}

/// A checkpoint, and how far it is on its way into the vault and back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointDetails)]
pub(super) struct DetailsView {
    #[serde(flatten)]
    checkpoint: CheckpointView,
    /// Bytes in the vault that only this checkpoint needs: what deleting it gives back. Not there until counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
    /// Not there where the server has no vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<VaultView>,
}

/// How far a checkpoint is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointVault)]
pub(super) struct VaultView {
    /// Whether its layer is on this machine. If not, it is brought back when it is needed.
    local: bool,
    /// Its place among those that wait to be stored or read back, from 1; null: it does not wait.
    queue_position: Option<u64>,
    /// How often storing it has failed, since it last succeeded or the server started.
    failed_attempts: u32,
    /// When it is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    retry_at: Option<Time>,
    /// Why it failed last.
    last_error: Option<String>,
    /// Bytes in the vault that it needs, shared ones too. Null until counted.
    total_bytes: Option<u64>,
    /// What is being done with it now; null: nothing.
    progress: Option<ProgressView>,
}

/// How far a piece of work is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckpointProgress)]
pub(super) struct ProgressView {
    /// `storing`, `verifying` or `restoring`.
    #[schema(value_type = String)]
    step: &'static str,
    files_done: u64,
    /// 0 until known.
    files_total: u64,
    bytes_done: u64,
    /// 0 until known.
    bytes_total: u64,
}

impl DetailsView {
    pub(super) fn new(checkpoint: Checkpoint, status: Option<VaultStatus>) -> Self {
        let usage = status.as_ref().and_then(|status| status.usage);
        let vault = status.map(|status| VaultView {
            local: status.is_local,
            queue_position: status.queue_position,
            failed_attempts: status.failed_attempts,
            retry_at: status.retry_at.map(Time),
            last_error: status.last_error,
            total_bytes: usage.map(|usage| usage.total_bytes),
            progress: status.progress.map(|progress| ProgressView {
                step: progress.step.as_str(),
                files_done: progress.files_done,
                files_total: progress.files_total,
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
            }),
        });
        Self {
            checkpoint: CheckpointView::from(checkpoint),
            stored_bytes: usage.map(|usage| usage.unique_bytes),
            vault,
        }
    }
}
