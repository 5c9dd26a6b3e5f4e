//! Rows about creating, running commands, restoring and forking.

use super::Bench;
use crate::commands::{
    Failure,
    bench::{row::Measured, world::millis_since},
};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde_json::json;
use std::time::Instant;

/// Measurements before those that count.
const WARM_UP: usize = 3;
/// Rounds into which the throughput row is divided.
const ROUNDS: usize = 5;
const PARALLEL_FORKS: usize = 100;
const FORK_CALLERS: usize = 10;

impl Bench {
    /// Create until a command answers.
    pub(super) async fn create(&self, runs: usize) -> Result<Measured, Failure> {
        let mut samples = Vec::with_capacity(runs);
        for run in 0..runs + WARM_UP {
            let begin = Instant::now();
            let sandbox = self.world.sandbox(&json!({})).await?;
            self.world.answers(&sandbox).await?;
            if run >= WARM_UP {
                samples.push(millis_since(begin));
            }
            self.world.remove_sandbox(&sandbox).await?;
        }
        Ok(samples.into())
    }

    /// A command that does nothing.
    pub(super) async fn exec(&self) -> Result<Measured, Failure> {
        let sandbox = self.world.sandbox(&json!({})).await?;
        let mut samples = Vec::new();
        for run in 0..self.sizes.runs + WARM_UP {
            let begin = Instant::now();
            self.world.answers(&sandbox).await?;
            if run >= WARM_UP {
                samples.push(millis_since(begin));
            }
        }
        self.world.remove_sandbox(&sandbox).await?;
        Ok(samples.into())
    }

    /// The same by several callers at once: commands a second, one figure a round.
    pub(super) async fn exec_parallel(&self) -> Result<Measured, Failure> {
        let callers = self.sizes.callers;
        let plain = json!({});
        let sandboxes: Vec<String> =
            stream::iter(0..callers).then(|_| self.world.sandbox(&plain)).try_collect().await?;
        let mut rates = Vec::new();
        let each = self.sizes.runs.div_ceil(ROUNDS).max(10);
        for round in 0..=ROUNDS {
            let begin = Instant::now();
            try_join_all(sandboxes.iter().map(|sandbox| async move {
                for _ in 0..each {
                    self.world.answers(sandbox).await?;
                }
                Ok::<_, Failure>(())
            }))
            .await?;
            // The first round warms up.
            if round > 0 {
                rates.push((each * callers) as f64 / begin.elapsed().as_secs_f64());
            }
        }
        self.world.remove_sandboxes(sandboxes).await?;
        let note = format!("{callers} callers, {each} commands each a round");
        Ok(Measured::from(rates).noted(note))
    }

    /// Restore in place until a command answers. Between restores a file changes, so that there is something to undo.
    pub(super) async fn restore(&self) -> Result<Measured, Failure> {
        let sandbox = self.world.sandbox(&json!({})).await?;
        self.world.shell(&sandbox, "echo before > /tmp/bench-state").await?;
        let (checkpoint, _) = self.world.checkpoint(&sandbox).await?;
        let mut samples = Vec::new();
        for run in 0..self.sizes.runs + WARM_UP {
            self.world.shell(&sandbox, "echo after > /tmp/bench-state").await?;
            let begin = Instant::now();
            self.world.restore(&sandbox, &checkpoint).await?;
            self.world.answers(&sandbox).await?;
            if run >= WARM_UP {
                samples.push(millis_since(begin));
            }
        }
        self.world.shell(&sandbox, "grep -qx before /tmp/bench-state").await?;
        self.world.remove_checkpoint(&checkpoint).await?;
        self.world.remove_sandbox(&sandbox).await?;
        Ok(samples.into())
    }

    /// Fork of a checkpoint until a command answers.
    pub(super) async fn fork(&self) -> Result<Measured, Failure> {
        let (sandbox, checkpoint) = self.forkable().await?;
        let mut samples = Vec::new();
        for run in 0..self.sizes.runs + WARM_UP {
            let begin = Instant::now();
            let fork = self.world.fork(&checkpoint).await?;
            self.world.answers(&fork).await?;
            if run >= WARM_UP {
                samples.push(millis_since(begin));
            }
            if run == 0 {
                self.world.shell(&fork, "grep -qx before /tmp/bench-state").await?;
            }
            self.world.remove_sandbox(&fork).await?;
        }
        self.world.remove_checkpoint(&checkpoint).await?;
        self.world.remove_sandbox(&sandbox).await?;
        Ok(samples.into())
    }

    /// Many forks at once, from the first request until the last answer.
    pub(super) async fn forks_parallel(&self) -> Result<Measured, Failure> {
        let (sandbox, checkpoint) = self.forkable().await?;
        let mut samples = Vec::new();
        for _ in 0..self.sizes.runs.div_ceil(40) {
            let begin = Instant::now();
            let forks: Vec<String> = stream::iter(0..PARALLEL_FORKS)
                .map(|_| async {
                    let fork = self.world.fork(&checkpoint).await?;
                    self.world.answers(&fork).await?;
                    Ok::<_, Failure>(fork)
                })
                .buffer_unordered(FORK_CALLERS)
                .try_collect()
                .await?;
            samples.push(millis_since(begin));
            self.world.remove_sandboxes(forks).await?;
        }
        self.world.remove_checkpoint(&checkpoint).await?;
        self.world.remove_sandbox(&sandbox).await?;
        Ok(samples.into())
    }

    async fn forkable(&self) -> Result<(String, String), Failure> {
        let sandbox = self.world.sandbox(&json!({})).await?;
        self.world.shell(&sandbox, "echo before > /tmp/bench-state").await?;
        let (checkpoint, _) = self.world.checkpoint(&sandbox).await?;
        Ok((sandbox, checkpoint))
    }
}
