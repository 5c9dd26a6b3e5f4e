//! Restoring a checkpoint into a sandbox.

use crate::http::{App, body::Json, error::ApiResult, extract::Id, patience::patiently};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::ids::{CheckpointId, SandboxId};
use forkpoint_engine::{Caller, operations::restore::Restore};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What to restore.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RestoreCheckpoint)]
pub(super) struct RestoreBody {
    /// From which checkpoint; it may be another sandbox's of the organisation.
    #[serde(alias = "checkpointId")]
    checkpoint_id: String,
    /// Whether files are restored; this ends the sandbox's processes. Default true.
    #[serde(alias = "restoreFiles")]
    #[schema(default = true)]
    restore_files: Option<bool>,
    /// Whether environment variables are restored, if the checkpoint has them. Default true.
    #[serde(alias = "restoreEnv")]
    #[schema(default = true)]
    restore_env: Option<bool>,
    /// Whether files that are there are replaced and added ones removed; false: only missing ones come back. Default true.
    #[schema(default = true)]
    overwrite: Option<bool>,
}

/// It was restored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Restored {
    /// Always true here.
    success: bool,
    #[schema(value_type = String)]
    sandbox_id: SandboxId,
    #[schema(value_type = String)]
    checkpoint_id: CheckpointId,
}

/// Restores a checkpoint into a sandbox
///
/// The sandbox shows the old files or the restored ones, never a mix. A stopped sandbox stays stopped.
#[utoipa::path(post, path = "/sandbox/{id}/checkpoints/restore", tag = "checkpoints",
    params(("id" = String, Path, description = "Sandbox id")), request_body = RestoreBody,
    responses((status = 200, description = "The next command sees it", body = Restored)))]
pub(super) async fn restore_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<RestoreBody>,
) -> ApiResult {
    let checkpoint = body.checkpoint_id.parse::<CheckpointId>()?;
    let restore = Restore {
        checkpoint,
        files: body.restore_files.unwrap_or(true),
        env: body.restore_env.unwrap_or(true),
        overwrite: body.overwrite.unwrap_or(true),
    };
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let sandbox = platform.restore_checkpoint(&caller, id, restore).await?;
        Ok(Restored { success: true, sandbox_id: sandbox.id, checkpoint_id: checkpoint })
    })
    .await
}
