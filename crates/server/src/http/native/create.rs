//! Making sandboxes.

use super::{quantity::Quantity, sandbox::SandboxView};
use crate::http::{
    App,
    body::Submitted,
    error::{ApiError, ApiResult},
    patience::patiently,
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{
    checkpoint::check_metadata,
    env::Environment,
    ids::CheckpointId,
    limits::{parse_cpus, parse_memory},
    template::TemplateName,
};
use forkpoint_engine::{
    Caller,
    operations::{create::CreateSandbox, idempotency::IdempotencyKey},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The only isolation that this server has.
const ISOLATION: &str = "container";

/// What is to be made. Everything has a default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateSandbox)]
#[allow(dead_code)]
pub(super) struct CreateBody {
    /// Template to start from (alias `template_id`); default `default`. With a checkpoint, leave it out.
    #[serde(alias = "template_id", alias = "templateId")]
    template: Option<String>,
    /// Checkpoint to start from (alias `snapshot_id`).
    #[serde(alias = "checkpointId", alias = "snapshot_id", alias = "snapshotId")]
    checkpoint_id: Option<String>,
    /// How many to make, all or none; default 1.
    count: Option<u32>,
    /// Processor share: `"1"`, `"0.5"` or `"500m"`; default `"1"`.
    #[schema(default = "1")]
    cpus: Option<Quantity>,
    /// Memory limit: `"512Mi"`, `"1Gi"` or bytes; default `"1Gi"`.
    #[schema(default = "1Gi")]
    memory: Option<Quantity>,
    /// Lifetime in seconds, at most 2592000; default 3600.
    #[serde(alias = "timeoutSeconds")]
    #[schema(default = 3600, minimum = 1, maximum = 2592000)]
    timeout_seconds: Option<i64>,
    /// Environment variables of every command, laid over those of the checkpoint.
    env: Option<BTreeMap<String, String>>,
    /// The caller's own labels, at most 10 KB as compact JSON.
    metadata: Option<BTreeMap<String, String>>,
    /// `container`, the only one on this server.
    isolation: Option<String>,
    /// Not supported: templates take its place.
    #[schema(ignore)]
    image: Option<Value>,
    /// Not supported.
    #[serde(alias = "desktopOs")]
    #[schema(ignore)]
    desktop_os: Option<Value>,
    /// Ignored: the key says it.
    #[serde(alias = "orgId")]
    #[schema(ignore)]
    org_id: Option<String>,
    /// Ignored: each sandbox has its own.
    #[serde(alias = "sessionId")]
    #[schema(ignore)]
    session_id: Option<String>,
    /// Ignored: labels go into `metadata`.
    #[schema(ignore)]
    name: Option<String>,
}

/// What sizes, lives and variables are asked for, checked.
pub(super) struct Wanted {
    pub(super) cpus: Option<Quantity>,
    pub(super) memory: Option<Quantity>,
    pub(super) timeout_seconds: Option<i64>,
    pub(super) env: Option<BTreeMap<String, String>>,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    pub(super) isolation: Option<String>,
}

impl Wanted {
    /// Reads the fields that create and fork share.
    pub(super) fn read(self) -> ApiResult<CreateSandbox> {
        if let Some(isolation) = self.isolation.filter(|isolation| isolation != ISOLATION) {
            let isolation: String = isolation.chars().take(64).collect();
            let message = format!("isolation '{isolation}' is not available on this server; available: {ISOLATION}");
            return Err(ApiError::conflict("isolation_unavailable", message).detail("available", vec![ISOLATION]));
        }
        let metadata = self.metadata.unwrap_or_default();
        check_metadata(&metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect())?;
        Ok(CreateSandbox {
            template: None,
            checkpoint: None,
            cpu_millis: self.cpus.map(|text| parse_cpus(&text.0)).transpose()?,
            memory_bytes: self.memory.map(|text| parse_memory(&text.0)).transpose()?,
            timeout_seconds: self.timeout_seconds,
            env: Environment::parse("env", self.env.unwrap_or_default())?,
            metadata,
        })
    }
}

impl CreateBody {
    fn read(self) -> ApiResult<(CreateSandbox, u32)> {
        if self.image.is_some() {
            return Err(ApiError::invalid("image", "is not supported; name a template instead"));
        }
        if self.desktop_os.is_some() {
            return Err(ApiError::invalid("desktop_os", "is not supported on this server"));
        }
        let template = self.template.as_deref().map(TemplateName::parse).transpose()?;
        let checkpoint = self.checkpoint_id.as_deref().map(str::parse::<CheckpointId>).transpose()?;
        let wanted = Wanted {
            cpus: self.cpus,
            memory: self.memory,
            timeout_seconds: self.timeout_seconds,
            env: self.env,
            metadata: self.metadata,
            isolation: self.isolation,
        };
        Ok((CreateSandbox { template, checkpoint, ..wanted.read()? }, self.count.unwrap_or(1)))
    }
}

/// The sandbox that was made; with `count`, the first one, and all of them in `sandboxes`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedSandbox {
    #[serde(flatten)]
    first: SandboxView,
    /// All that were made, if `count` was given and is not 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandboxes: Option<Vec<SandboxView>>,
}

/// Makes a sandbox
///
/// It answers commands when this returns. An `Idempotency-Key` lets the request be repeated without making more.
#[utoipa::path(post, path = "/sandbox/create", tag = "sandboxes", request_body(content = CreateBody, description = "What to make"),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    responses((status = 201, description = "It runs", body = CreatedSandbox)))]
pub(super) async fn create_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Submitted { value, key }: Submitted<CreateBody>,
) -> ApiResult {
    let (request, count) = value.read()?;
    make(&app, caller, request, count, key).await
}

/// Makes sandboxes and answers with them.
pub(super) async fn make(
    app: &App,
    caller: Caller,
    request: CreateSandbox,
    count: u32,
    key: Option<IdempotencyKey>,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::CREATED, async move {
        let made = platform.create_sandboxes(&caller, request, count, key).await?;
        let views = || made.iter().cloned().map(SandboxView::from);
        // The engine makes at least one.
        let first = views().next().ok_or_else(|| ApiError::invalid("count", "must be at least 1"))?;
        let sandboxes = (count != 1).then(|| views().collect());
        Ok(CreatedSandbox { first, sandboxes })
    })
    .await
}

/// Makes a sandbox (short path)
///
/// The same as `POST /sandbox/create`.
#[utoipa::path(post, path = "/sandbox", tag = "sandboxes", request_body(content = CreateBody, description = "What to make"),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    responses((status = 201, description = "It runs", body = CreatedSandbox)))]
pub(super) async fn create_sandbox_short(
    state: State<App>,
    caller: Extension<Caller>,
    submitted: Submitted<CreateBody>,
) -> ApiResult {
    create_sandbox(state, caller, submitted).await
}
