//! Taking over what an earlier server left: sandboxes that live go on, everything else is removed.

use super::{LocalRuntime, blocking, failed, launch::end_group, memory};
use forkpoint_domain::{ids::SandboxId, sandbox::StopReason};
use forkpoint_engine::{
    failpoint::{Point, pass},
    ports::runtime::RuntimeError,
};
use forkpoint_jail::process;
use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

impl LocalRuntime {
    pub(super) async fn adopt(&self) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        let remembered = blocking(move || memory::recall(&inner.data_dir).map_err(failed("recall sandboxes"))).await?;
        let boot_id = memory::boot_id().map_err(failed("read boot id"))?;
        let mut adopted = HashSet::new();
        let mut lost = HashMap::new();
        for one in remembered {
            let group = self
                .inner
                .cgroups
                .group(&self.inner.name, &one.sandbox.to_string())
                .map_err(failed("find control group"))?;
            let lives = one.boot_id == boot_id
                && process::open(one.pid, one.start_time).map_err(failed("open first process"))?.is_some();
            let slot = if lives { self.inner.hub.adopt_slot(one.slot, one.pid).await.ok() } else { None };
            if slot.is_none() {
                tracing::info!(sandbox.id = %one.sandbox, lives, "sandbox did not outlive the earlier server");
                // It stays remembered until its row says the same and it is ended.
                let reason = if one.boot_id != boot_id {
                    StopReason::HostRestart
                } else if group.usage().is_ok_and(|usage| usage.oom_kills > 0) {
                    StopReason::OutOfMemory
                } else {
                    StopReason::Died
                };
                lost.insert(one.sandbox, reason);
                continue;
            }
            // The earlier server may have died inside a capture.
            group.thaw().map_err(failed("thaw sandbox"))?;
            adopted.insert(one.sandbox);
            let token = one.token;
            tracing::info!(sandbox.id = %one.sandbox, "took over a running sandbox");
            self.watch(one, group, token)?;
            pass(Point::AdoptTaken);
        }
        *self.inner.lost.lock().unwrap_or_else(PoisonError::into_inner) = lost;
        let in_use: Vec<u16> = {
            let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.values().map(|one| one.slot).collect()
        };
        self.remove_leftovers(adopted).await?;
        self.inner.hub.reconcile(&in_use).await.map_err(failed("reconcile network"))?;
        Ok(())
    }

    /// Ends groups that were not taken over.
    async fn remove_leftovers(&self, adopted: HashSet<SandboxId>) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            memory::remove_unreadable(&inner.data_dir).map_err(failed("tidy up remembered sandboxes"))?;
            for id in inner.cgroups.list(&inner.name).map_err(failed("list control groups"))? {
                if id.parse::<SandboxId>().is_ok_and(|id| adopted.contains(&id)) {
                    continue;
                }
                tracing::info!(group = %id, "ending what an earlier server left");
                if let Ok(group) = inner.cgroups.group(&inner.name, &id) {
                    end_group(&group);
                }
                pass(Point::AdoptEnded);
            }
            Ok(())
        })
        .await
    }

    /// Sandboxes that do not run and that still have a group or are remembered.
    pub(super) async fn find_strays(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            let groups = inner.cgroups.list(&inner.name).map_err(failed("list control groups"))?;
            let mut found: HashSet<SandboxId> = groups.iter().filter_map(|id| id.parse().ok()).collect();
            let remembered = memory::recall(&inner.data_dir).map_err(failed("recall sandboxes"))?;
            found.extend(remembered.into_iter().map(|one| one.sandbox));
            // Asked last: what began to run since is in it.
            let running = inner.running.lock().unwrap_or_else(PoisonError::into_inner);
            found.retain(|id| running.get(id).is_none_or(|one| one.gone.is_cancelled()));
            Ok(found.into_iter().collect())
        })
        .await
    }
}
