//! Prometheus metrics of the HTTP side.

mod vault;

use crate::options::SandboxCounts;
use axum::http::{Method, StatusCode};
use forkpoint_domain::sandbox::SandboxState;
use forkpoint_engine::operations::vault_status::VaultFigures;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};
use vault::VaultMetrics;

/// Everything that is counted. Labels come from fixed sets only: routes are templates, never paths.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    execs: Family<ExecLabels, Counter>,
    checkpoint_pauses: Histogram,
    sandboxes: Family<StateLabels, Gauge>,
    vault: VaultMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExecLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabels {
    state: &'static str,
}

/// How a command went, as far as the caller was told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ExecOutcome {
    Exited,
    TimedOut,
    Lost,
    Abandoned,
}

fn request_histogram() -> Histogram {
    // 0.5 ms to 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("forkpoint");
        let requests = Family::default();
        let durations: Family<RouteLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(request_histogram);
        let in_flight = Gauge::default();
        let execs = Family::default();
        // 0.5 ms to 1 s.
        let checkpoint_pauses = Histogram::new(exponential_buckets(0.0005, 2.0, 12));
        let sandboxes = Family::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        registry.register(
            "http_requests",
            "Requests answered, by route template, method and status class",
            requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time until a response began",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("http_requests_in_flight", "Requests whose response has not begun", in_flight.clone());
        registry.register("execs", "Commands run, by outcome", execs.clone());
        registry.register_with_unit(
            "checkpoint_pause",
            "How long a sandbox stood still for a checkpoint",
            Unit::Seconds,
            checkpoint_pauses.clone(),
        );
        registry.register("sandboxes", "Sandboxes by state", sandboxes.clone());
        let vault = VaultMetrics::register(&mut registry);
        Self { registry, requests, durations, in_flight, execs, checkpoint_pauses, sandboxes, vault }
    }

    /// Counts a request from now until the guard is dropped.
    pub(crate) fn begin_request(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(crate) fn end_request(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let method = method_label(method);
        let status = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), method, status }).inc();
        self.durations.get_or_create(&RouteLabels { route: route.to_owned(), method }).observe(took.as_secs_f64());
    }

    pub(crate) fn exec_ended(&self, outcome: ExecOutcome) {
        let outcome = match outcome {
            ExecOutcome::Exited => "exited",
            ExecOutcome::TimedOut => "timed_out",
            ExecOutcome::Lost => "lost",
            ExecOutcome::Abandoned => "abandoned",
        };
        self.execs.get_or_create(&ExecLabels { outcome }).inc();
    }

    pub(crate) fn checkpoint_paused(&self, pause_ms: f64) {
        self.checkpoint_pauses.observe(pause_ms / 1000.0);
    }

    /// Everything in the OpenMetrics text format.
    pub(crate) async fn render(
        &self,
        sandboxes: Option<&SandboxCounts>,
        vault: Option<VaultFigures>,
    ) -> Result<String, fmt::Error> {
        self.vault.set(vault.unwrap_or_default());
        if let Some(counts) = sandboxes {
            let counts = counts.count().await;
            for state in SandboxState::ALL {
                let count: u64 = counts.iter().filter(|(one, _)| *one == state).map(|(_, count)| count).sum();
                self.sandboxes
                    .get_or_create(&StateLabels { state: state.as_str() })
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A request whose response has not begun.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Methods are the peer's text: only known ones become labels.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
