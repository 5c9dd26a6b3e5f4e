//! Making, looking at, keeping, cloning and deleting checkpoints.

use super::{
    checkpoint::{CheckpointView, DetailsView},
    sandboxes::Done,
};
use crate::http::{
    App,
    body::{Json, Submitted},
    error::{ApiError, ApiResult},
    extract::{Id, Query},
    patience::{json, patiently},
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{
    checkpoint::{CheckpointKind, Durability, Retention},
    ids::{CheckpointId, SandboxId},
    scope::ScopeSpec,
};
use forkpoint_engine::{Caller, operations::checkpoints::CreateCheckpoint, ports::records::CheckpointFilter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What to capture.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateCheckpoint)]
pub(super) struct CreateBody {
    /// What it is called, 1 to 256 characters.
    name: String,
    /// What it is for.
    description: Option<String>,
    /// Only these paths and what is below them; `*` stays inside one path part, `**` does not. Default: everything.
    #[serde(alias = "includePaths")]
    include_paths: Option<Vec<String>>,
    /// Not these; exclusion wins. Default: nothing is left out.
    #[serde(alias = "excludePaths")]
    exclude_paths: Option<Vec<String>>,
    /// Whether environment variables are captured. Default true.
    #[serde(alias = "includeEnv")]
    #[schema(default = true)]
    include_env: Option<bool>,
    /// The caller's own JSON object, at most 10 KB as compact JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// `files`, the only kind on this server. Default `files`.
    #[schema(default = "files")]
    kind: Option<String>,
    /// What to wait for: `ready` (default, also `captured`). `durable` and `verified` need a vault.
    #[schema(default = "ready")]
    wait: Option<String>,
    /// It is kept so many seconds; 0: for ever. Default: as the server is set, usually 90 days.
    #[serde(alias = "retentionSeconds")]
    retention_seconds: Option<i64>,
    /// Whether retention leaves it alone. Default false.
    #[schema(default = false)]
    pinned: Option<bool>,
}

impl CreateBody {
    fn read(self, has_vault: bool) -> ApiResult<(CreateCheckpoint, Durability)> {
        if self.kind.as_deref().map(str::parse).transpose()? == Some(CheckpointKind::Full) {
            let message = "kind 'full' (memory and processes) is not available on this server; available: files";
            return Err(ApiError::conflict("kind_unavailable", message).detail("available", vec!["files"]));
        }
        let wait = match self.wait.as_deref() {
            None | Some("ready" | "captured") => Durability::Captured,
            Some("durable") if has_vault => Durability::Durable,
            Some("verified") if has_vault => Durability::Verified,
            Some("durable" | "verified") => {
                let message =
                    "this server has no vault, so no checkpoint becomes durable or verified; wait for 'ready' instead";
                return Err(ApiError::conflict("durability_unavailable", message)
                    .detail("available", vec!["captured", "ready"]));
            }
            Some(_) => return Err(ApiError::invalid("wait", "must be one of ready captured durable verified")),
        };
        let request = CreateCheckpoint {
            name: self.name,
            description: self.description,
            scope: ScopeSpec {
                include_paths: self.include_paths.unwrap_or_default(),
                exclude_paths: self.exclude_paths.unwrap_or_default(),
                ..ScopeSpec::default()
            },
            include_env: self.include_env.unwrap_or(true),
            metadata: self.metadata.unwrap_or_default(),
            retention: Retention { seconds: self.retention_seconds, pinned: self.pinned },
        };
        Ok((request, wait))
    }
}

/// Checkpoints.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckpointList {
    checkpoints: Vec<CheckpointView>,
}

/// What the clone is called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CloneCheckpoint)]
pub(super) struct CloneBody {
    /// 1 to 256 characters.
    name: String,
    /// It is kept so many seconds; 0: for ever. Default: as the server is set.
    #[serde(alias = "retentionSeconds")]
    retention_seconds: Option<i64>,
    /// Whether retention leaves it alone. Default false.
    #[schema(default = false)]
    pinned: Option<bool>,
}

