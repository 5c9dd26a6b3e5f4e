//! Checkpoints that leave and come in as archives, and proofs that they are what they were.

use super::{checkpoint::CheckpointView, files::raw::incoming};
use crate::http::{
    App,
    error::{ApiError, ApiResult},
    extract::{Id, Query, idempotency_key},
    patience::{json, patiently},
};
use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use forkpoint_domain::{checkpoint::check_name, ids::CheckpointId, path::SandboxPath};
use forkpoint_engine::{
    Caller,
    operations::{
        portable::{ExportCheckpoint, import::ImportCheckpoint},
        verify::Verification,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

/// Names the hash of the tree in an archive.
const CHECKSUM: HeaderName = HeaderName::from_static("x-forkpoint-checksum");

/// What verifying a checkpoint gave.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Verification)]
pub(super) struct VerificationView {
    /// Which.
    #[schema(value_type = String)]
    id: CheckpointId,
    /// The hash of its tree as computed from what was read, which is its checksum.
    checksum: String,
    /// How far it is stored.
    #[schema(value_type = String)]
    durability: &'static str,
    /// Directories that were read.
    directories: u64,
    /// Files that were read.
    files: u64,
    /// Bytes of content that were read.
    bytes: u64,
}

impl From<Verification> for VerificationView {
    fn from(done: Verification) -> Self {
        Self {
            id: done.checkpoint.id,
            checksum: done.checksum,
            durability: done.checkpoint.durability.as_str(),
            directories: done.directories,
            files: done.files,
            bytes: done.bytes,
        }
    }
}

/// Exports a checkpoint as an OCI image layout
///
/// A tar archive: the template as one layer, what was changed as another, and where it comes from in the manifest's
/// annotations. Environment variables are left out unless asked for. Everything is read before the answer begins; a
/// failure after that breaks the connection off.
#[utoipa::path(get, path = "/checkpoints/{id}/export", tag = "checkpoints",
    params(("id" = String, Path, description = "Checkpoint id"),
           ("env" = Option<bool>, Query, description = "Whether the environment is in the archive, in clear; default false"),
           ("template" = Option<bool>, Query, description = "Whether the template is in the archive; default true")),
    responses((status = 200, description = "The archive; `x-forkpoint-checksum` is the hash of the tree in it",
               body = Vec<u8>, content_type = "application/x-tar"),
              (status = 409, description = "It cannot be in an image, or is not what its checksum says",
               body = crate::http::error::ErrorEnvelope)))]
pub(super) async fn export_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    query: Query,
) -> ApiResult {
    let request = ExportCheckpoint {
        with_env: query.flag("env")?.unwrap_or(false),
        with_template: query.flag("template")?.unwrap_or(true),
    };
    let exported = app.platform.export_checkpoint(&caller, id, request).await?;
    let mut response = Response::new(Body::from_stream(exported.content));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, exported.size.into());
    for (name, text) in
        [(CHECKSUM, exported.checksum), (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar\""))]
    {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Imports a checkpoint
///
/// The body is an archive as `export` gives it, from this server or another. Everything in it is checked, and the files
/// must have the hash that it says: then the checkpoint is one like any other, with the same checksum. If its template
/// is not here, it is made of the one in the archive, as a template of the organisation. An `Idempotency-Key` lets the
/// request be repeated without making more.
#[utoipa::path(post, path = "/checkpoints/import", tag = "checkpoints",
    params(("name" = Option<String>, Query, description = "What it is called; default: as in the archive"),
           ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "The archive, uncompressed"),
    responses((status = 201, description = "It can be restored and forked", body = CheckpointView),
              (status = 400, description = "The archive is damaged, hostile or none; nothing was kept",
               body = crate::http::error::ErrorEnvelope),
              (status = 409, description = "Its template is neither here nor in the archive",
               body = crate::http::error::ErrorEnvelope),
              (status = 413, description = "It holds more than a checkpoint may; nothing was kept",
               body = crate::http::error::ErrorEnvelope)))]
pub(super) async fn import_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    query: Query,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let name = query.get(&["name"]).map(str::to_owned);
    if let Some(name) = &name {
        check_name(name)?;
    }
    let request = ImportCheckpoint {
        name,
        size: headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
        key: idempotency_key(&method, &uri, &headers, b"")?.map(|key| key.key),
    };
    let archive = app.platform.receive_archive(&caller, request, incoming(body)).await?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::CREATED, async move {
        Ok(CheckpointView::from(platform.import_checkpoint(&caller, archive).await?))
    })
    .await
}

/// Verifies a checkpoint
///
/// Reads all of it back from the vault and hashes it again; nothing is taken on trust.
#[utoipa::path(post, path = "/checkpoints/{id}/verify", tag = "checkpoints",
    params(("id" = String, Path, description = "Checkpoint id")),
    responses((status = 200, description = "It is what its checksum says", body = VerificationView),
              (status = 409, description = "It is damaged, or not in a vault", body = crate::http::error::ErrorEnvelope)))]
pub(super) async fn verify_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        Ok(VerificationView::from(platform.verify_checkpoint(&caller, id).await?))
    })
    .await
}

/// Proves that a file is in a checkpoint
///
/// The way through the hash tree from the file's record to the checksum: whoever knows the checksum can check it
/// without server, store or key. Only what the checkpoint holds besides its template can be proven.
#[utoipa::path(get, path = "/checkpoints/{id}/proof", tag = "checkpoints",
    params(("id" = String, Path, description = "Checkpoint id"),
           ("path" = String, Query, description = "Absolute path inside")),
    responses((status = 200, description = "The proof", body = serde_json::Value),
              (status = 409, description = "It is damaged, or not in a vault", body = crate::http::error::ErrorEnvelope)))]
pub(super) async fn prove_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    query: Query,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.required("path")?)?;
    let proof = app.platform.prove_file(&caller, id, &path).await.map_err(ApiError::from)?;
    Ok(json(StatusCode::OK, &proof))
}
