//! What survives when the server, or a sandbox, is killed.
#![allow(clippy::unwrap_used)]

mod support;

use rand::{Rng, SeedableRng, rngs::StdRng};
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
    let agent = agent_of(&server);
    rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
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

/// The one agent that runs for this test's server.
fn agent_of(server: &Server) -> rustix::process::Pid {
    let folder = server.data_dir().join("run/instances");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let one: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    rustix::process::Pid::from_raw(one["pid"].as_i64().unwrap() as i32).unwrap()
}

/// What the test was told is durable.
#[derive(Default)]
struct Told {
    /// Checkpoint -> content of /workspace/f when it was captured.
    checkpoints: BTreeMap<String, String>,
    /// Sandboxes that were answered and not deleted since.
    sandboxes: BTreeMap<String, ()>,
}

/// Kills the server at random instants under a mixed load; afterwards everything that was answered is there,
/// and nothing else.
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
    let Told { checkpoints, .. } = std::mem::take(&mut *told.lock().unwrap());
    for id in checkpoints.keys() {
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

async fn verify(server: &Server, told: &Arc<Mutex<Told>>) {
    let (checkpoints, sandboxes) = {
        let told = told.lock().unwrap();
        (told.checkpoints.clone(), told.sandboxes.clone())
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
    server.delete(&format!("/sandbox/{target}")).await.ok();
    let running = list["sandboxes"].as_array().unwrap().iter().filter(|one| one["state"] == "running").count() as u64;
    server.owns(&[("cgroups", running), ("namespaces", running + 1), ("links", running + 1)]).await;
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