/// How long a checkpoint is kept.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetainCheckpoint)]
pub(super) struct RetainBody {
    /// It is kept so many seconds from now; 0: for ever. Default: as it was.
    #[serde(alias = "retentionSeconds")]
    retention_seconds: Option<i64>,
    /// Whether retention leaves it alone. When a pin is taken off and `retention_seconds` is not given, the server's
    /// retention begins anew. Default: as it was.
    pinned: Option<bool>,
}

/// What to wait for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryCheckpoint)]
pub(super) struct RetryBody {
    /// `captured` (default: nothing), `durable` or `verified`.
    wait: Option<String>,
}

/// Captures a sandbox
///
/// Files and environment as they are now; the sandbox stands still for milliseconds only. When this returns, the
/// checkpoint is on stable storage. An `Idempotency-Key` lets the request be repeated without making more.
#[utoipa::path(post, path = "/sandbox/{id}/checkpoints", tag = "checkpoints",
    params(("id" = String, Path, description = "Sandbox id"),
           ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    request_body = CreateBody,
    responses((status = 201, description = "It can be restored", body = CheckpointView)))]
pub(super) async fn create_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Submitted { value, key }: Submitted<CreateBody>,
) -> ApiResult {
    let (request, wait) = value.read(app.platform.has_vault())?;
    let (platform, counted) = (app.platform.clone(), app.clone());
    patiently(app.patience(), StatusCode::CREATED, async move {
        let checkpoint = platform.create_checkpoint(&caller, id, request, key).await?;
        counted.metrics.checkpoint_paused(checkpoint.pause_ms);
        if wait == Durability::Captured {
            return Ok(CheckpointView::from(checkpoint));
        }
        // It is made: whatever the vault says, that is the answer, and `durability` tells how far it came.
        let waited = platform.wait_for_durability(&caller, checkpoint.id, wait).await;
        Ok(CheckpointView::from(waited.unwrap_or(checkpoint)))
    })
    .await
}

/// Removes the local layer of a verified checkpoint
///
/// It comes back from the vault when the checkpoint is next restored, forked or compared.
#[utoipa::path(post, path = "/checkpoints/{id}/evict", tag = "checkpoints",
    params(("id" = String, Path, description = "Checkpoint id")),
    responses((status = 200, description = "Its layer is in the vault only", body = CheckpointView)))]
pub(super) async fn evict_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
) -> ApiResult {
    Ok(json(StatusCode::OK, &CheckpointView::from(app.platform.evict_checkpoint(&caller, id).await?)))
}

/// Lists checkpoints, newest first
#[utoipa::path(get, path = "/checkpoints", tag = "checkpoints",
    params(("sandbox_id" = Option<String>, Query, description = "Only of this sandbox"),
           ("name" = Option<String>, Query, description = "Only whose name contains this, ignoring case; exact matches come first"),
           ("name_exact" = Option<String>, Query, description = "Only with exactly this name"),
           ("order" = Option<String>, Query, description = "`desc` (default): newest first; `asc`: oldest first"),
           ("limit" = Option<u32>, Query, description = "At most so many, up to 10000; default: all")),
    responses((status = 200, description = "Of all sandboxes of the organisation, deleted ones too", body = CheckpointList)))]
pub(super) async fn list_checkpoints(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    query: Query,
) -> ApiResult {
    let filter = CheckpointFilter {
        sandbox: query.get(&["sandbox_id", "sandboxId"]).map(str::parse).transpose()?,
        name_contains: query.get(&["name"]).map(str::to_owned),
        name_exact: query.get(&["name_exact", "nameExact"]).map(str::to_owned),
        oldest_first: match query.get(&["order"]) {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(ApiError::invalid("order", "must be asc or desc")),
        },
        limit: query.count("limit", 10_000)?,
        ..CheckpointFilter::default()
    };
    let checkpoints = app.platform.list_checkpoints(&caller, filter).await?;
    Ok(json(
        StatusCode::OK,
        &CheckpointList { checkpoints: checkpoints.into_iter().map(CheckpointView::from).collect() },
    ))
}

