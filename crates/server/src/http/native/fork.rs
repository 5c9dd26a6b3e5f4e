//! Forking a running sandbox.

use super::{create::Wanted, quantity::Quantity, sandbox::SandboxView};
use crate::http::{
    App,
    body::Submitted,
    error::{ApiError, ApiResult},
    extract::Id,
    patience::patiently,
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::ids::{CheckpointId, SandboxId};
use forkpoint_engine::{
    Caller,
    operations::fork::{Fork, Forked},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How to fork. Everything has a default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ForkSandbox)]
#[allow(dead_code)]
pub(super) struct ForkBody {
    /// How many forks; default 1.
    count: Option<u32>,
    /// Whether those that can be made are made when others cannot (at least one); default false: all or none.
    #[schema(default = false)]
    partial: Option<bool>,
    /// Processor share of each fork; default `"1"`.
    #[schema(default = "1")]
    cpus: Option<Quantity>,
    /// Memory limit of each fork; default `"1Gi"`.
    #[schema(default = "1Gi")]
    memory: Option<Quantity>,
    /// Lifetime of each fork in seconds; default 3600.
    #[serde(alias = "timeoutSeconds")]
    #[schema(default = 3600)]
    timeout_seconds: Option<i64>,
    /// Environment variables laid over the sandbox's.
    env: Option<BTreeMap<String, String>>,
    /// The caller's own labels of each fork.
    metadata: Option<BTreeMap<String, String>>,
    /// `container`, the only one on this server.
    isolation: Option<String>,
    /// Whether the forks get the sandbox's environment; default true.
    #[serde(alias = "includeEnv")]
    #[schema(default = true)]
    include_env: Option<bool>,
    /// What the checkpoint between is called; default: after the sandbox.
    #[serde(alias = "checkpointName")]
    checkpoint_name: Option<String>,
    /// What the checkpoint is for.
    #[serde(alias = "checkpointDescription")]
    checkpoint_description: Option<String>,
    #[serde(alias = "orgId")]
    #[schema(ignore)]
    org_id: Option<String>,
    #[serde(alias = "sessionId")]
    #[schema(ignore)]
    session_id: Option<String>,
    #[schema(ignore)]
    name: Option<String>,
}

/// What a fork made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Forked)]
pub(super) struct ForkedView {
    /// What was forked.
    #[schema(value_type = String)]
    parent_id: SandboxId,
    /// The checkpoint between.
    #[schema(value_type = String)]
    checkpoint_id: CheckpointId,
    /// The first new sandbox.
    #[schema(value_type = Option<String>)]
    forked_id: Option<SandboxId>,
    /// All new sandboxes.
    forks: Vec<ForkView>,
    /// With `partial`: those that could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<Vec<FailedFork>>,
}

/// A fork that could not be made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FailedFork {
    /// Which of those asked for, from 0 on.
    index: u32,
    /// Why: `message` and `code` as in refusals.
    #[schema(value_type = Object)]
    error: Value,
}

/// One new sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ForkOf)]
pub(super) struct ForkView {
    /// Its id.
    #[schema(value_type = String)]
    forked_id: SandboxId,
    #[serde(flatten)]
    sandbox: SandboxView,
}

impl ForkedView {
    fn new(made: Forked, partial: bool) -> Self {
        let failed = made.failed.into_iter().map(|(index, error)| {
            let mut envelope = ApiError::from(error).envelope(None);
            FailedFork { index, error: envelope["error"].take() }
        });
        Self {
            failed: partial.then(|| failed.collect()),
            parent_id: made.parent,
            checkpoint_id: made.checkpoint,
            forked_id: made.forks.first().map(|sandbox| sandbox.id),
            forks: made
                .forks
                .into_iter()
                .map(|sandbox| ForkView { forked_id: sandbox.id, sandbox: sandbox.into() })
                .collect(),
        }
    }
}

/// Forks a running sandbox
///
/// Captures it and makes new sandboxes from that, all or none unless `partial`. They answer commands when this returns.
/// Where none is made, the checkpoint goes too.
#[utoipa::path(post, path = "/sandbox/{id}/fork", tag = "sandboxes",
    params(("id" = String, Path, description = "Sandbox id"),
           ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    request_body(content = ForkBody, description = "May be left out"),
    responses((status = 201, description = "They run", body = ForkedView)))]
pub(super) async fn fork_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Submitted { value: body, key }: Submitted<ForkBody>,
) -> ApiResult {
    let wanted = Wanted {
        cpus: body.cpus,
        memory: body.memory,
        timeout_seconds: body.timeout_seconds,
        env: body.env,
        metadata: body.metadata,
        isolation: body.isolation,
    };
    let fork = Fork {
        count: body.count.unwrap_or(1),
        checkpoint_name: body.checkpoint_name,
        checkpoint_description: body.checkpoint_description,
        include_env: body.include_env.unwrap_or(true),
        partial: body.partial.unwrap_or(false),
        create: wanted.read()?,
    };
    let (platform, partial) = (app.platform.clone(), fork.partial);
    patiently(app.patience(), StatusCode::CREATED, async move {
        Ok(ForkedView::new(platform.fork_sandbox(&caller, id, fork, key).await?, partial))
    })
    .await
}
