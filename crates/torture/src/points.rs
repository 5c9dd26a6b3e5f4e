//! How the server is brought to each of its named points, to die there.

use crate::world::{Op, World};
use anyhow::{Context, ensure};
use forkpoint_engine::failpoint::Point;
use rand::{Rng, rngs::StdRng};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

/// How long the way to a point may take, work behind the answers included.
const REACHED: Duration = Duration::from_secs(20);

/// What is done while a point is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    CreateDamaged,
    Checkpoint,
    CheckpointVerified,
    CheckpointInScope,
    Restore,
    RestoreBeside,
    RestoreEvicted,
    Fork,
    Start,
    Stop,
    DeleteSandbox,
    DeleteCheckpoint,
    Expire,
    Evict,
}

/// How a point is reached.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By this.
    During(Act),
    /// By starting after a death at a point, or after a plain kill.
    AtStart(Option<(&'static str, Act)>),
    /// By starting after the processes of a sandbox have died.
    AfterDeath,
    /// By `forkpoint vault gc`.
    Collecting,
}

/// Points of archives and recipes, whose operations are not among those done here: `forkpoint/tests/faults/points.rs`
/// kills the server at each of them.
const ELSEWHERE: [&str; 2] = ["import.", "build."];

/// The points that have their turn here.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    let names = Point::ALL.iter().map(|point| point.name());
    names.filter(|name| !ELSEWHERE.iter().any(|subject| name.starts_with(subject)))
}

/// `None`: this harness knows no way, which is a mistake of its own.
fn way(point: &str) -> Option<Way> {
    use Act::*;
    use Way::*;
    let (subject, step) = point.split_once('.')?;
    Some(match (subject, step) {
        ("create", _) => During(Create),
        ("undo", _) => During(CreateDamaged),
        ("launch", _) => During(Start),
        ("end", "slot") => During(DeleteSandbox),
        ("end", _) => During(Stop),
        ("layer", "grafted") => During(CheckpointInScope),
        ("layer", _) => During(Create),
        ("capture" | "checkpoint", _) => During(Checkpoint),
        ("restore", "still") => During(RestoreBeside),
        ("restore", _) => During(Restore),
        ("back", _) => AtStart(Some(("restore.ended", Restore))),
        ("fork", _) => During(Fork),
        ("start", _) => During(Start),
        ("stop", _) => During(Stop),
        ("delete", _) | ("collect", _) => During(DeleteSandbox),
        ("checkpoint_delete", _) | ("forget", _) => During(DeleteCheckpoint),
        ("vault", "leased" | "packed" | "recorded") | ("durable" | "verified", _) => During(CheckpointVerified),
        ("vault", _) => Collecting,
        ("evict", _) => During(Evict),
        ("cold", _) => During(RestoreEvicted),
        ("expiry", _) => During(Expire),
        ("adopt", "taken") => AtStart(None),
        ("adopt", _) => AtStart(Some(("launch.jail", Create))),
        ("recover", _) => AtStart(Some(("create.launched", Create))),
        ("lost", _) => AfterDeath,
        _ => return None,
    })
}

/// What is left to do after a death.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The request whose answer was lost.
    pub(crate) pending: Option<(Op, String)>,
    /// It cannot succeed.
    pub(crate) is_doomed: bool,
}

impl World {
    /// Lets the server die at a point. It is not started again; disarming is up to the caller. `None`: it lives,
    /// and was not meant to die.
    pub(crate) async fn die_at(&mut self, point: &str, random: &mut StdRng) -> anyhow::Result<Option<Cut>> {
        match way(point).with_context(|| format!("no way is known to {point}"))? {
            Way::During(act) => self.die_during(point, act, random).await.map(Some),
            Way::AtStart(before) => {
                let cut = match before {
                    Some((first, act)) => self.die_during(first, act, random).await?,
                    None => {
                        self.program.kill()?;
                        Cut { pending: None, is_doomed: false }
                    }
                };
                self.die_at_start(point).await?;
                Ok(Some(cut))
            }
            Way::AfterDeath => {
                let victim = self.a_sandbox(random).await?;
                self.program.kill()?;
                kill_inside(&victim);
                self.die_at_start(point).await?;
                self.sandbox(&victim)?.runs = false;
                Ok(Some(Cut { pending: None, is_doomed: false }))
            }
            Way::Collecting => self.die_collecting(point, random).await.map(|()| None),
        }
    }

