//! Rows about captures: how long an answer takes, and how long the source stands still.

use super::Bench;
use crate::commands::{
    Failure,
    bench::{row::Measured, stats::Summary, world::millis_since},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Measurements before those that count.
const WARM_UP: usize = 3;
/// Directories that the files of the big layer are spread over.
const BIG_DIRECTORIES: u64 = 50;
const CHANGED_FILES: u32 = 1000;
/// How long the neighbour may take until it writes.
const NEIGHBOUR_START: Duration = Duration::from_secs(30);

/// Which layer is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// One mebibyte.
    Small,
    /// Gibibytes and many files.
    Big,
}

impl Bench {
    /// Checkpoint of a layer with many small changes, from request to answer.
    pub(super) async fn checkpoint(&self) -> Result<Measured, Failure> {
        let sandbox = self.world.sandbox(&json!({})).await?;
        let write =
            format!("mkdir -p /tmp/bench && cd /tmp/bench && for i in $(seq {CHANGED_FILES}); do echo $i > $i; done");
        self.world.shell(&sandbox, &write).await?;
        let mut samples = Vec::new();
        for run in 0..self.sizes.runs + WARM_UP {
            self.world.shell(&sandbox, &format!("echo {run} > /tmp/bench/1")).await?;
            let begin = Instant::now();
            let (checkpoint, _) = self.world.checkpoint(&sandbox).await?;
            if run >= WARM_UP {
                samples.push(millis_since(begin));
            }
            self.world.remove_checkpoint(&checkpoint).await?;
        }
        self.world.remove_sandbox(&sandbox).await?;
        Ok(samples.into())
    }

    /// How long the source stood still, as the server reports it, with a small change between captures.
    pub(super) async fn pause(&mut self, size: Size, with_neighbour: bool) -> Result<Measured, Failure> {
        let sandbox = match size {
            Size::Small => self.small().await?,
            Size::Big => self.big().await?,
        };
        let neighbour = if with_neighbour { Some(self.neighbour().await?) } else { None };
        let (mut pauses, mut captures) = (Vec::new(), Vec::new());
        for run in 0..self.sizes.runs + WARM_UP {
            self.world.shell(&sandbox, &format!("echo {run} > /tmp/bench-run")).await?;
            let (checkpoint, answer) = self.world.checkpoint(&sandbox).await?;
            let figure = |name: &str| {
                let missing = || Failure::Other(format!("the server's checkpoint has no {name}"));
                answer.get(name).and_then(Value::as_f64).ok_or_else(missing)
            };
            if run >= WARM_UP {
                pauses.push(figure("pause_ms")?);
                captures.push(figure("copy_duration_ms")?);
            }
            self.world.remove_checkpoint(&checkpoint).await?;
        }
        if let Some((noise, writer)) = neighbour {
            let still_writing = !writer.0.is_finished();
            drop(writer);
            self.world.remove_sandbox(&noise).await?;
            if !still_writing {
                return Err(Failure::Other("the neighbour stopped writing before the row ended".to_owned()));
            }
        }
        if size == Size::Small {
            self.world.remove_sandbox(&sandbox).await?;
        }
        let capture = Summary::of(&captures, false);
        if !with_neighbour {
            self.captures[usize::from(size == Size::Big)] = capture.map(|capture| capture.p50);
        }
        let layer = match size {
            Size::Small => "1 MiB".to_owned(),
            Size::Big => {
                format!("{} in {} files", crate::output::human_bytes(self.sizes.big_bytes), self.sizes.big_files)
            }
        };
        let whole = capture.map_or(0.0, |capture| capture.p50);
        Ok(Measured::from(pauses).noted(format!("layer: {layer}; whole capture p50 {whole:.1} ms")))
    }

    /// Capture time of the big layer over that of the small one.
    pub(super) fn capture_ratio(&self) -> Measured {
        match self.captures {
            [Some(small), Some(big)] if small > 0.0 => vec![big / small].into(),
            _ => Measured::nothing("needs the rows pause-small and pause-big"),
        }
    }

    async fn small(&self) -> Result<String, Failure> {
        let sandbox = self.world.sandbox(&json!({})).await?;
        self.world.shell(&sandbox, "head -c 1048576 /dev/urandom > /tmp/bench-small && sync").await?;
        Ok(sandbox)
    }

    /// The sandbox with the big layer; made once.
    async fn big(&mut self) -> Result<String, Failure> {
        if let Some(big) = &self.big {
            return Ok(big.clone());
        }
        let sandbox = self.world.sandbox(&json!({})).await?;
        self.world.shell(&sandbox, &big_layer_script(self.sizes.big_bytes, self.sizes.big_files)).await?;
        self.big = Some(sandbox.clone());
        Ok(sandbox)
    }

    /// A second sandbox that writes without end, already writing.
    async fn neighbour(&self) -> Result<(String, Writer), Failure> {
        const WRITE: &str =
            "while :; do dd if=/dev/zero of=/tmp/noise bs=1M count=256 conv=fsync 2>/dev/null || exit 1; done";
        let sandbox = self.world.sandbox(&json!({})).await?;
        let (client, id) = (self.world.client.clone(), sandbox.clone());
        let writer = Writer(tokio::spawn(async move {
            let request = json!({"command": WRITE, "timeout": 3_600_000});
            // Ends with an error when the sandbox is removed; a row that it fails earlier says so.
            let _ = client.execute(&id, request).await;
        }));
        let begin = Instant::now();
        while self.world.shell(&sandbox, "test -s /tmp/noise").await.is_err() {
            if begin.elapsed() > NEIGHBOUR_START || writer.0.is_finished() {
                return Err(Failure::Other("the neighbour does not write".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok((sandbox, writer))
    }
}

/// The task that keeps the neighbour's command going; ends with its owner.
#[derive(Debug)]
struct Writer(tokio::task::JoinHandle<()>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes files of equal size and random content, in several directories, and waits until they are on the disk.
fn big_layer_script(bytes: u64, files: u64) -> String {
    let directories = BIG_DIRECTORIES.min(files).max(1);
    let each = files.div_ceil(directories).max(1);
    let size = (bytes / (directories * each)).max(1);
    format!(
        "mkdir -p /tmp/big && cd /tmp/big && for d in $(seq {directories}); do mkdir $d && \
         head -c {} /dev/urandom | split -b {size} -a 5 -d - $d/f || exit 1; done && sync",
        size * each
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_big_layer_has_the_size_and_files_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = big_layer_script(1_000_000, 500).replace("/tmp/big", dir.path().to_str().unwrap());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let (mut files, mut bytes) = (0, 0);
        for directory in std::fs::read_dir(dir.path()).unwrap() {
            for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
                files += 1;
                bytes += file.unwrap().metadata().unwrap().len();
            }
        }
        assert_eq!((files, bytes), (500, 1_000_000));
    }
}
