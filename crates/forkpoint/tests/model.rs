//! Random file operations, checkpoints, restores and forks against a model of what must be there.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::collections::BTreeMap;
use support::Server;

/// Path below /workspace/m -> what is there.
type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File { content: String, mode: u32 },
    Directory,
    Link(String),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d e", "é"];

fn pick_path(random: &mut StdRng, tree: &Tree) -> String {
    let mut directories: Vec<String> =
        tree.iter().filter(|(_, node)| **node == Node::Directory).map(|(path, _)| path.clone() + "/").collect();
    directories.push(String::new());
    let directory = &directories[random.random_range(0..directories.len())];
    let name = NAMES[random.random_range(0..NAMES.len())];
    if directory.matches('/').count() > 3 { name.to_owned() } else { format!("{directory}{name}") }
}

fn remove(tree: &mut Tree, path: &str) {
    let below = format!("{path}/");
    tree.retain(|other, _| other != path && !other.starts_with(&below));
}

/// One random operation: shell commands and the same on the model.
fn operate(random: &mut StdRng, tree: &mut Tree) -> String {
    let path = pick_path(random, tree);
    let quoted = format!("'{path}'");
    match random.random_range(0..8) {
        0..=2 if tree.get(&path) != Some(&Node::Directory) => {
            let content = format!("{}", random.random::<u32>());
            let command = format!("rm -rf {quoted}; echo -n {content} > {quoted}; chmod 640 {quoted}");
            remove(tree, &path);
            tree.insert(path, Node::File { content, mode: 0o640 });
            command
        }
        3 if !tree.contains_key(&path) => {
            tree.insert(path, Node::Directory);
            format!("mkdir {quoted}")
        }
        4 => {
            remove(tree, &path);
            format!("rm -rf {quoted}")
        }
        5 => {
            remove(tree, &path);
            tree.insert(path, Node::Link("some/where".into()));
            format!("rm -rf {quoted}; ln -s some/where {quoted}")
        }
        6 => {
            // Rename, whole trees too.
            let to = pick_path(random, tree);
            if !tree.contains_key(&path)
                || to == path
                || to.starts_with(&format!("{path}/"))
                || path.starts_with(&format!("{to}/"))
            {
                return "true".into();
            }
            remove(tree, &to);
            let below = format!("{path}/");
            let moved: Vec<_> = tree
                .iter()
                .filter(|(other, _)| **other == path || other.starts_with(&below))
                .map(|(other, node)| (format!("{to}{}", &other[path.len()..]), node.clone()))
                .collect();
            remove(tree, &path);
            tree.extend(moved);
            format!("rm -rf '{to}'; mv -T {quoted} '{to}'")
        }
        7 => match tree.get_mut(&path) {
            Some(Node::File { content, mode }) => {
                *mode = 0o600;
                content.push('+');
                format!("chmod 600 {quoted}; echo -n + >> {quoted}")
            }
            _ => "true".into(),
        },
        _ => "true".into(),
    }
}

fn expected(tree: &Tree) -> String {
    tree.iter()
        .map(|(path, node)| match node {
            Node::File { content, mode } => format!("{path} f {mode:o} {content}\n"),
            Node::Directory => format!("{path} d\n"),
            Node::Link(target) => format!("{path} l {target}\n"),
        })
        .collect()
}

const SHOW: &str = r#"
import os
found = []
for root, dirs, files in os.walk("/workspace/m"):
    for name in dirs + files:
        path = os.path.join(root, name)
        short = path[len("/workspace/m/"):]
        if os.path.islink(path): found.append((short, f"l {os.readlink(path)}"))
        elif os.path.isdir(path): found.append((short, "d"))
        else: found.append((short, f"f {os.stat(path).st_mode & 0o777:o} {open(path).read()}"))
for short, what in sorted(found, key=lambda one: one[0].encode()): print(short, what)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_and_checkpoints_always_show_what_the_model_says() {
    let steps: u32 = std::env::var("FORKPOINT_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let seed: u64 = std::env::var("FORKPOINT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::process::id().into());
    eprintln!("FORKPOINT_TEST_SEED={seed} FORKPOINT_TEST_STEPS={steps}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::start().await;
    let first = server.sandbox().await;
    server.sh(&first, "mkdir m").await;
    let mut sandboxes: Vec<(String, Tree)> = vec![(first, Tree::new())];
    let mut checkpoints: Vec<(String, Tree)> = Vec::new();
    for step in 0..steps {
        let at = random.random_range(0..sandboxes.len());
        match random.random_range(0..10) {
            0..=4 => {
                let (sandbox, tree) = &mut sandboxes[at];
                let commands: Vec<String> = (0..8).map(|_| operate(&mut random, tree)).collect();
                server.sh(sandbox, &format!("set -e; cd m; {}", commands.join("; "))).await;
            }
            5 | 6 => {
                let (sandbox, tree) = &sandboxes[at];
                let id = server.checkpoint(sandbox, json!({ "name": format!("step {step}") })).await;
                checkpoints.push((id, tree.clone()));
            }
            7 if !checkpoints.is_empty() => {
                let (id, saved) = &checkpoints[random.random_range(0..checkpoints.len())];
                server.restore(&sandboxes[at].0, id).await;
                sandboxes[at].1 = saved.clone();
            }
            8 if !checkpoints.is_empty() && sandboxes.len() < 5 => {
                let (id, saved) = &checkpoints[random.random_range(0..checkpoints.len())];
                let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
                sandboxes.push((fork, saved.clone()));
            }
            9 if checkpoints.len() > 3 => {
                let (id, _) = checkpoints.swap_remove(random.random_range(0..checkpoints.len()));
                server.delete(&format!("/checkpoints/{id}")).await.ok();
            }
            _ => {}
        }
        let (sandbox, tree) = &sandboxes[at];
        let shown = server.exec_with(sandbox, json!({ "command": ["python3", "-c", SHOW] })).await.ok();
        assert_eq!(shown["stdout"].as_str().unwrap(), expected(tree), "step {step}, seed {seed}: {shown}");
    }
    // What differs between two checkpoints is what differs between their models.
    if let [(first, a), .., (last, b)] = &checkpoints[..] {
        let body = json!({ "checkpoint_id_1": first, "checkpoint_id_2": last });
        let diff = server.post("/checkpoints/compare", body).await.ok()["diff"].clone();
        let is_file = |node: &Node| *node != Node::Directory;
        let content = |node: &Node| match node {
            Node::File { content, .. } => format!("f{content}"),
            Node::Link(target) => format!("l{target}"),
            Node::Directory => String::new(),
        };
        let paths =
            |found: Vec<&String>| json!(found.iter().map(|path| format!("/workspace/m/{path}")).collect::<Vec<_>>());
        let only = |one: &Tree, other: &Tree| {
            paths(
                one.iter()
                    .filter(|(path, node)| is_file(node) && !other.get(*path).is_some_and(is_file))
                    .map(|(path, _)| path)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .cloned()
                    .collect::<Vec<_>>()
                    .iter()
                    .collect(),
            )
        };
        assert_eq!(diff["files_added"], only(b, a));
        assert_eq!(diff["files_removed"], only(a, b));
        let changed: Vec<&String> = a
            .iter()
            .filter(|(path, node)| {
                is_file(node) && b.get(*path).is_some_and(|other| is_file(other) && content(other) != content(node))
            })
            .map(|(path, _)| path)
            .collect();
        assert_eq!(diff["files_modified"], paths(changed));
    }
}