    async fn die_during(&mut self, point: &str, act: Act, random: &mut StdRng) -> anyhow::Result<Cut> {
        let op = self.prepare(act, random).await?;
        self.program.arm(Some(point))?;
        let pending = match op {
            None => None,
            Some(op) => {
                let key = self.new_key();
                match self.perform(&op, &key, false).await? {
                    crate::world::Outcome::Broken => Some((op, key)),
                    // It dies behind the answer.
                    _ => None,
                }
            }
        };
        ensure!(self.program.dies(REACHED).await?, "{point} was not reached by {act:?}");
        Ok(Cut { pending, is_doomed: act == Act::CreateDamaged })
    }

    async fn die_at_start(&mut self, point: &str) -> anyhow::Result<()> {
        self.program.arm(Some(point))?;
        // Some come only when it is ready.
        if self.program.try_launch().await?.is_ok() {
            ensure!(self.program.dies(REACHED).await?, "{point} was not reached at a start");
        }
        Ok(())
    }

    /// Makes what an act needs; gives what is to be done under the armed point, if it is a request.
    async fn prepare(&mut self, act: Act, random: &mut StdRng) -> anyhow::Result<Option<Op>> {
        let sandbox = self.a_sandbox(random).await?;
        Ok(Some(match act {
            Act::Create => Op::Create,
            Act::CreateDamaged => self.damaged_checkpoint().await?,
            Act::Checkpoint => Op::Checkpoint { sandbox, wait: false },
            Act::CheckpointVerified => {
                // Something new, so that there is a pack to write.
                self.grow(&sandbox, random, 20_000).await?;
                Op::Checkpoint { sandbox, wait: true }
            }
            Act::CheckpointInScope => {
                self.grow(&sandbox, random, 1000).await?;
                let body = json!({ "name": "in scope", "include_paths": ["/workspace/t/grown"], "wait": "verified" });
                Op::Aside { path: format!("/sandbox/{sandbox}/checkpoints"), body, makes: "/checkpoints" }
            }
            Act::Restore => Op::Restore { checkpoint: self.a_checkpoint(&sandbox, false).await?, sandbox },
            Act::RestoreBeside => {
                let checkpoint = self.a_checkpoint(&sandbox, false).await?;
                let made = self.send(Method::POST, "/sandbox/create", &json!({}), "").await?.ok()?;
                let other = format!("/sandbox/{}", made["id"].as_str().context("no id")?);
                self.litter.push(other.clone());
                let body = json!({ "checkpoint_id": checkpoint, "overwrite": false });
                Op::Aside { path: format!("{other}/checkpoints/restore"), body, makes: "" }
            }
            Act::RestoreEvicted => {
                let checkpoint = self.a_checkpoint(&sandbox, true).await?;
                self.done(Op::Evict { checkpoint: checkpoint.clone() }).await?;
                Op::Restore { sandbox, checkpoint }
            }
            Act::Fork => Op::Fork { sandbox },
            Act::Stop => Op::Stop { sandbox },
            Act::Start => {
                self.done(Op::Stop { sandbox: sandbox.clone() }).await?;
                Op::Start { sandbox }
            }
            Act::DeleteSandbox => Op::DeleteSandbox { sandbox },
            Act::DeleteCheckpoint => Op::DeleteCheckpoint { checkpoint: self.a_checkpoint(&sandbox, true).await? },
            Act::Evict => Op::Evict { checkpoint: self.a_checkpoint(&sandbox, true).await? },
            Act::Expire => {
                let made =
                    self.send(Method::POST, "/sandbox/create", &json!({ "timeout_seconds": 1 }), "").await?.ok()?;
                self.litter.push(format!("/sandbox/{}", made["id"].as_str().context("no id")?));
                return Ok(None);
            }
        }))
    }

    /// A verified checkpoint that is in the vault only, and a sandbox that has something new to store.
    pub(crate) async fn depend_on_store(&mut self, random: &mut StdRng) -> anyhow::Result<(String, String)> {
        let sandbox = self.a_sandbox(random).await?;
        let checkpoint = self.a_checkpoint(&sandbox, true).await?;
        self.done(Op::Evict { checkpoint: checkpoint.clone() }).await?;
        self.grow(&sandbox, random, 50_000).await?;
        Ok((sandbox, checkpoint))
    }

    /// Makes an operation that must succeed.
    async fn done(&mut self, op: Op) -> anyhow::Result<()> {
        let key = self.new_key();
        let outcome = self.perform(&op, &key, false).await?;
        ensure!(outcome == crate::world::Outcome::Done, "{outcome:?}: {op:?}");
        Ok(())
    }

