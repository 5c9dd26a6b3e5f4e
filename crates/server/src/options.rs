//! What whoever starts the server decides about its HTTP side.

use forkpoint_domain::sandbox::SandboxState;
use futures::future::BoxFuture;
use std::{fmt, num::NonZeroU32, sync::Arc};
use tokio::sync::watch;

/// Whether requests can be served yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Requests are refused before any effect.
    NotYet {
        /// For programs, snake case, e.g. `preparing_template`.
        reason: &'static str,
        /// For people, e.g. `unpacking packages, 120 of 310`.
        progress: String,
    },
    /// Sandboxes can be created.
    Ready,
}

impl Readiness {
    /// Not yet, for `reason`, with `progress` for people.
    pub fn not_yet(reason: &'static str, progress: impl Into<String>) -> Self {
        Self::NotYet { reason, progress: progress.into() }
    }
}

/// Counts sandboxes by state when metrics are asked for.
#[derive(Clone)]
pub struct SandboxCounts(Arc<CountFn>);

type CountFn = dyn Fn() -> BoxFuture<'static, Vec<(SandboxState, u64)>> + Send + Sync;

impl SandboxCounts {
    /// Wraps what counts; a state that is not in its answer shows as 0.
    pub fn new(count: impl Fn() -> BoxFuture<'static, Vec<(SandboxState, u64)>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    pub(crate) async fn count(&self) -> Vec<(SandboxState, u64)> {
        (self.0)().await
    }
}

impl fmt::Debug for SandboxCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SandboxCounts")
    }
}

/// What can be set of the routes.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Whether requests can be served; `/readyz` shows it.
    pub ready: watch::Receiver<Readiness>,
    /// Whether `/metrics` is served (to anybody who reaches the port).
    pub metrics: bool,
    /// What `/metrics` tells about sandboxes; `None`: nothing.
    pub sandbox_counts: Option<SandboxCounts>,
    /// How many requests a key may make in a minute, also at once; `None`: any number.
    pub rate_limit_per_minute: Option<NonZeroU32>,
    /// How many registrations one address may make in a minute; `None`: any number.
    pub register_limit_per_minute: Option<NonZeroU32>,
}

impl ServerOptions {
    /// Metrics on, keys unlimited, 120 registrations a minute and address.
    pub fn new(ready: watch::Receiver<Readiness>) -> Self {
        Self {
            ready,
            metrics: true,
            sandbox_counts: None,
            rate_limit_per_minute: None,
            register_limit_per_minute: NonZeroU32::new(120),
        }
    }
}
