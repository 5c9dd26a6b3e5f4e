//! Rows about many sandboxes on one machine: what one more costs.

use super::Bench;
use crate::commands::{
    Failure,
    bench::{
        row::{Measured, Name, Statistic, Target},
        stats::Summary,
    },
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// How many sandboxes are made at once while many are made.
const PARALLEL: usize = 4;
/// Until freed and lazily allocated memory has settled.
const SETTLE: Duration = Duration::from_secs(3);
/// Fewer than these say nothing about memory.
const FEWEST: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

/// What the memory measurement found.
#[derive(Debug, Clone)]
pub(super) struct Marginal {
    mib: Option<f64>,
    note: String,
}

impl Bench {
    /// Memory of one more idle sandbox: what the machine has less with many than before, divided by their number.
    pub(super) async fn idle_memory(&mut self) -> Result<Measured, Failure> {
        if !self.world.client.is_local() {
            return Ok(Measured::nothing("the server is on another machine"));
        }
        let marginal = self.make_live().await?;
        let samples: Vec<f64> = marginal.mib.into_iter().collect();
        Ok(Measured::from(samples).noted(marginal.note))
    }

    /// Create until a command answers, while many are live. Twice the time at one is allowed.
    pub(super) async fn create_among_many(&mut self) -> Result<Measured, Failure> {
        let runs = self.sizes.runs.min(100);
        let at_one = match self.medians.get(&Name::Create) {
            Some(median) => *median,
            None => Summary::of(&self.create(runs).await?.samples, false).map_or(0.0, |summary| summary.p50),
        };
        self.make_live().await?;
        let mut measured = self.create(runs).await?;
        measured.targets = Some(vec![Target::most(Statistic::P50, 2.0 * at_one)]);
        Ok(measured.noted(format!("{} live; at one live p50 {at_one:.1} ms", self.live.len())))
    }

    /// Makes the many idle sandboxes, once, and measures what they cost.
    async fn make_live(&mut self) -> Result<Marginal, Failure> {
        if let Some(marginal) = &self.marginal {
            return Ok(marginal.clone());
        }
        tokio::time::sleep(SETTLE).await;
        let before = available_bytes();
        let request = json!({"memory": "64Mi"});
        let mut creates =
            stream::iter(0..self.sizes.live).map(|_| self.world.sandbox(&request)).buffer_unordered(PARALLEL);
        let mut refused = None;
        let mut live = Vec::new();
        while let Some(created) = creates.next().await {
            match created {
                Ok(id) => live.push(id),
                Err(error) => {
                    refused = Some(error.to_string());
                    break;
                }
            }
        }
        drop(creates);
        self.live = live;
        if self.live.len() < FEWEST.min(self.sizes.live) {
            return Err(Failure::Other(format!(
                "only {} could be made: {}",
                self.live.len(),
                refused.unwrap_or_default()
            )));
        }
        tokio::time::sleep(SETTLE).await;
        let after = available_bytes();
        let count = self.live.len() as f64;
        let mib = before.zip(after).map(|(before, after)| (before - after) / count / MIB);
        let groups: Vec<f64> = self.live.iter().filter_map(|id| group_bytes(id)).collect();
        let mut note = format!("{} live", self.live.len());
        if !groups.is_empty() {
            note +=
                &format!("; own control groups {:.2} MiB each", groups.iter().sum::<f64>() / groups.len() as f64 / MIB);
        }
        if let Some(refused) = refused {
            note += &format!("; then refused: {refused}");
        }
        let marginal = Marginal { mib, note };
        self.marginal = Some(marginal.clone());
        Ok(marginal)
    }
}

/// Bytes that this machine could still give out.
fn available_bytes() -> Option<f64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// Bytes charged to a sandbox's control group, in either version.
fn group_bytes(sandbox: &str) -> Option<f64> {
    for (root, file) in [("/sys/fs/cgroup/memory", "memory.usage_in_bytes"), ("/sys/fs/cgroup", "memory.current")] {
        let instances = std::fs::read_dir(PathBuf::from(root).join("forkpoint")).into_iter().flatten().flatten();
        for instance in instances {
            if let Ok(text) = std::fs::read_to_string(instance.path().join(sandbox).join(file)) {
                return text.trim().parse().ok();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:      2048 kB\n"), Some(2_097_152.0));
        assert_eq!(parse_available("MemTotal: 9 kB\n"), None);
        assert!(available_bytes().is_some_and(|bytes| bytes > 0.0));
    }
}