    /// A running sandbox of the model.
    async fn a_sandbox(&mut self, random: &mut StdRng) -> anyhow::Result<String> {
        if !self.sandboxes.iter().any(|one| one.runs) {
            self.done(Op::Create).await?;
        }
        let running: Vec<_> = self.sandboxes.iter().filter(|one| one.runs).collect();
        Ok(running[random.random_range(0..running.len())].id.clone())
    }

    /// A new checkpoint of a sandbox.
    async fn a_checkpoint(&mut self, sandbox: &str, wait: bool) -> anyhow::Result<String> {
        self.done(Op::Checkpoint { sandbox: sandbox.to_owned(), wait }).await?;
        Ok(self.saved.last().context("no checkpoint was made")?.id.clone())
    }

    /// Writes a new file of so many bytes.
    async fn grow(&mut self, sandbox: &str, random: &mut StdRng, length: usize) -> anyhow::Result<()> {
        let mut tree = self.sandbox(sandbox)?.tree.clone();
        let step = tree.put("grown", random.random_range(1000..u64::MAX), length);
        self.done(Op::Write { sandbox: sandbox.to_owned(), steps: json!([step]), tree: Box::new(tree) }).await
    }

    /// A checkpoint from which nothing can be started, since its layer lacks what an overlay needs.
    async fn damaged_checkpoint(&mut self) -> anyhow::Result<Op> {
        let layers = self.program.data_dir().join("layers");
        let names =
            || -> anyhow::Result<BTreeSet<PathBuf>> { fs::read_dir(&layers)?.map(|entry| Ok(entry?.path())).collect() };
        let before = names()?;
        let path = format!("/sandbox/{}/checkpoints", self.probe.id);
        let made = self.send(Method::POST, &path, &json!({ "name": "damaged" }), "").await?.ok()?;
        let id = made["id"].as_str().context("no id")?.to_owned();
        self.litter.push(format!("/checkpoints/{id}"));
        let new = names()?.difference(&before).next().cloned().context("no layer was made")?;
        fs::remove_dir_all(new.join("work")).context("damage a layer")?;
        Ok(Op::Aside { path: "/sandbox/create".into(), body: json!({ "checkpoint_id": id }), makes: "/sandbox" })
    }

    /// Lets a collection beside the server die at a point, and runs it again.
    async fn die_collecting(&mut self, point: &str, random: &mut StdRng) -> anyhow::Result<()> {
        // A pack that is needed in part, and one that is not needed at all.
        let sandbox = self.a_sandbox(random).await?;
        self.grow(&sandbox, random, 300_000).await?;
        let mut tree = self.sandbox(&sandbox)?.tree.clone();
        let small = tree.put("kept", random.random_range(1000..u64::MAX), 3000);
        self.done(Op::Write { sandbox: sandbox.clone(), steps: json!([small]), tree: Box::new(tree) }).await?;
        let whole = self.a_checkpoint(&sandbox, true).await?;
        let mut tree = self.sandbox(&sandbox)?.tree.clone();
        let less = tree.remove_file("grown");
        self.done(Op::Write { sandbox: sandbox.clone(), steps: json!([less]), tree: Box::new(tree) }).await?;
        self.a_checkpoint(&sandbox, true).await?;
        self.done(Op::DeleteCheckpoint { checkpoint: whole.clone() }).await?;
        self.forgotten(&whole).await?;
        let died = self.program.operator(&["vault", "gc"], Some(point)).await?;
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&died.status) == Some(9);
        ensure!(by_signal, "{point} was not reached by vault gc: {}", String::from_utf8_lossy(&died.stdout));
        self.done(Op::Collect).await
    }

    /// Waits until the record of a deleted checkpoint is out of the store.
    async fn forgotten(&self, checkpoint: &str) -> anyhow::Result<()> {
        let deadline = std::time::Instant::now() + REACHED;
        while self.store.keys()?.iter().any(|key| key.ends_with(checkpoint)) {
            ensure!(std::time::Instant::now() < deadline, "{checkpoint} is deleted and still in the store");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// Kills every process of a sandbox, wherever in its groups.
fn kill_inside(sandbox: &str) {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if groups.split(['/', '\n']).any(|part| part == sandbox)
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended with another of them.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Replies of a doomed request after the server is back.
pub(crate) fn is_refused(answer: &Value) -> bool {
    answer["error"]["code"] == "unavailable"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_way() {
        let without: Vec<_> = all().filter(|point| way(point).is_none()).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
