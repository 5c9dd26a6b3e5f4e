//! What a bench makes on the server, remembered so that nothing of it stays.

use crate::{client::Client, commands::Failure, output::text};
use forkpoint_domain::ids::{CheckpointId, SandboxId};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Mutex, time::Instant};

/// How many are removed at once.
const PARALLEL: usize = 4;
/// A sandbox that this program could not remove any more ends by itself.
const LIFETIME_SECONDS: u32 = 4 * 3600;

/// A server, and what this bench has on it.
#[derive(Debug)]
pub(crate) struct World {
    /// To speak to it.
    pub(crate) client: Client,
    template: Option<String>,
    /// The label that all sandboxes and checkpoints of this run carry.
    label: String,
    made: Mutex<BTreeSet<Thing>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Sandbox(String),
    Checkpoint(String),
}

impl World {
    /// Nothing yet.
    pub(crate) fn new(client: Client, template: Option<String>) -> Self {
        Self { client, template, label: uuid::Uuid::new_v4().to_string(), made: Mutex::default() }
    }

    /// A new sandbox; `extra` fields go into the request.
    pub(crate) async fn sandbox(&self, extra: &Value) -> Result<String, Failure> {
        let mut body = json!({"timeout_seconds": LIFETIME_SECONDS, "metadata": {"bench": self.label}});
        if let Some(template) = &self.template {
            body["template"] = json!(template);
        }
        self.create(body, extra).await
    }

    /// A new sandbox from a checkpoint.
    pub(crate) async fn fork(&self, checkpoint: &str) -> Result<String, Failure> {
        let body = json!({"timeout_seconds": LIFETIME_SECONDS, "metadata": {"bench": self.label}, "checkpoint_id": checkpoint});
        self.create(body, &json!({})).await
    }

    async fn create(&self, mut body: Value, extra: &Value) -> Result<String, Failure> {
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let answer = self.client.post("/sandbox/create", &body).await?;
        let id: SandboxId = text(&answer, "sandbox_id").parse().map_err(|_| unexpected("a sandbox without an id"))?;
        self.remember(Thing::Sandbox(id.to_string()));
        Ok(id.to_string())
    }

    /// Runs `true` and checks that it did.
    pub(crate) async fn answers(&self, sandbox: &str) -> Result<(), Failure> {
        let answer = self.client.execute(sandbox, json!({"command": ["true"]})).await?;
        if answer.get("exit_code").and_then(Value::as_i64) == Some(0) {
            Ok(())
        } else {
            Err(unexpected("`true` did not end with 0"))
        }
    }

    /// Runs a line for the shell and checks that it ended with 0.
    pub(crate) async fn shell(&self, sandbox: &str, line: &str) -> Result<(), Failure> {
        let answer = self.client.execute(sandbox, json!({"command": line, "timeout": 3_600_000})).await?;
        if answer.get("exit_code").and_then(Value::as_i64) == Some(0) {
            return Ok(());
        }
        let why = text(&answer, "stderr");
        Err(Failure::Other(format!(
            "a command in a sandbox failed: {}",
            why.lines().last().unwrap_or("no reason given")
        )))
    }

    /// A checkpoint; gives its id and the whole answer.
    pub(crate) async fn checkpoint(&self, sandbox: &str) -> Result<(String, Value), Failure> {
        let body = json!({"name": "bench", "metadata": {"bench": self.label}});
        let answer = self.client.post(&format!("/sandbox/{sandbox}/checkpoints"), &body).await?;
        let id: CheckpointId = text(&answer, "id").parse().map_err(|_| unexpected("a checkpoint without an id"))?;
        self.remember(Thing::Checkpoint(id.to_string()));
        Ok((id.to_string(), answer))
    }

    /// Puts a sandbox back to a checkpoint.
    pub(crate) async fn restore(&self, sandbox: &str, checkpoint: &str) -> Result<(), Failure> {
        let body = json!({"checkpoint_id": checkpoint});
        self.client.post(&format!("/sandbox/{sandbox}/checkpoints/restore"), &body).await?;
        Ok(())
    }

    /// Removes a sandbox.
    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        self.remove(Thing::Sandbox(id.to_owned())).await
    }

    /// Removes a checkpoint.
    pub(crate) async fn remove_checkpoint(&self, id: &str) -> Result<(), Failure> {
        self.remove(Thing::Checkpoint(id.to_owned())).await
    }

    /// Removes sandboxes, several at once.
    pub(crate) async fn remove_sandboxes(&self, ids: Vec<String>) -> Result<(), Failure> {
        let things = ids.into_iter().map(Thing::Sandbox).collect();
        self.remove_all(things).await
    }

    /// Removes everything that this run made, and what it asked for without learning the id.
    pub(crate) async fn clear(&self) -> Result<(), Failure> {
        let mut things = self.made.lock().map(|made| made.clone()).unwrap_or_default();
        for (path, list) in [("/sandboxes", "sandboxes"), ("/checkpoints", "checkpoints")] {
            let answer = self.client.get(path, &[]).await?;
            for one in answer.get(list).and_then(Value::as_array).into_iter().flatten() {
                if one.pointer("/metadata/bench").and_then(Value::as_str) == Some(&self.label) {
                    let id = text(one, "id");
                    things.insert(if list == "sandboxes" { Thing::Sandbox(id) } else { Thing::Checkpoint(id) });
                }
            }
        }
        self.remove_all(things.into_iter().collect()).await
    }

    async fn remove_all(&self, things: Vec<Thing>) -> Result<(), Failure> {
        let removed: Vec<_> =
            stream::iter(things.into_iter().map(|thing| self.remove(thing))).buffer_unordered(PARALLEL).collect().await;
        removed.into_iter().collect()
    }

    async fn remove(&self, thing: Thing) -> Result<(), Failure> {
        let path = match &thing {
            Thing::Sandbox(id) => format!("/sandbox/{id}"),
            Thing::Checkpoint(id) => format!("/checkpoints/{id}"),
        };
        match self.client.delete(&path).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        if let Ok(mut made) = self.made.lock() {
            made.remove(&thing);
        }
        Ok(())
    }

    fn remember(&self, thing: Thing) {
        if let Ok(mut made) = self.made.lock() {
            made.insert(thing);
        }
    }
}

/// How long something took, in milliseconds.
pub(crate) fn millis_since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

fn unexpected(what: &str) -> Failure {
    Failure::Other(format!("the server gave {what}"))
}
