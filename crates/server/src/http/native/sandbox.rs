//! A sandbox as this dialect shows it.

use crate::http::time::Time;
use forkpoint_domain::{
    ids::{CheckpointId, OrgId, SandboxId},
    sandbox::{Sandbox, SandboxState},
};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sandbox)]
pub(super) struct SandboxView {
    /// Its name for ever.
    #[schema(value_type = String, example = "sb-01890a5d-ac96-774b-bcce-b302099a8057")]
    id: SandboxId,
    /// The same as `id`.
    #[schema(value_type = String)]
    sandbox_id: SandboxId,
    /// Whose it is.
    #[schema(value_type = String)]
    org_id: OrgId,
    /// `sess-` and the same UUID.
    session_id: String,
    /// `creating`, `running`, `terminating`, `terminated` or `error`.
    #[schema(value_type = String)]
    status: &'static str,
    /// `creating`, `running`, `paused`, `hibernated`, `stopping`, `stopped` or `failed`.
    #[schema(value_type = String)]
    state: &'static str,
    /// Name of its template.
    template: String,
    /// Which version of the template.
    template_digest: String,
    /// Processor share.
    #[schema(example = "1")]
    cpus: String,
    /// Memory limit.
    #[schema(example = "1Gi")]
    memory: String,
    /// Bytes that its own layer may hold.
    disk_bytes: u64,
    /// Processes and threads that it may have.
    pids: u32,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When it first could run commands.
    #[schema(value_type = Option<String>, format = DateTime)]
    ready_at: Option<Time>,
    /// When it is stopped at the latest.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Time,
    /// From request to first readiness, in milliseconds.
    startup_ms: Option<u64>,
    /// Its address on the host while it runs.
    pod_ip: Option<String>,
    /// The checkpoint it was forked from.
    #[schema(value_type = Option<String>)]
    forked_from: Option<CheckpointId>,
    /// The checkpoint that its files last came from, by fork, restore or capture.
    #[schema(value_type = Option<String>)]
    based_on: Option<CheckpointId>,
    /// The caller's own labels.
    metadata: BTreeMap<String, String>,
    /// Why it is not running, e.g. `requested`, `timeout`.
    #[schema(value_type = Option<String>)]
    stop_reason: Option<&'static str>,
    /// What went wrong, for a failed one.
    failure: Option<String>,
}

impl From<Sandbox> for SandboxView {
    fn from(sandbox: Sandbox) -> Self {
        let (cpus, memory) = sandbox.limits.display();
        Self {
            id: sandbox.id,
            sandbox_id: sandbox.id,
            org_id: sandbox.org_id,
            session_id: format!("sess-{}", sandbox.id.uuid()),
            status: status_of(sandbox.state),
            state: sandbox.state.as_str(),
            template: sandbox.template.name.to_string(),
            template_digest: sandbox.template.digest,
            cpus,
            memory,
            disk_bytes: sandbox.limits.disk_bytes,
            pids: sandbox.limits.pids,
            created_at: Time(sandbox.created_at),
            ready_at: sandbox.ready_at.map(Time),
            expires_at: Time(sandbox.expires_at),
            startup_ms: sandbox.startup_ms,
            pod_ip: sandbox.address,
            forked_from: sandbox.forked_from,
            based_on: sandbox.based_on,
            metadata: sandbox.metadata,
            stop_reason: sandbox.stop_reason.map(|reason| reason.as_str()),
            failure: sandbox.failure,
        }
    }
}

/// The five words that published clients know.
pub(super) fn status_of(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Creating => "creating",
        SandboxState::Running | SandboxState::Paused | SandboxState::Hibernated => "running",
        SandboxState::Stopping => "terminating",
        SandboxState::Stopped => "terminated",
        SandboxState::Failed => "error",
    }
}
