//! Capture: flush, freeze, snapshot, thaw, make durable.

use super::{LocalRuntime, blocking, failed, trees};
use forkpoint_domain::ids::{LayerId, SandboxId};
use forkpoint_engine::{
    failpoint::{Point, pass},
    ports::runtime::{Capture, RuntimeError},
};
use forkpoint_jail::Group;
use std::time::{Duration, Instant};

/// How long the first freezes may take before the sandbox is let go again.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many of them are tried.
const TRIES: u32 = 3;
/// How long the last one may take.
const LAST: Duration = Duration::from_secs(10);

impl LocalRuntime {
    pub(super) async fn capture_layer(
        &self,
        sandbox: SandboxId,
        layer: LayerId,
        into: LayerId,
    ) -> Result<Capture, RuntimeError> {
        let running = self.inner.running(sandbox);
        let inner = self.inner.clone();
        blocking(move || {
            let started = Instant::now();
            // What is dirty is written now, while the sandbox runs, so that the snapshot has little left to write.
            inner.layers.flush(layer.uuid()).map_err(trees::failed("flush layer"))?;
            pass(Point::CaptureFlushed);
            let begin =
                || inner.layers.begin_snapshot(layer.uuid(), into.uuid()).map_err(trees::failed("snapshot layer"));
            let (taken, pause) = match &running {
                None => (begin()?, Duration::ZERO),
                Some(running) => while_frozen(&running.group, begin)?,
            };
            // Where layers are copies, waiting for the disk is nothing that the sandbox has to stand still for.
            inner.layers.finish_snapshot(taken).map_err(trees::failed("snapshot layer"))?;
            let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
            Ok(Capture { pause_ms: millis(pause), copy_duration_ms: millis(started.elapsed()) })
        })
        .await
    }
}

/// Does `work` while nothing in the group runs; gives how long the group stood still.
fn while_frozen<T>(
    group: &Group,
    work: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<(T, Duration), RuntimeError> {
    for attempt in 0..=TRIES {
        let frozen_at = Instant::now();
        // Thawed however this ends, a panic included.
        let thaw = Thaw(group);
        let patience = if attempt < TRIES { PATIENCE } else { LAST };
        if group.freeze(patience).map_err(failed("freeze sandbox"))? {
            pass(Point::CaptureFrozen);
            let done = work()?;
            pass(Point::CaptureSnapshot);
            drop(thaw);
            pass(Point::CaptureThawed);
            return Ok((done, frozen_at.elapsed()));
        }
    }
    Err(RuntimeError::Failed {
        step: "freeze sandbox",
        problem: format!("its processes did not come to rest within {LAST:?}"),
    })
}

struct Thaw<'a>(&'a Group);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw() {
            tracing::error!(%error, "could not thaw a sandbox");
        }
    }
}
