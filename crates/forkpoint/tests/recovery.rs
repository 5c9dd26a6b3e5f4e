//! What survives when the server, or a sandbox, is killed.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "faults/tree.rs"]
mod tree;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_outlive_a_killed_server_and_checkpoints_are_all_there() {
    let mut server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "K": "v" } })).await;
    server.sh(&sb, "echo one > f; (while :; do echo x >> ticks; sleep 0.05; done) > /dev/null 2>&1 &").await;
    let cp = server.checkpoint(&sb, json!({ "name": "before" })).await;
    server.sh(&sb, "echo two > f").await;
    server.kill();
    let owned = server.doctor();
    assert_eq!((&owned["owned"]["cgroups"], &owned["server"]["running"]), (&json!(1), &json!(false)));
    server.launch().await;
    let shown = server.get(&format!("/sandbox/{sb}")).await.ok();
    assert_eq!(shown["state"], "running");
    assert_eq!(
        server
            .sh(&sb, "cat f; echo $K; a=$(wc -l < ticks); sleep 0.3; [ $(wc -l < ticks) -gt $a ] && echo goes on")
            .await,
        "two\nv\ngoes on\n"
    );
    server.restore(&sb, &cp).await;
    assert_eq!(server.sh(&sb, "cat f").await, "one\n");
    // A graceful end lets them live too.
    server.stop();
    server.launch().await;
    assert_eq!(server.sh(&sb, "cat f").await, "one\n");
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.delete(&format!("/checkpoints/{cp}")).await.ok();
    server.stop();
    let left = server.doctor();
    let none = left["owned"].as_object().unwrap().iter().filter(|(_, count)| **count != json!(0)).count();
    assert_eq!(none, 0, "a server that ends with nothing running leaves nothing: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_first_process_is_killed_is_stopped_and_starts_again() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo kept > f").await;
    // As root inside, processes other than the first can be killed; the first is killed from outside.
    let agents = agents_of(&server);
    assert_eq!(agents.len(), 1);
    kill_process(agents[0], Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = server.get(&format!("/sandbox/{sb}")).await.ok();
        if shown["state"] == "stopped" {
            assert_eq!(shown["stop_reason"], "died");
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.owns(&[("processes", 0), ("cgroups", 0)]).await;
    server.exec_with(&sb, json!({ "command": "true" })).await.refused(409, "sandbox_not_running");
    server.post(&format!("/sandbox/{sb}/start"), json!({})).await.ok();
    assert_eq!(server.sh(&sb, "cat f").await, "kept\n");
}

/// The first processes of this server's sandboxes.
fn agents_of(server: &Server) -> Vec<Pid> {
    let files = std::fs::read_dir(server.data_dir().join("run/instances")).unwrap();
    let pid = |text: Vec<u8>| Pid::from_raw(serde_json::from_slice::<Value>(&text).ok()?["pid"].as_i64()? as i32);
    files.filter_map(|file| pid(std::fs::read(file.ok()?.path()).ok()?)).collect()
}

/// What the test was told is durable.
#[derive(Default)]
struct Told {
    /// Checkpoint -> content of /workspace/f when it was captured.
    checkpoints: BTreeMap<String, String>,
    /// Checkpoint -> all that must be seen in a sandbox that it is restored into.
    trees: BTreeMap<String, String>,
    /// Sandboxes that were answered and not deleted since.
    sandboxes: BTreeMap<String, ()>,
}

/// Kills the server at random instants under a mixed load, and now and then the first process of a sandbox or a jail
/// that is being made; afterwards everything that was answered is there, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_and_nothing_leaks_under_kills() {
    let rounds: u64 = std::env::var("FORKPOINT_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let seed: u64 = std::env::var("FORKPOINT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::process::id().into());
    eprintln!("FORKPOINT_TEST_SEED={seed} FORKPOINT_TEST_KILLS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let told = Arc::new(Mutex::new(Told::default()));
    let source = server.sandbox().await;
    for name in ["first", "second"] {
        let shown = match name {
            "first" => tree::make_first(&server, &source).await,
            _ => tree::make_second(&server, &source).await,
        };
        let id = server.checkpoint(&source, json!({ "name": name })).await;
        told.lock().unwrap().trees.insert(id, shown);
    }
    server.delete(&format!("/sandbox/{source}")).await.ok();
    for round in 0..rounds {
        let workers: Vec<_> = (0..3)
            .map(|index| {
                let worker = Worker {
                    url: format!("{}/api/v1", server.url),
                    key: server.key.clone(),
                    client: server.client.clone(),
                    told: told.clone(),
                };
                tokio::spawn(worker.run(random.random(), format!("{round}-{index}")))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(5..1200))).await;
        if random.random_bool(0.4) {
            kill_a_part(&server, &mut random);
            tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
        }
        server.kill();
        for worker in workers {
            // It ends at the first broken connection.
            worker.await.unwrap();
        }
        server.launch().await;
        if round % 5 == 4 || round + 1 == rounds {
            verify(&server, &told).await;
        }
    }
    let Told { checkpoints, trees, .. } = std::mem::take(&mut *told.lock().unwrap());
    for id in checkpoints.keys().chain(trees.keys()) {
        server.delete(&format!("/checkpoints/{id}")).await.ok();
    }
    let all = server.get("/sandboxes").await.ok();
    for one in all["sandboxes"].as_array().unwrap() {
        server.delete(&format!("/sandbox/{}", one["id"].as_str().unwrap())).await.ok();
    }
    let rest = server.get("/checkpoints").await.ok();
    for one in rest["checkpoints"].as_array().unwrap() {
        server.delete(&format!("/checkpoints/{}", one["id"].as_str().unwrap())).await.ok();
    }
    server.owns(&[("processes", 0), ("cgroups", 0), ("layers", 0), ("namespaces", 1), ("links", 1)]).await;
}

/// Kills the first process of a sandbox, or a process that the server has started: a jail that is being made.
fn kill_a_part(server: &Server, random: &mut StdRng) {
    let mut parts = agents_of(server);
    parts.extend(children_of(server.pid()));
    if let Some(part) = parts.choose(random) {
        // It may be gone by now.
        let _ = kill_process(*part, Signal::KILL);
    }
}

/// Processes whose parent is this one.
fn children_of(parent: u32) -> Vec<Pid> {
    // After the name in parentheses: state, parent.
    let parent_of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        text.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .filter_map(Pid::from_raw)
        .collect()
}

/// How many checkpoints a look leaves for the next one.
const KEPT: usize = 40;

async fn verify(server: &Server, told: &Arc<Mutex<Told>>) {
    let (checkpoints, trees, sandboxes) = {
        let told = told.lock().unwrap();
        (told.checkpoints.clone(), told.trees.clone(), told.sandboxes.clone())
    };
    let list = server.get("/sandboxes").await.ok();
    let listed: Vec<&str> =
        list["sandboxes"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    for id in sandboxes.keys() {
        assert!(listed.contains(&id.as_str()), "sandbox {id} was answered and is gone");
    }
    let target = server.sandbox().await;
    for (id, content) in &checkpoints {
        server.restore(&target, id).await;
        assert_eq!(server.sh(&target, "cat f").await.trim(), content, "checkpoint {id}");
    }
    for (id, shown) in &trees {
        server.restore(&target, id).await;
        tree::same(&tree::show(server, &target).await, shown, &format!("checkpoint {id}"));
    }
    server.delete(&format!("/sandbox/{target}")).await.ok();
    // Those whose first process was killed have been seen to be dead by now.
    let list = server.get("/sandboxes").await.ok();
    let running = list["sandboxes"].as_array().unwrap().iter().filter(|one| one["state"] == "running").count() as u64;
    server.owns(&[("cgroups", running), ("namespaces", running + 1), ("links", running + 1)]).await;
    // Long runs would else end with more than one host can have.
    for one in list["sandboxes"].as_array().unwrap() {
        server.delete(&format!("/sandbox/{}", one["id"].as_str().unwrap())).await.ok();
    }
    told.lock().unwrap().sandboxes.clear();
    // Nor should each look take longer than the one before: some that have outlived many kills go.
    let surplus = checkpoints.len().saturating_sub(KEPT);
    for id in checkpoints.keys().take(surplus) {
        server.delete(&format!("/checkpoints/{id}")).await.ok();
        told.lock().unwrap().checkpoints.remove(id);
    }
}

struct Worker {
    url: String,
    key: String,
    client: reqwest::Client,
    told: Arc<Mutex<Told>>,
}

impl Worker {
    /// Creates, writes, captures, forks, restores and deletes until the connection breaks.
    async fn run(self, seed: u64, name: String) {
        let mut random = StdRng::seed_from_u64(seed);
        let _ = self.work(&mut random, &name).await;
    }

    async fn work(&self, random: &mut StdRng, name: &str) -> Option<()> {
        let mut own: Vec<String> = Vec::new();
        for step in 0.. {
            match random.random_range(0..6) {
                0 | 1 if own.len() < 3 => {
                    let made = self.call("/sandbox/create", json!({})).await?;
                    own.push(self.keep(&made["id"])?);
                }
                2 if !own.is_empty() => {
                    let sb = own[random.random_range(0..own.len())].clone();
                    let content = format!("{name}-{step}");
                    let run = self
                        .call(
                            &format!("/sandbox/{sb}/execute"),
                            json!({ "command": format!("echo {content} > f; sync f") }),
                        )
                        .await?;
                    if run["exit_code"] != 0 {
                        continue;
                    }
                    let made = self.call(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": content })).await?;
                    let id = made["id"].as_str()?.to_owned();
                    self.told.lock().unwrap().checkpoints.insert(id, content);
                }
                3 => {
                    let known = { self.told.lock().unwrap().checkpoints.keys().next().cloned() };
                    if let Some(id) = known
                        && own.len() < 4
                    {
                        let made = self.call("/sandbox/create", json!({ "checkpoint_id": id })).await?;
                        own.push(self.keep(&made["id"])?);
                    }
                }
                4 if !own.is_empty() => {
                    let known = { self.told.lock().unwrap().checkpoints.keys().next_back().cloned() };
                    if let Some(id) = known {
                        let sb = &own[random.random_range(0..own.len())];
                        self.call(&format!("/sandbox/{sb}/checkpoints/restore"), json!({ "checkpoint_id": id }))
                            .await?;
                    }
                }
                5 if !own.is_empty() => {
                    let sb = own.swap_remove(random.random_range(0..own.len()));
                    self.told.lock().unwrap().sandboxes.remove(&sb);
                    let request = self.client.delete(format!("{}/sandbox/{sb}", self.url));
                    request.header("x-api-key", &self.key).send().await.ok()?;
                }
                _ => {}
            }
        }
        None
    }

    fn keep(&self, id: &Value) -> Option<String> {
        let id = id.as_str()?.to_owned();
        self.told.lock().unwrap().sandboxes.insert(id.clone(), ());
        Some(id)
    }

    /// The answer to a POST; `None` once the server is gone.
    async fn call(&self, path: &str, body: Value) -> Option<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).header("x-api-key", &self.key).json(&body);
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let body: Value = answer.json().await.ok()?;
        assert!(status.as_u16() != 500 && !body.is_null(), "{path}: {status} {body}");
        // Answered after the kill began, a refusal is as good as a broken connection.
        status.is_success().then_some(body)
    }
}
