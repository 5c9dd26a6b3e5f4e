//! What must be there: sandboxes and ready checkpoints with their trees. Every operation is made on the server and
//! on this model; one whose answer was lost is sent again under the same key.

use crate::{
    program::{Answer, Broken, Program},
    store::Store,
    tree::{SCRIPT, Tree},
};
use anyhow::{Context, bail, ensure};
use rand::{Rng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A sandbox of the model.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) tree: Tree,
    pub(crate) runs: bool,
}

/// A checkpoint that was answered ready.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) id: String,
    pub(crate) tree: Arc<Tree>,
    /// As it was last seen.
    pub(crate) durability: String,
    /// Once it is known it does not change.
    pub(crate) checksum: String,
    /// The store failed, lied or rotted since it was made: it may have to be stored again.
    pub(crate) may_fail: bool,
}

/// An operation, so that it can be made again.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create,
    Write {
        sandbox: String,
        steps: Value,
        tree: Box<Tree>,
    },
    Checkpoint {
        sandbox: String,
        wait: bool,
    },
    Restore {
        sandbox: String,
        checkpoint: String,
    },
    CreateFrom {
        checkpoint: String,
    },
    Fork {
        sandbox: String,
    },
    Stop {
        sandbox: String,
    },
    Start {
        sandbox: String,
    },
    Evict {
        checkpoint: String,
    },
    Compare {
        first: String,
        second: String,
    },
    DeleteSandbox {
        sandbox: String,
    },
    DeleteCheckpoint {
        checkpoint: String,
    },
    Collect,
    /// A request without meaning for the model; what it makes is thrown away.
    Aside {
        path: String,
        body: Value,
        makes: &'static str,
    },
}

/// Whether an operation came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It was refused, as it may be while the store fails; nothing was changed.
    Refused,
    /// The server was lost under it.
    Broken,
}

/// The server and what must be true of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) program: Program,
    pub(crate) store: Store,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) saved: Vec<Saved>,
    /// Its tree is restored from one checkpoint after another, to look at them.
    pub(crate) probe: Sandbox,
    /// Whether the store fails now, so that refusals for its sake are right.
    pub(crate) ailing: bool,
    /// What is to be deleted once the server is well.
    pub(crate) litter: Vec<String>,
    keys: u64,
}

/// Checkpoints and sandboxes there are at most beside the probe.
const MOST_SAVED: usize = 5;
const MOST_SANDBOXES: usize = 3;

impl World {
    pub(crate) async fn start(program: Program, store: Store) -> anyhow::Result<Self> {
        let probe = Sandbox { id: String::new(), tree: Tree::new(), runs: true };
        let (sandboxes, saved, litter) = Default::default();
        let mut world = Self { program, store, sandboxes, saved, probe, ailing: false, litter, keys: 0 };
        world.program.launch().await?;
        world.program.register().await?;
        let made = world.send(Method::POST, "/sandbox/create", &json!({}), "probe").await?.ok()?;
        world.probe.id = id(&made)?;
        Ok(world)
    }

    /// A name for one request.
    pub(crate) fn new_key(&mut self) -> String {
        self.keys += 1;
        format!("torture-{}", self.keys)
    }

