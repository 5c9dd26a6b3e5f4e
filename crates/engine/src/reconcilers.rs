//! What keeps records and host in step: at start, on a timer, and when something ends by itself.
//!
//! Each pass takes no input but the present state, can be run again at any time, and is interrupted harmlessly.

mod builds;
pub(crate) mod durability;
mod expiry;
mod garbage;
mod hot_layers;
mod mending;
mod sandboxes;

use crate::{Platform, platform::servers::RENEW_EVERY};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often lifetimes are looked at.
const EXPIRY_EVERY: Duration = Duration::from_millis(500);
/// How often records and host are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(15);
/// How often it is looked whether what checkpoints take in the vault must be counted again.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How often checkpoints whose retention is over are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(1);
/// How often old records, layers of stopped sandboxes and unused layers are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(60);
/// How often bytes that no checkpoint needs are removed from the vault.
const COLLECT_VAULT_EVERY: Duration = Duration::from_secs(3600);

impl Platform {
    /// Brings records and host in step after a start, before requests are taken.
    pub async fn recover(&self) {
        self.finish_interrupted().await;
        self.compare_with_host(true).await;
        self.inner.runtime.recovered().await;
        self.end_lost_builds().await;
        self.bound_build_cache().await;
        self.collect_garbage().await;
    }

    /// Runs the reconcilers until the set is dropped. `host` and `address` are what other servers are told of this one.
    pub fn start_reconcilers(&self, host: String, address: String) -> JoinSet<()> {
        let mut set = JoinSet::new();
        if self.inner.records.is_shared() {
            let platform = self.clone();
            set.spawn(async move {
                every(RENEW_EVERY, || async {
                    if let Err(error) = platform.announce(&host, &address).await {
                        tracing::warn!(%error, "could not tell the other servers that this one lives");
                    }
                })
                .await;
            });
        }
        let platform = self.clone();
        set.spawn(async move { every(EXPIRY_EVERY, || platform.expire_sandboxes()).await });
        let platform = self.clone();
        set.spawn(async move {
            every(COMPARE_EVERY, || async {
                platform.finish_interrupted().await;
                platform.compare_with_host(false).await;
                platform.end_lost_builds().await;
            })
            .await;
        });
        let platform = self.clone();
        set.spawn(async move {
            every(COLLECT_EVERY, || async {
                platform.forget_old().await;
                platform.bound_build_cache().await;
                platform.collect_garbage().await;
            })
            .await;
        });
        let platform = self.clone();
        set.spawn(async move { every(RETENTION_EVERY, || platform.apply_retention()).await });
        if self.inner.vault.is_some() {
            let platform = self.clone();
            set.spawn(async move { platform.keep_persisting().await });
            let platform = self.clone();
            set.spawn(async move { platform.keep_mending().await });
            let platform = self.clone();
            set.spawn(async move { platform.keep_hot_layers_within_budget().await });
            let platform = self.clone();
            set.spawn(async move { every(COUNT_EVERY, || platform.count_usage()).await });
            let platform = self.clone();
            set.spawn(async move { every(COLLECT_VAULT_EVERY, || platform.collect_vault()).await });
        }
        let platform = self.clone();
        set.spawn(async move {
            loop {
                let death = platform.inner.runtime.next_death().await;
                platform.note_death(death).await;
            }
        });
        set
    }
}

async fn every<F: Future<Output = ()>>(period: Duration, mut pass: impl FnMut() -> F) {
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer.tick().await;
    loop {
        timer.tick().await;
        pass().await;
    }
}
