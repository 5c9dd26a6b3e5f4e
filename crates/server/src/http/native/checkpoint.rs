//! A checkpoint, and how two differ, as this dialect shows it.

use crate::http::time::Time;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    diff::CheckpointDiff,
    env::Environment,
    ids::{CheckpointId, OrgId, SandboxId},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
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
            expires_at: checkpoint.expires_at.map(Time),
            include_paths: checkpoint.scope.include_paths,
            exclude_paths: checkpoint.scope.exclude_paths,
            include_env: checkpoint.has_env,
            template: checkpoint.template.name.to_string(),
        }
    }
}

/// How the second of two checkpoints differs from the first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Comparison {
    checkpoint_1: Compared,
    checkpoint_2: Compared,
    diff: Difference,
}

/// One of the two.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Compared {
    #[schema(value_type = String)]
    id: CheckpointId,
    name: String,
}

/// What differs. Paths are absolute and sorted; bytes that are not UTF-8 are replaced.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Difference {
    /// Only in the second.
    files_added: Vec<String>,
    /// Only in the first.
    files_removed: Vec<String>,
    /// In both, with different content.
    files_modified: Vec<String>,
    /// The same as `files_added`.
    added: Vec<String>,
    /// The same as `files_removed`.
    removed: Vec<String>,
    /// The same as `files_modified`.
    modified: Vec<String>,
    /// Variables only in the second.
    env_added: BTreeMap<String, String>,
    /// Variables only in the first.
    env_removed: BTreeMap<String, String>,
    /// Variables in both with different values.
    env_modified: BTreeMap<String, ChangedVariable>,
    /// Size of the second minus size of the first.
    size_change_bytes: i64,
}

/// A variable whose value changed.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangedVariable {
    old: String,
    new: String,
}

impl std::fmt::Debug for ChangedVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChangedVariable(hidden)")
    }
}

impl Comparison {
    pub(super) fn new(first: Checkpoint, second: Checkpoint, diff: CheckpointDiff) -> Self {
        let shown = |paths: &[Vec<u8>]| -> Vec<String> {
            paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
        };
        let variables = |env: &Environment| env.as_map().clone();
        let (added, removed, modified) =
            (shown(&diff.files.added), shown(&diff.files.removed), shown(&diff.files.modified));
        Self {
            checkpoint_1: Compared { id: first.id, name: first.name },
            checkpoint_2: Compared { id: second.id, name: second.name },
            diff: Difference {
                files_added: added.clone(),
                files_removed: removed.clone(),
                files_modified: modified.clone(),
                added,
                removed,
                modified,
                env_added: variables(&diff.env.added),
                env_removed: variables(&diff.env.removed),
                env_modified: diff
                    .env
                    .modified
                    .into_iter()
                    .map(|(name, change)| (name, ChangedVariable { old: change.old, new: change.new }))
                    .collect(),
                size_change_bytes: diff.size_change_bytes,
            },
        }
    }
}
