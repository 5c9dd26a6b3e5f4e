//! What happened, as it is told to listeners and kept in the event log.

use crate::ids::{CheckpointId, EventId, OrgId, SandboxId};
use jiff::Timestamp;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name; ordered by time.
    pub id: EventId,
    /// Whose it is.
    pub org_id: OrgId,
    /// What it happened to.
    pub sandbox_id: Option<SandboxId>,
    /// The checkpoint concerned.
    pub checkpoint_id: Option<CheckpointId>,
    /// What happened, e.g. `sandbox.ready`.
    pub kind: EventKind,
    /// Details, a JSON object.
    pub data: serde_json::Value,
    /// When.
    pub at: Timestamp,
}

/// The kinds of events that the log knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A sandbox was asked for.
    SandboxCreated,
    /// A sandbox can run commands.
    SandboxReady,
    /// A sandbox was stopped.
    SandboxStopped,
    /// A sandbox could not be made or died.
    SandboxError,
    /// A sandbox's lifetime was over.
    SandboxTimeout,
    /// A sandbox was deleted.
    SandboxDeleted,
    /// A checkpoint was made.
    CheckpointCreated,
    /// A checkpoint was restored.
    CheckpointRestored,
    /// A checkpoint was cloned.
    CheckpointCloned,
    /// A checkpoint was deleted.
    CheckpointDeleted,
}

impl EventKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SandboxCreated => "sandbox.created",
            Self::SandboxReady => "sandbox.ready",
            Self::SandboxStopped => "sandbox.stopped",
            Self::SandboxError => "sandbox.error",
            Self::SandboxTimeout => "sandbox.timeout",
            Self::SandboxDeleted => "sandbox.deleted",
            Self::CheckpointCreated => "checkpoint.created",
            Self::CheckpointRestored => "checkpoint.restored",
            Self::CheckpointCloned => "checkpoint.cloned",
            Self::CheckpointDeleted => "checkpoint.deleted",
        }
    }
}
