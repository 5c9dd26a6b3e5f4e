//! A sandbox and its life.

use crate::{
    Invalid,
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    limits::Limits,
    server::ServerId,
    template::TemplateRef,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// How long a sandbox lives when nothing is asked for, in seconds.
pub const DEFAULT_TIMEOUT_SECONDS: i64 = 3600;
/// The longest life that can be asked for at once, in seconds (30 days).
pub const MAX_TIMEOUT_SECONDS: i64 = 30 * 24 * 3600;

/// Where a sandbox is in its life.
///
/// ```text
/// creating ──> running ──> stopping ──> stopped ──> running …
///     │           └──(processes died)──────^
///     └──> failed
/// ```
///
/// `paused` and `hibernated` are reserved for sandboxes that gave up their compute.
/// A deleted sandbox has no state: it is gone from every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its layer and processes are being made.
    Creating,
    /// Commands can run.
    Running,
    /// Frozen in memory.
    Paused,
    /// Saved with its memory; no compute.
    Hibernated,
    /// Its processes are being ended.
    Stopping,
    /// No processes; the layer is kept and `start` brings it back.
    Stopped,
    /// Could not be made; the reason is in the record.
    Failed,
}

impl SandboxState {
    /// All states, for tests and documents.
    pub const ALL: [Self; 7] =
        [Self::Creating, Self::Running, Self::Paused, Self::Hibernated, Self::Stopping, Self::Stopped, Self::Failed];

    /// The state as clients and the database write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Hibernated => "hibernated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether the life cycle has a step from this state to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        use SandboxState::{Creating, Failed, Hibernated, Paused, Running, Stopped, Stopping};
        matches!(
            (self, next),
            (Creating, Running | Failed | Stopped)
                | (Running, Stopping | Stopped | Paused | Hibernated)
                | (Paused | Hibernated, Running | Stopping | Stopped)
                | (Stopping, Stopped)
                | (Stopped, Running)
        )
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SandboxState {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Invalid::new("state", "is not a known sandbox state"))
    }
}

/// Why a sandbox is no longer running, for people and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody asked for it.
    Requested,
    /// Its lifetime was over.
    Timeout,
    /// Its first process died.
    Died,
    /// The memory limit killed its first process.
    OutOfMemory,
    /// The host restarted.
    HostRestart,
}

impl StopReason {
    /// The reason as clients and the database write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Timeout => "timeout",
            Self::Died => "died",
            Self::OutOfMemory => "out_of_memory",
            Self::HostRestart => "host_restart",
        }
    }
}

impl FromStr for StopReason {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Requested, Self::Timeout, Self::Died, Self::OutOfMemory, Self::HostRestart]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| Invalid::new("stop_reason", "is not a known reason"))
    }
}

/// One isolated environment, as recorded. Its environment variables are kept sealed beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// Its name for ever.
    pub id: SandboxId,
    /// Whose it is.
    pub org_id: OrgId,
    /// On which server it is; never changes.
    pub server: ServerId,
    /// Where it is in its life.
    pub state: SandboxState,
    /// Why it stopped or failed, for a `stopped` or `failed` one.
    pub stop_reason: Option<StopReason>,
    /// What went wrong, for a `failed` one.
    pub failure: Option<String>,
    /// What its layer lies on.
    pub template: TemplateRef,
    /// Its private copy-on-write layer; `None` once that was removed by retention.
    pub layer: Option<LayerId>,
    /// What it may use.
    pub limits: Limits,
    /// The checkpoint it was forked from.
    pub forked_from: Option<CheckpointId>,
    /// The checkpoint that its layer last came from, by fork or restore.
    pub based_on: Option<CheckpointId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it could run commands, counted from its latest start: its life began then.
    pub ready_at: Option<Timestamp>,
    /// When it is stopped at the latest.
    pub expires_at: Timestamp,
    /// When it last stopped.
    pub stopped_at: Option<Timestamp>,
    /// How long from request to first readiness, in milliseconds.
    pub startup_ms: Option<u64>,
    /// Its address on this host while it runs.
    pub address: Option<String>,
    /// The caller's own labels.
    pub metadata: BTreeMap<String, String>,
}

/// Checks a requested lifetime in seconds and computes when it ends.
pub fn expiry(created_at: Timestamp, timeout_seconds: Option<i64>) -> Result<Timestamp, Invalid> {
    let seconds = timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    if !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
        return Err(Invalid::new("timeout_seconds", format!("must be between 1 and {MAX_TIMEOUT_SECONDS}")));
    }
    Ok(created_at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
}

impl Sandbox {
    /// When its present life began.
    pub fn began_at(&self) -> Timestamp {
        self.ready_at.unwrap_or(self.created_at)
    }
}

/// The latest end that a life which began at `began` can have.
pub fn latest_expiry(began: Timestamp) -> Timestamp {
    began.saturating_add(SignedDuration::from_secs(MAX_TIMEOUT_SECONDS)).unwrap_or(Timestamp::MAX)
}

/// Moves an expiry later; the life that began at `began` may not be longer than the longest that can be asked for.
pub fn extended_expiry(
    began: Timestamp,
    now: Timestamp,
    expires_at: Timestamp,
    additional_seconds: i64,
) -> Result<Timestamp, Invalid> {
    if !(1..=MAX_TIMEOUT_SECONDS).contains(&additional_seconds) {
        return Err(Invalid::new("additional_seconds", format!("must be between 1 and {MAX_TIMEOUT_SECONDS}")));
    }
    let later =
        expires_at.max(now).saturating_add(SignedDuration::from_secs(additional_seconds)).unwrap_or(Timestamp::MAX);
    if later > latest_expiry(began) {
        return Err(Invalid::new(
            "additional_seconds",
            format!("would let the sandbox live more than {MAX_TIMEOUT_SECONDS} seconds from its start"),
        ));
    }
    Ok(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_bounded() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(expiry(now, Some(300)).unwrap().to_string(), "2026-01-01T00:05:00Z");
        assert_eq!(expiry(now, None).unwrap().to_string(), "2026-01-01T01:00:00Z");
        for bad in [0, -1, MAX_TIMEOUT_SECONDS + 1, i64::MAX, i64::MIN] {
            assert_eq!(expiry(now, Some(bad)).unwrap_err().field, "timeout_seconds");
            assert_eq!(extended_expiry(now, now, now, bad).unwrap_err().field, "additional_seconds");
        }
    }

    #[test]
    fn extension_counts_from_the_expiry_and_is_bounded_from_the_start() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let expires = expiry(now, Some(60)).unwrap();
        assert_eq!(extended_expiry(now, now, expires, 60).unwrap().to_string(), "2026-01-01T00:02:00Z");
        assert!(extended_expiry(now, now, expires, MAX_TIMEOUT_SECONDS).is_err());
        let later = now + SignedDuration::from_secs(50);
        let most = MAX_TIMEOUT_SECONDS - 60;
        assert_eq!(extended_expiry(now, later, expires, most).unwrap(), latest_expiry(now));
        assert!(extended_expiry(now, later, expires, most + 1).is_err());
    }

    #[test]
    fn states_read_back_and_end_states_stay() {
        for state in SandboxState::ALL {
            assert_eq!(state.as_str().parse::<SandboxState>().unwrap(), state);
            assert!(!SandboxState::Failed.may_become(state));
        }
        assert!(SandboxState::Stopped.may_become(SandboxState::Running));
        assert!(!SandboxState::Stopped.may_become(SandboxState::Stopping));
    }
}
