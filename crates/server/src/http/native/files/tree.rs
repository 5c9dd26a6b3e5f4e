//! The tree: listing, finding, making directories, moving, copying, removing.

use super::{EntryView, json::listing};
use crate::http::{
    App,
    body::Json,
    error::{ApiError, ApiResult},
    extract::{Id, Query},
    native::sandboxes::Done,
    patience::{json, patiently},
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{ids::SandboxId, path::SandboxPath};
use forkpoint_engine::Caller;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const HOME: &str = "/workspace";

/// What was found, by path.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct FileList {
    pub(super) files: Vec<EntryView>,
    /// Whether there were more than are listed at once.
    pub(super) truncated: bool,
}

/// What to find.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GlobFiles)]
pub(in super::super) struct GlobBody {
    /// `*` and `?` stay inside one path part, `**` crosses them. A relative pattern starts at `path`.
    #[schema(example = "/workspace/**/*.py")]
    pattern: String,
    /// Where a relative pattern starts; default `/workspace`.
    path: Option<String>,
}

/// A directory to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MakeDirectory)]
pub(in super::super) struct DirectoryBody {
    /// Absolute path.
    path: String,
    /// Whether parents are made too and one that is there is fine. Default true.
    #[schema(default = true)]
    recursive: Option<bool>,
}

/// What to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RemoveFile)]
pub(in super::super) struct RemoveBody {
    /// Absolute path; may be given as query parameter instead.
    path: Option<String>,
    /// Whether a directory is removed with all below it. Default false.
    #[schema(default = false)]
    recursive: Option<bool>,
}

/// From where to where.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MoveFile)]
pub(in super::super) struct PairBody {
    /// Absolute path of what is there.
    source: String,
    /// Absolute path of what is to be there.
    destination: String,
}

impl PairBody {
    fn read(&self) -> ApiResult<(SandboxPath, SandboxPath)> {
        Ok((SandboxPath::parse("source", &self.source)?, SandboxPath::parse("destination", &self.destination)?))
    }
}

/// Lists a directory
#[utoipa::path(get, path = "/sandbox/{id}/files/list", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"),
           ("path" = Option<String>, Query, description = "Absolute path; default `/workspace`"),
           ("recursive" = Option<bool>, Query, description = "Whether what lies deeper is listed too; default false")),
    responses((status = 200, description = "Its entries", body = FileList)))]
pub(in super::super) async fn list_files(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    query: Query,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.get(&["path"]).unwrap_or(HOME))?;
    let recursive = query.flag("recursive")?.unwrap_or(false);
    Ok(listing(app.platform.list_files(&caller, id, &path, recursive).await?))
}

/// Finds files by pattern
#[utoipa::path(post, path = "/sandbox/{id}/files/glob", tag = "files", params(("id" = String, Path, description = "Sandbox id")),
    request_body = GlobBody,
    responses((status = 200, description = "What matches", body = FileList)))]
pub(in super::super) async fn glob_files(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<GlobBody>,
) -> ApiResult {
    let pattern = if body.pattern.starts_with('/') || body.pattern.is_empty() {
        SandboxPath::parse("pattern", &body.pattern)?
    } else {
        let start = SandboxPath::parse("path", body.path.as_deref().unwrap_or(HOME))?;
        SandboxPath::parse("pattern", &format!("{start}/{}", body.pattern))?
    };
    Ok(listing(app.platform.glob_files(&caller, id, &pattern).await?))
}

/// Makes a directory
#[utoipa::path(post, path = "/sandbox/{id}/files/mkdir", tag = "files", params(("id" = String, Path, description = "Sandbox id")),
    request_body = DirectoryBody,
    responses((status = 200, description = "It is there", body = Done)))]
pub(in super::super) async fn make_directory(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<DirectoryBody>,
) -> ApiResult {
    let path = SandboxPath::parse("path", &body.path)?;
    app.platform.make_directory(&caller, id, &path, body.recursive.unwrap_or(true)).await?;
    Ok(json(StatusCode::OK, &Done::DONE))
}

/// Moves a file or directory
#[utoipa::path(post, path = "/sandbox/{id}/files/move", tag = "files", params(("id" = String, Path, description = "Sandbox id")),
    request_body = PairBody,
    responses((status = 200, description = "It is moved", body = Done)))]
pub(in super::super) async fn move_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<PairBody>,
) -> ApiResult {
    let (source, destination) = body.read()?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        platform.move_file(&caller, id, &source, &destination).await?;
        Ok(Done::DONE)
    })
    .await
}

/// Copies a file or directory
#[utoipa::path(post, path = "/sandbox/{id}/files/copy", tag = "files", params(("id" = String, Path, description = "Sandbox id")),
    request_body = PairBody,
    responses((status = 200, description = "It is copied", body = Done)))]
pub(in super::super) async fn copy_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<PairBody>,
) -> ApiResult {
    let (source, destination) = body.read()?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        platform.copy_file(&caller, id, &source, &destination).await?;
        Ok(Done::DONE)
    })
    .await
}

/// Removes a file or directory
#[utoipa::path(delete, path = "/sandbox/{id}/files", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"),
           ("path" = Option<String>, Query, description = "Absolute path, if it is not in the body"),
           ("recursive" = Option<bool>, Query, description = "Whether a directory is removed with all below it; default false")),
    request_body(content = RemoveBody, description = "May be left out if the query says it"),
    responses((status = 200, description = "It is gone", body = Done)))]
pub(in super::super) async fn remove_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    query: Query,
    Json(body): Json<RemoveBody>,
) -> ApiResult {
    let path = body.path.as_deref().or(query.get(&["path"])).ok_or_else(|| ApiError::invalid("path", "is required"))?;
    let path = SandboxPath::parse("path", path)?;
    let recursive = match body.recursive {
        Some(recursive) => recursive,
        None => query.flag("recursive")?.unwrap_or(false),
    };
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        platform.remove_file(&caller, id, &path, recursive).await?;
        Ok(Done::DONE)
    })
    .await
}