    /// Sends a request that no fault is to break.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value, key: &str) -> anyhow::Result<Answer> {
        match self.program.send(method.clone(), path, body, key).await {
            Ok(answer) => Ok(answer),
            Err(Broken) => bail!("no answer to {method} {path} {body}"),
        }
    }

    /// Something to do next; `None` if what was thought of does not fit what is there.
    pub(crate) fn think(&mut self, random: &mut StdRng) -> Option<Op> {
        let sandbox = |world: &Self, random: &mut StdRng, runs: bool| {
            let fit: Vec<_> = world.sandboxes.iter().filter(|one| one.runs == runs).map(|one| one.id.clone()).collect();
            (!fit.is_empty()).then(|| fit[random.random_range(0..fit.len())].clone())
        };
        let saved = |world: &Self, random: &mut StdRng| {
            (!world.saved.is_empty()).then(|| world.saved[random.random_range(0..world.saved.len())].id.clone())
        };
        let choice = random.random_range(0..24);
        if self.saved.len() > MOST_SAVED {
            return Some(Op::DeleteCheckpoint { checkpoint: saved(self, random)? });
        }
        if self.sandboxes.len() > MOST_SANDBOXES {
            let at = random.random_range(0..self.sandboxes.len());
            return Some(Op::DeleteSandbox { sandbox: self.sandboxes[at].id.clone() });
        }
        Some(match choice {
            _ if self.sandboxes.is_empty() => Op::Create,
            0..=6 => self.write(&sandbox(self, random, true)?, random)?,
            7..=11 => Op::Checkpoint { sandbox: sandbox(self, random, true)?, wait: random.random_range(0..3) == 0 },
            12 | 13 => Op::Restore { sandbox: sandbox(self, random, true)?, checkpoint: saved(self, random)? },
            14 => Op::CreateFrom { checkpoint: saved(self, random)? },
            15 => Op::Fork { sandbox: sandbox(self, random, true)? },
            16 => Op::Stop { sandbox: sandbox(self, random, true)? },
            17 => Op::Start { sandbox: sandbox(self, random, false)? },
            18 | 19 => Op::Evict { checkpoint: saved(self, random)? },
            20 => Op::DeleteCheckpoint { checkpoint: saved(self, random)? },
            21 => Op::DeleteSandbox { sandbox: sandbox(self, random, true)? },
            22 => Op::Compare { first: saved(self, random)?, second: saved(self, random)? },
            _ => Op::Collect,
        })
    }

    /// Random changes of a sandbox's tree.
    pub(crate) fn write(&self, sandbox: &str, random: &mut StdRng) -> Option<Op> {
        let mut tree = self.sandboxes.iter().find(|one| one.id == sandbox)?.tree.clone();
        let steps = tree.steps(random, 6);
        Some(Op::Write { sandbox: sandbox.to_owned(), steps, tree: Box::new(tree) })
    }

    /// Makes an operation on the server, and on the model if the server made it. `again`: its answer was lost.
    pub(crate) async fn perform(&mut self, op: &Op, key: &str, again: bool) -> anyhow::Result<Outcome> {
        let sent = self.request(op, key).await;
        let answer = match sent {
            Some(Ok(answer)) => answer,
            Some(Err(Broken)) => return Ok(Outcome::Broken),
            None => {
                // Beside the server: it does not matter whether that lives.
                self.collect().await?;
                return Ok(Outcome::Done);
            }
        };
        let status = answer.status.as_u16();
        let missing = again && status == 404 && matches!(op, Op::DeleteSandbox { .. } | Op::DeleteCheckpoint { .. });
        // What a restore or fork needs may have to come from a store that fails; a checkpoint that is not in the
        // vault yet cannot be evicted.
        let excused = (self.ailing && [503, 507].contains(&status))
            || (matches!(op, Op::Evict { .. })
                && ["checkpoint_not_verified", "operation_in_progress"].contains(&answer.code()));
        if excused {
            return Ok(Outcome::Refused);
        }
        let body = if missing { Value::Null } else { answer.ok().with_context(|| format!("{op:?}"))? };
        self.note(op, &body)?;
        Ok(Outcome::Done)
    }

    /// Sends what an operation is; `None`: it is no request.
    async fn request(&self, op: &Op, key: &str) -> Option<Result<Answer, Broken>> {
        let send =
            |method, path: String, body: Value| async move { Some(self.program.send(method, &path, &body, key).await) };
        match op {
            Op::Create => send(Method::POST, "/sandbox/create".into(), json!({})).await,
            Op::Write { sandbox, steps, .. } => {
                send(Method::POST, format!("/sandbox/{sandbox}/execute"), script(steps)).await
            }
            Op::Checkpoint { sandbox, wait } => {
                let wait = if *wait { "verified" } else { "ready" };
                send(Method::POST, format!("/sandbox/{sandbox}/checkpoints"), json!({ "name": key, "wait": wait }))
                    .await
            }
            Op::Restore { sandbox, checkpoint } => {
                let body = json!({ "checkpoint_id": checkpoint });
                send(Method::POST, format!("/sandbox/{sandbox}/checkpoints/restore"), body).await
            }
            Op::CreateFrom { checkpoint } => {
                send(Method::POST, "/sandbox/create".into(), json!({ "checkpoint_id": checkpoint })).await
            }
            Op::Fork { sandbox } => send(Method::POST, format!("/sandbox/{sandbox}/fork"), json!({ "count": 1 })).await,
            Op::Stop { sandbox } => send(Method::POST, format!("/sandbox/{sandbox}/stop"), json!({})).await,
            Op::Start { sandbox } => send(Method::POST, format!("/sandbox/{sandbox}/start"), json!({})).await,
            Op::Evict { checkpoint } => send(Method::POST, format!("/checkpoints/{checkpoint}/evict"), json!({})).await,
            Op::Compare { first, second } => {
                let body = json!({ "checkpoint_id_1": first, "checkpoint_id_2": second });
                send(Method::POST, "/checkpoints/compare".into(), body).await
            }
            Op::DeleteSandbox { sandbox } => send(Method::DELETE, format!("/sandbox/{sandbox}"), json!({})).await,
            Op::DeleteCheckpoint { checkpoint } => {
                send(Method::DELETE, format!("/checkpoints/{checkpoint}"), json!({})).await
            }
            Op::Aside { path, body, .. } => send(Method::POST, path.clone(), body.clone()).await,
            Op::Collect => None,
        }
    }

    /// What an answered operation means for the model.
    fn note(&mut self, op: &Op, body: &Value) -> anyhow::Result<()> {
        match op {
            Op::Create => self.sandboxes.push(Sandbox { id: id(body)?, tree: Tree::new(), runs: true }),
            Op::Write { sandbox, tree, .. } => {
                ensure!(body["exit_code"] == 0, "steps failed inside: {body}");
                let one = self.sandbox(sandbox)?;
                one.tree = (**tree).clone();
                same(body["stdout"].as_str().unwrap_or_default(), &one.tree.shown(), sandbox)?;
            }
            Op::Checkpoint { sandbox, .. } => {
                let tree = Arc::new(self.sandbox(sandbox)?.tree.clone());
                self.note_saved(body, tree)?;
            }
            Op::Restore { sandbox, checkpoint } => {
                let tree = (*self.checkpoint(checkpoint)?.tree).clone();
                self.sandbox(sandbox)?.tree = tree;
            }
            Op::CreateFrom { checkpoint } => {
                let tree = (*self.checkpoint(checkpoint)?.tree).clone();
                self.sandboxes.push(Sandbox { id: id(body)?, tree, runs: true });
            }
            Op::Fork { sandbox } => {
                let tree = self.sandbox(sandbox)?.tree.clone();
                let forked = body["forks"][0]["forked_id"].as_str().with_context(|| format!("no fork in {body}"))?;
                let made = json!({ "id": body["checkpoint_id"], "status": "ready" });
                self.note_saved(&made, Arc::new(tree.clone()))?;
                self.sandboxes.push(Sandbox { id: forked.to_owned(), tree, runs: true });
            }
            Op::Stop { sandbox } => self.sandbox(sandbox)?.runs = false,
            Op::Start { sandbox } => self.sandbox(sandbox)?.runs = true,
            Op::Evict { .. } | Op::Collect => {}
            Op::Compare { first, second } => self.compared(first, second, body)?,
            Op::Aside { makes: "", .. } => {}
            Op::Aside { makes, .. } => self.litter.push(format!("{makes}/{}", id(body)?)),
            Op::DeleteSandbox { sandbox } => self.sandboxes.retain(|one| one.id != *sandbox),
            Op::DeleteCheckpoint { checkpoint } => self.saved.retain(|one| one.id != *checkpoint),
        }
        Ok(())
    }

    fn note_saved(&mut self, body: &Value, tree: Arc<Tree>) -> anyhow::Result<()> {
        ensure!(body["status"] == "ready", "a checkpoint was answered that is not ready: {body}");
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (durability, checksum) = (text("durability"), text("checksum"));
        if durability == "failed" {
            ensure!(self.ailing, "a checkpoint failed to become durable although the store was well: {body}");
        }
        self.saved.push(Saved { id: id(body)?, tree, durability, checksum, may_fail: self.ailing });
        Ok(())
    }

    /// Checks a comparison against the two models.
    fn compared(&self, first: &str, second: &str, body: &Value) -> anyhow::Result<()> {
        let (a, b) = (self.checkpoint(first)?.tree.files(), self.checkpoint(second)?.tree.files());
        let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            one.keys().filter(|path| !other.contains_key(*path)).cloned().collect::<BTreeSet<String>>()
        };
        let modified: BTreeSet<String> = a
            .iter()
            .filter(|(path, held)| b.get(*path).is_some_and(|other| other != *held))
            .map(|(p, _)| p.clone())
            .collect();
        let found = |field: &str| -> BTreeSet<String> {
            let all = body["diff"][field].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).filter(|path| path.starts_with("/workspace/t/")).map(str::to_owned).collect()
        };
        for (field, expected) in
            [("files_added", only(&b, &a)), ("files_removed", only(&a, &b)), ("files_modified", modified)]
        {
            ensure!(found(field) == expected, "compare: {field} is {:?}, not {expected:?}", found(field));
        }
        Ok(())
    }

    pub(crate) fn sandbox(&mut self, id: &str) -> anyhow::Result<&mut Sandbox> {
        self.sandboxes
            .iter_mut()
            .chain([&mut self.probe])
            .find(|one| one.id == id)
            .with_context(|| format!("the model has no sandbox {id}"))
    }

    pub(crate) fn checkpoint(&self, id: &str) -> anyhow::Result<&Saved> {
        self.saved.iter().find(|one| one.id == id).with_context(|| format!("the model has no checkpoint {id}"))
    }

    /// Shows the tree of a running sandbox.
    pub(crate) async fn show(&self, sandbox: &str) -> anyhow::Result<String> {
        let shown =
            self.send(Method::POST, &format!("/sandbox/{sandbox}/execute"), &script(&json!([])), "").await?.ok()?;
        ensure!(shown["exit_code"] == 0 && shown["output_truncated"] == false, "the tree cannot be shown: {shown}");
        Ok(shown["stdout"].as_str().unwrap_or_default().to_owned())
    }

    /// The store fails from now on, or is well again.
    pub(crate) fn set_ailing(&mut self, ailing: bool) {
        self.ailing = ailing;
        if ailing {
            self.shaken();
        }
    }

    /// The store gives wrong bytes from now on, or has.
    pub(crate) fn shaken(&mut self) {
        self.saved.iter_mut().for_each(|one| one.may_fail = true);
    }

    /// `forkpoint vault gc`; it may fail while the store does.
    async fn collect(&self) -> anyhow::Result<()> {
        let output = self.program.operator(&["vault", "gc"], None).await?;
        ensure!(output.status.success() || self.ailing, "vault gc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// A request that applies steps and shows the tree.
fn script(steps: &Value) -> Value {
    json!({ "command": ["python3", "-c", SCRIPT, steps.to_string()], "user": "root", "working_dir": "/" })
}

fn id(body: &Value) -> anyhow::Result<String> {
    Ok(body["id"].as_str().with_context(|| format!("no id in {body}"))?.to_owned())
}

/// Refuses two trees that differ, saying where.
pub(crate) fn same(found: &str, expected: &str, what: &str) -> anyhow::Result<()> {
    if found == expected {
        return Ok(());
    }
    let only = |one: &str, other: &str| {
        let lines = one.lines().filter(|line| !other.lines().any(|same| same == *line));
        lines.take(6).map(|line| format!("\n  {line}")).collect::<String>()
    };
    bail!("{what} is wrong: it has{}\nbut must have{}", only(found, expected), only(expected, found))
}
