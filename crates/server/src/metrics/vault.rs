//! What is told of the vault and of checkpoints on their way into it.

use super::StateLabels;
use forkpoint_engine::operations::vault_status::VaultFigures;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::atomic::Ordering;

/// The engine counts; here its figures are only shown.
#[derive(Debug)]
pub(super) struct VaultMetrics {
    checkpoints: Family<StateLabels, Gauge>,
    oldest: Gauge,
    done: Family<StateLabels, Counter>,
    sent: Counter,
    evicted: Counter,
    brought_back: Counter,
    hot: Gauge,
    damaged: Gauge,
}

impl VaultMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            checkpoints: Family::default(),
            oldest: Gauge::default(),
            done: Family::default(),
            sent: Counter::default(),
            evicted: Counter::default(),
            brought_back: Counter::default(),
            hot: Gauge::default(),
            damaged: Gauge::default(),
        };
        registry.register(
            "vault_queue",
            "Checkpoints that wait to be stored (captured) or read back (durable), or could not be stored (failed)",
            metrics.checkpoints.clone(),
        );
        registry.register_with_unit(
            "vault_queue_oldest",
            "For how long the oldest checkpoint that waits has waited",
            Unit::Seconds,
            metrics.oldest.clone(),
        );
        registry.register(
            "vault_checkpoints",
            "Checkpoints that became durable, verified or failed since the server started",
            metrics.done.clone(),
        );
        registry.register_with_unit(
            "vault_sent",
            "Bytes written to the store since the server started",
            Unit::Bytes,
            metrics.sent.clone(),
        );
        registry.register(
            "hot_layers_evicted",
            "Layers of verified checkpoints that were removed from this machine",
            metrics.evicted.clone(),
        );
        registry.register(
            "hot_layers_brought_back",
            "Layers that were brought back from the vault",
            metrics.brought_back.clone(),
        );
        registry.register_with_unit(
            "hot_layers",
            "Layers of checkpoints on this machine, by the sizes of their files",
            Unit::Bytes,
            metrics.hot.clone(),
        );
        registry.register(
            "vault_damaged_objects",
            "Stored objects that gave wrong bytes, and are neither mended nor found whole since",
            metrics.damaged.clone(),
        );
        metrics
    }

    pub(super) fn set(&self, figures: VaultFigures) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, count) in [
            ("captured", figures.waiting_to_store),
            ("durable", figures.waiting_to_verify),
            ("failed", figures.failed_now),
        ] {
            self.checkpoints.get_or_create(&StateLabels { state }).set(gauge(count));
        }
        self.oldest.set(gauge(figures.oldest_waits_seconds));
        for (state, count) in [("durable", figures.stored), ("verified", figures.verified), ("failed", figures.failed)]
        {
            raise(&self.done.get_or_create(&StateLabels { state }), count);
        }
        raise(&self.sent, figures.bytes_sent);
        raise(&self.evicted, figures.evicted);
        raise(&self.brought_back, figures.brought_back);
        self.hot.set(gauge(figures.hot_layer_bytes));
        self.damaged.set(gauge(figures.damaged_objects));
    }
}

/// Brings a counter to where the engine's is; two that ask at once do not add up.
fn raise(counter: &Counter, to: u64) {
    counter.inner().fetch_max(to, Ordering::Relaxed);
}
