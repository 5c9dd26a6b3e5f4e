//! `forkpoint log`: draws how sandboxes and checkpoints came from each other.

use super::{Context, Failure};
use crate::output::{clean, human_time, text};
use forkpoint_domain::{
    ids::SandboxId,
    lineage::{LineageNode, draw},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What to draw.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Draw only what is related to this sandbox
    sandbox: Option<SandboxId>,
}

/// Draws it.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let (sandboxes, checkpoints) = tokio::try_join!(client.get("/sandboxes", &[]), client.get("/checkpoints", &[]))?;
    let list = |answer: Value, name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut sandboxes = list(sandboxes, "sandboxes");
    let mut checkpoints = list(checkpoints, "checkpoints");
    if let Some(id) = args.sandbox {
        let id = id.to_string();
        if !sandboxes.iter().any(|sandbox| text(sandbox, "id") == id) {
            return Err(Failure::Other(format!("no sandbox {id}")));
        }
        let family = related(&lineage(&sandboxes, &checkpoints, Timestamp::now()), &id);
        sandboxes.retain(|one| family.contains(&text(one, "id")));
        checkpoints.retain(|one| family.contains(&text(one, "id")));
    }
    let drawn = draw(&lineage(&sandboxes, &checkpoints, Timestamp::now()));
    let value = json!({"sandboxes": sandboxes, "checkpoints": checkpoints});
    context.output.value_or(&value, || drawn.lines().try_for_each(|line| context.output.line(line)))?;
    Ok(0)
}

/// All nodes, oldest first. A sandbox hangs below the checkpoint it was forked from; a checkpoint below the
/// sandbox it was taken in, or below the one that this sandbox was put back to before; a clone below its origin.
fn lineage(sandboxes: &[Value], checkpoints: &[Value], now: Timestamp) -> Vec<LineageNode> {
    let taken_in: HashMap<String, String> =
        checkpoints.iter().map(|one| (text(one, "id"), text(one, "sandbox_id"))).collect();
    let mut nodes = Vec::new();
    for sandbox in sandboxes {
        let (id, forked_from) = (text(sandbox, "id"), text(sandbox, "forked_from"));
        let based_on = text(sandbox, "based_on");
        let at =
            if based_on.is_empty() || based_on == forked_from { String::new() } else { format!(", at {based_on}") };
        let name = super::sandbox::name(sandbox);
        let name = if name.is_empty() { name } else { format!(" \"{name}\"") };
        let label = format!("{id}{name} {}{at}, {}", state(sandbox), human_time(&text(sandbox, "created_at"), now));
        nodes.push((text(sandbox, "created_at"), LineageNode { id, parent: Some(forked_from), label: clean(&label) }));
    }
    for checkpoint in checkpoints {
        let (id, sandbox) = (text(checkpoint, "id"), text(checkpoint, "sandbox_id"));
        let (earlier, origin) = (text(checkpoint, "parent_id"), text(checkpoint, "cloned_from"));
        let same_sandbox = taken_in.get(&earlier) == Some(&sandbox);
        let parent = match () {
            () if taken_in.contains_key(&origin) => origin,
            () if same_sandbox => earlier,
            () => sandbox,
        };
        let status = text(checkpoint, "status");
        let status = if status == "ready" || status.is_empty() { status } else { format!(" {status}") };
        let status = status.trim_start_matches("ready");
        let created = human_time(&text(checkpoint, "created_at"), now);
        let label = format!("{id} \"{}\"{status}, {created}", text(checkpoint, "name"));
        nodes.push((text(checkpoint, "created_at"), LineageNode { id, parent: Some(parent), label: clean(&label) }));
    }
    // Moments are ISO 8601 in one zone and precision: their texts sort as they do.
    nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
    nodes.into_iter().map(|(_, node)| node).collect()
}

fn state(sandbox: &Value) -> String {
    let state = text(sandbox, "state");
    if state.is_empty() { text(sandbox, "status") } else { state }
}

/// The ids of all nodes connected with one, itself included.
fn related(nodes: &[LineageNode], id: &str) -> BTreeSet<String> {
    let mut near: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        if let Some(parent) = &node.parent {
            near.entry(parent).or_default().push(&node.id);
            near.entry(&node.id).or_default().push(parent);
        }
    }
    // The empty parent stands for "none": it connects nothing.
    near.remove("");
    let mut found = BTreeSet::new();
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        if !next.is_empty() && found.insert(next.to_owned()) {
            open.extend(near.get(next).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, minute: u8, forked_from: Value, based_on: Value) -> Value {
        json!({"id": id, "state": "running", "forked_from": forked_from, "based_on": based_on,
            "created_at": format!("2026-01-01T00:{minute:02}:00.000Z"), "metadata": {}})
    }

    fn checkpoint(id: &str, minute: u8, sandbox: &str, parent: Value, cloned_from: Value) -> Value {
        json!({"id": id, "name": id.to_uppercase(), "sandbox_id": sandbox, "parent_id": parent, "cloned_from": cloned_from,
            "status": "ready", "created_at": format!("2026-01-01T00:{minute:02}:00.000Z")})
    }

    #[test]
    fn forks_clones_and_returns_are_drawn_where_they_branched_off() {
        let none = || Value::Null;
        // Newest first, as the server lists them.
        let sandboxes = [
            sandbox("sb-9", 9, none(), none()),
            sandbox("sb-2", 4, json!("cp-1"), json!("cp-1")),
            sandbox("sb-1", 0, none(), json!("cp-1")),
        ];
        let checkpoints = [
            checkpoint("cp-5", 6, "sb-2", json!("cp-1"), none()),
            checkpoint("cp-4", 5, "sb-1", none(), json!("cp-1")),
            checkpoint("cp-3", 3, "sb-1", json!("cp-1"), none()),
            checkpoint("cp-2", 2, "sb-1", none(), none()),
            checkpoint("cp-1", 1, "sb-1", none(), none()),
        ];
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let nodes = lineage(&sandboxes, &checkpoints, now);
        assert_eq!(
            draw(&nodes),
            "\
sb-1 running, at cp-1, 10m ago
├─ cp-1 \"CP-1\", 9m ago
│  ├─ cp-3 \"CP-3\", 7m ago
│  ├─ sb-2 running, 6m ago
│  │  └─ cp-5 \"CP-5\", 4m ago
│  └─ cp-4 \"CP-4\", 5m ago
└─ cp-2 \"CP-2\", 8m ago
sb-9 running, 1m ago
"
        );
        let family = related(&nodes, "sb-2");
        assert!(family.contains("cp-2") && family.contains("sb-1") && !family.contains("sb-9"));
        assert_eq!(related(&nodes, "sb-9").len(), 1);
    }
}
