//! Looking at sandboxes, and the rest of their life: stop, start, extend, delete.

use super::sandbox::{SandboxView, status_of};
use crate::http::{
    App,
    body::Json,
    error::ApiResult,
    extract::Id,
    patience::{json, patiently},
    time::Time,
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{
    ids::SandboxId,
    sandbox::{MAX_TIMEOUT_SECONDS, Sandbox, latest_expiry},
};
use forkpoint_engine::Caller;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The organisation's sandboxes, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SandboxList {
    sandboxes: Vec<SandboxView>,
}

/// A sandbox's condition, cheap to ask for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SandboxStatus {
    /// Which.
    #[schema(value_type = String)]
    sandbox_id: SandboxId,
    /// `creating`, `running`, `terminating`, `terminated` or `error`.
    #[schema(value_type = String)]
    status: &'static str,
    /// `creating`, `running`, `paused`, `hibernated`, `stopping`, `stopped` or `failed`.
    #[schema(value_type = String)]
    state: &'static str,
    /// When it is stopped at the latest.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
    /// The latest end that it can be extended to: the longest life, counted from its latest start.
    #[schema(value_type = String, format = DateTime)]
    max_expires_at: Time,
    /// The longest life that can be asked for at once.
    max_lifetime_seconds: i64,
    /// By how much it could be extended now.
    remaining_extend_seconds: i64,
    /// Seconds since it was made, until now or until it stopped.
    lifetime_used_seconds: i64,
    /// The same as a part of its whole life, 0 to 100.
    lifetime_used_percent: f64,
}

impl SandboxStatus {
    fn of(sandbox: &Sandbox, now: Timestamp) -> Self {
        // The same at every call: clients take it for a fact of the sandbox.
        let latest = latest_expiry(sandbox.began_at()).max(sandbox.expires_at);
        let until = sandbox.stopped_at.unwrap_or(now);
        let used = until.duration_since(sandbox.created_at).as_secs().max(0);
        let whole = sandbox.expires_at.duration_since(sandbox.created_at).as_secs().max(1);
        let percent = (used as f64 / whole as f64 * 100.0).clamp(0.0, 100.0);
        Self {
            sandbox_id: sandbox.id,
            status: status_of(sandbox.state),
            state: sandbox.state.as_str(),
            expires_at: Time(sandbox.expires_at),
            max_expires_at: Time(latest),
            max_lifetime_seconds: MAX_TIMEOUT_SECONDS,
            remaining_extend_seconds: latest.duration_since(sandbox.expires_at.max(now)).as_secs().max(0),
            lifetime_used_seconds: used,
            lifetime_used_percent: (percent * 10.0).round() / 10.0,
        }
    }
}

/// It was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Always true here.
    success: bool,
}

impl Done {
    pub(super) const DONE: Self = Self { success: true };
}

/// It was stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StoppedSandbox {
    /// Always true here.
    success: bool,
    #[serde(flatten)]
    sandbox: SandboxView,
}

/// How long it lives once it is started again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartSandbox)]
pub(super) struct StartBody {
    /// Lifetime in seconds from now; default: as it was made with.
    #[serde(alias = "timeoutSeconds")]
    timeout_seconds: Option<i64>,
}

/// How much longer it lives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExtendSandbox)]
pub(super) struct ExtendBody {
    /// Seconds added to its end.
    #[serde(alias = "additionalSeconds")]
    additional_seconds: i64,
}

/// Lists sandboxes, newest first
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes",
    responses((status = 200, description = "All of the organisation", body = SandboxList)))]
pub(super) async fn list_sandboxes(State(app): State<App>, Extension(caller): Extension<Caller>) -> ApiResult {
    let sandboxes = app.platform.list_sandboxes(&caller).await?;
    Ok(json(StatusCode::OK, &SandboxList { sandboxes: sandboxes.into_iter().map(SandboxView::from).collect() }))
}

/// Shows a sandbox
#[utoipa::path(get, path = "/sandbox/{id}", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    responses((status = 200, description = "As it is now", body = SandboxView)))]
pub(super) async fn get_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
) -> ApiResult {
    Ok(json(StatusCode::OK, &SandboxView::from(app.platform.get_sandbox(&caller, id).await?)))
}

/// Shows a sandbox's condition and how long it may live
#[utoipa::path(get, path = "/sandbox/{id}/status", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    responses((status = 200, description = "As it is now", body = SandboxStatus)))]
pub(super) async fn get_sandbox_status(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
) -> ApiResult {
    let sandbox = app.platform.get_sandbox(&caller, id).await?;
    Ok(json(StatusCode::OK, &SandboxStatus::of(&sandbox, Timestamp::now())))
}

/// Stops a sandbox
///
/// Its processes end, its files stay; `start` brings it back. Stopping a stopped one changes nothing.
#[utoipa::path(post, path = "/sandbox/{id}/stop", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    responses((status = 200, description = "It is stopped", body = StoppedSandbox)))]
pub(super) async fn stop_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let sandbox = platform.stop_sandbox(&caller, id).await?.into();
        Ok(StoppedSandbox { success: true, sandbox })
    })
    .await
}

/// Starts a stopped sandbox again
///
/// It has the files it had; processes do not come back. Starting a running one changes nothing.
#[utoipa::path(post, path = "/sandbox/{id}/start", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    request_body(content = StartBody, description = "May be left out"),
    responses((status = 200, description = "It runs", body = SandboxView)))]
pub(super) async fn start_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<StartBody>,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        Ok(SandboxView::from(platform.start_sandbox(&caller, id, body.timeout_seconds).await?))
    })
    .await
}

/// Moves the end of a sandbox's life later
#[utoipa::path(post, path = "/sandbox/{id}/extend", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    request_body = ExtendBody,
    responses((status = 200, description = "With its new end", body = SandboxView)))]
pub(super) async fn extend_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<ExtendBody>,
) -> ApiResult {
    let sandbox = app.platform.extend_sandbox(&caller, id, body.additional_seconds).await?;
    Ok(json(StatusCode::OK, &SandboxView::from(sandbox)))
}

/// Deletes a sandbox
///
/// Its processes end and its files go. Its checkpoints stay.
#[utoipa::path(delete, path = "/sandbox/{id}", tag = "sandboxes", params(("id" = String, Path, description = "Sandbox id")),
    responses((status = 200, description = "It is gone", body = Done)))]
pub(super) async fn delete_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        platform.delete_sandbox(&caller, id).await?;
        Ok(Done::DONE)
    })
    .await
}