/// Shows a checkpoint
#[utoipa::path(get, path = "/checkpoints/{id}", tag = "checkpoints", params(("id" = String, Path, description = "Checkpoint id")),
    responses((status = 200, description = "As it is now", body = DetailsView)))]
pub(super) async fn get_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
) -> ApiResult {
    let (checkpoint, status) = app.platform.checkpoint_status(&caller, id).await?;
    Ok(json(StatusCode::OK, &DetailsView::new(checkpoint, status)))
}

/// Clones a checkpoint
///
/// The clone shares the data and lives on its own: deleting either leaves the other. An `Idempotency-Key` lets the
/// request be repeated without making more.
#[utoipa::path(post, path = "/checkpoints/{id}/clone", tag = "checkpoints",
    params(("id" = String, Path, description = "Checkpoint id"),
           ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    request_body = CloneBody,
    responses((status = 201, description = "The clone", body = CheckpointView)))]
pub(super) async fn clone_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    Submitted { value: body, key }: Submitted<CloneBody>,
) -> ApiResult {
    let retention = Retention { seconds: body.retention_seconds, pinned: body.pinned };
    let platform = app.platform.clone();
    // The origin's layer may have to come back first.
    patiently(app.patience(), StatusCode::CREATED, async move {
        Ok(CheckpointView::from(platform.clone_checkpoint(&caller, id, body.name, retention, key).await?))
    })
    .await
}

/// Changes how long a checkpoint is kept
#[utoipa::path(patch, path = "/checkpoints/{id}", tag = "checkpoints", params(("id" = String, Path, description = "Checkpoint id")),
    request_body = RetainBody,
    responses((status = 200, description = "As it is now", body = CheckpointView)))]
pub(super) async fn retain_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    Json(body): Json<RetainBody>,
) -> ApiResult {
    let retention = Retention { seconds: body.retention_seconds, pinned: body.pinned };
    let checkpoint = app.platform.retain_checkpoint(&caller, id, retention).await?;
    Ok(json(StatusCode::OK, &CheckpointView::from(checkpoint)))
}

/// Stores a checkpoint again that could not be stored
///
/// Its durability is `failed`, and `durability_reason` says why; its layer was kept.
#[utoipa::path(post, path = "/checkpoints/{id}/retry", tag = "checkpoints", params(("id" = String, Path, description = "Checkpoint id")),
    request_body = RetryBody,
    responses((status = 200, description = "It is on its way again", body = CheckpointView)))]
pub(super) async fn retry_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    Json(body): Json<RetryBody>,
) -> ApiResult {
    let wait = match body.wait.as_deref() {
        None | Some("captured") => Durability::Captured,
        Some("durable") => Durability::Durable,
        Some("verified") => Durability::Verified,
        Some(_) => return Err(ApiError::invalid("wait", "must be one of captured durable verified")),
    };
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let checkpoint = platform.retry_checkpoint(&caller, id).await?;
        if wait == Durability::Captured {
            return Ok(CheckpointView::from(checkpoint));
        }
        let waited = platform.wait_for_durability(&caller, id, wait).await;
        Ok(CheckpointView::from(waited.unwrap_or(checkpoint)))
    })
    .await
}

/// Deletes a checkpoint
///
/// What was forked, restored or cloned from it stays.
#[utoipa::path(delete, path = "/checkpoints/{id}", tag = "checkpoints", params(("id" = String, Path, description = "Checkpoint id")),
    responses((status = 200, description = "It is gone", body = Done)))]
pub(super) async fn delete_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
) -> ApiResult {
    app.platform.delete_checkpoint(&caller, id).await?;
    Ok(json(StatusCode::OK, &Done::DONE))
}
