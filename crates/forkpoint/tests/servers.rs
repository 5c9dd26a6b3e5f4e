//! Several servers on one PostgreSQL, and a PostgreSQL that is away for a while.
#![allow(clippy::unwrap_used)]

#[path = "../../records/tests/support/postgres.rs"]
#[allow(dead_code, reason = "shared with the tests of the records, which use more")]
mod postgres;
mod support;

use futures::future::join_all;
use postgres::PostgresServer;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use support::{Server, doctor};

const SOON: Duration = Duration::from_secs(90);

/// Two servers with one database, one vault, one master key and one organisation.
async fn two_servers(url: &str, vault: &Path) -> (Server, Server) {
    let settings = [("database_url", url), ("vault", vault.to_str().unwrap())];
    let one = Server::start_with(&settings).await;
    let key = fs::read(one.data_dir().join("keys/master.key")).unwrap();
    let mut two = Server::start_with_key(&key, &settings).await;
    two.key.clone_from(&one.key);
    (one, two)
}

/// Makes a sandbox and checkpoints of it; gives their ids.
async fn work(server: &Server, name: &str, checkpoints: usize) -> (String, Vec<String>) {
    let sandbox = server.sandbox().await;
    let mut made = Vec::new();
    for number in 0..checkpoints {
        server.sh(&sandbox, &format!("echo {name}-{number} > f")).await;
        made.push(server.checkpoint(&sandbox, json!({ "name": format!("{name}-{number}") })).await);
    }
    (sandbox, made)
}

/// The durability of every checkpoint by its id.
async fn durabilities(server: &Server) -> BTreeMap<String, String> {
    let listed = server.get("/checkpoints").await.ok();
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    listed["checkpoints"].as_array().unwrap().iter().map(|one| (text(one, "id"), text(one, "durability"))).collect()
}

/// Waits until all of these are verified.
async fn verified(server: &Server, ids: &[String]) {
    let deadline = Instant::now() + SOON;
    loop {
        let known = durabilities(server).await;
        let open: Vec<_> = ids.iter().filter(|id| known[*id] != "verified").map(|id| (id, &known[id])).collect();
        if open.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{open:?}\n{}", server.logged());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often servers say that they verified a checkpoint.
fn verifications(servers: &[&Server], id: &str) -> usize {
    let said = |server: &Server| {
        server.logged().lines().filter(|line| line.contains("checkpoint is verified") && line.contains(id)).count()
    };
    servers.iter().map(|server| said(server)).sum()
}

fn bare(id: &str) -> &str {
    id.split_once('-').unwrap().1
}

fn run(database: &PostgresServer, statement: &str) {
    let done = database.psql(statement);
    assert!(done.status.success(), "{statement}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_under_load_one_is_killed_and_no_job_is_done_twice_or_forgotten() {
    let database = PostgresServer::start();
    let url = database.new_schema("two");
    let vault = tempfile::tempdir().unwrap();
    let (mut one, two) = two_servers(&url, vault.path()).await;

    // Both at work at once.
    let (of_one, of_two) = futures::join!(
        join_all((0..3).map(|n| work(&one, ["a", "b", "c"][n], 4))),
        join_all((0..3).map(|n| work(&two, ["d", "e", "f"][n], 4))),
    );
    let mut all: Vec<String> = of_one.iter().chain(&of_two).flat_map(|(_, made)| made.clone()).collect();
    verified(&two, &all).await;
    let (sandbox, saved) = &of_one[0];

    // Each sees what the other has, and leaves it alone.
    let shown = two.get(&format!("/sandbox/{sandbox}")).await.ok();
    assert_eq!(shown["state"], "running");
    let address = one.url.strip_prefix("http://").unwrap().to_owned();
    for (route, body) in [
        ("execute", json!({ "command": "true" })),
        ("stop", json!({})),
        ("extend", json!({ "additional_seconds": 5 })),
        ("checkpoints", json!({ "name": "x" })),
        ("checkpoints/restore", json!({ "checkpoint_id": saved[0] })),
        ("fork", json!({})),
    ] {
        let refused = two.post(&format!("/sandbox/{sandbox}/{route}"), body).await;
        let error = refused.refused(409, "sandbox_on_another_server");
        assert!(error["message"].as_str().unwrap().contains(&address), "{route}: {error}");
    }
    two.delete(&format!("/sandbox/{sandbox}")).await.refused(409, "sandbox_on_another_server");
    // Through the vault that they share, checkpoints go anywhere.
    let fork = two.sandbox_with(json!({ "checkpoint_id": saved[3] })).await;
    assert_eq!(two.sh(&fork, "cat f").await, "a-3\n");

    // One dies, with work that it had just begun, and work half done, which it has claimed.
    let fresh = work(&one, "late", 3).await;
    one.kill();
    all.extend(fresh.1.clone());
    // While it may only be slow, nobody touches what it has.
    let (lost, _) = &of_one[2];
    two.delete(&format!("/sandbox/{lost}")).await.refused(409, "sandbox_on_another_server");
    let left: Vec<String> = of_one[1].1.clone();
    let owner = format!("(SELECT server FROM two.sandboxes WHERE id = '{}')", bare(sandbox));
    for id in &left {
        run(
            &database,
            &format!(
                "INSERT INTO two.leases SELECT 'verify {id}', {owner}, extract(epoch FROM now() + interval '3 s') * 1000000"
            ),
        );
        run(
            &database,
            &format!(
                "UPDATE two.checkpoints SET durability = 'durable', durable_at = 1, verified_at = NULL WHERE id = '{}'",
                bare(id)
            ),
        );
    }
    let before: Vec<usize> = left.iter().map(|id| verifications(&[&two], id)).collect();
    verified(&two, &left).await;
    for (id, before) in left.iter().zip(before) {
        assert_eq!(verifications(&[&two], id), before + 1, "{id}");
    }
    // Only the dead one has these files.
    let known = durabilities(&two).await;
    let captured: Vec<&String> = fresh.1.iter().filter(|id| known[*id] == "captured").collect();
    assert!(!captured.is_empty(), "killed too late: {known:?}");
    let refused = two.post("/sandbox/create", json!({ "checkpoint_id": captured[0] })).await;
    refused.refused(409, "checkpoint_on_another_server");
    // When it is taken for dead, what it has can be deleted.
    run(&database, &format!("UPDATE two.servers SET alive_until = 1 WHERE address = '{address}'"));
    two.delete(&format!("/sandbox/{lost}")).await.ok();
    let refused = two.exec_with(sandbox, json!({ "command": "true" })).await.refused(409, "sandbox_on_another_server");
    assert!(refused["message"].as_str().unwrap().contains("does not answer"), "{refused}");

    // Back again: its sandboxes run, what was deleted is ended, and what only it could do is done.
    one.launch().await;
    assert_eq!(one.sh(sandbox, "cat f").await, "a-3\n");
    one.get(&format!("/sandbox/{lost}")).await.refused(404, "not_found");
    verified(&one, &all).await;
    for id in all.iter().filter(|id| !left.contains(id)) {
        assert_eq!(verifications(&[&one, &two], id), 1, "{id}");
    }
    one.owns(&[("cgroups", 3), ("namespaces", 4)]).await;
    two.owns(&[("cgroups", 4), ("namespaces", 5)]).await;

    // Both look for what has expired: each checkpoint goes once.
    run(&database, "UPDATE two.checkpoints SET expires_at = 1 WHERE name LIKE '_-1' OR name LIKE '_-2'");
    let expired: Vec<&String> = of_one.iter().chain(&of_two).flat_map(|(_, made)| [&made[1], &made[2]]).collect();
    let deadline = Instant::now() + SOON;
    while durabilities(&two).await.keys().any(|id| expired.contains(&id)) {
        assert!(Instant::now() < deadline, "{}", two.logged());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let events = database.psql("SELECT count(*) FROM two.events WHERE kind = 'checkpoint.deleted'");
    assert_eq!(String::from_utf8_lossy(&events.stdout).trim(), "12");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_to_two_servers_with_one_key_is_done_once() {
    let database = PostgresServer::start();
    let url = database.new_schema("once");
    let vault = tempfile::tempdir().unwrap();
    let (one, two) = two_servers(&url, vault.path()).await;
    for round in 0..4 {
        let send = |server: &Server| {
            let request = server.client.post(format!("{}/api/v1/sandbox/create", server.url));
            request
                .header("x-api-key", &server.key)
                .header("Idempotency-Key", format!("round-{round}"))
                .json(&json!({}))
                .send()
        };
        let answers = join_all([send(&one), send(&two), send(&two), send(&one)]).await;
        let mut ids = Vec::new();
        for answer in answers {
            let answer = answer.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            assert!(status.is_success(), "{status} {body}");
            ids.push(body["id"].as_str().unwrap().to_owned());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    assert_eq!(one.get("/sandboxes").await.ok()["sandboxes"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_requests_are_refused_before_any_effect_and_sandboxes_go_on() {
    let mut database = PostgresServer::start();
    let url = database.new_schema("away");
    let server = Server::start_with(&[("database_url", &url)]).await;
    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "(while :; do echo x >> ticks; sleep 0.05; done) > /dev/null 2>&1 &").await;
    let saved = server.checkpoint(&sandbox, json!({ "name": "saved" })).await;
    let ticks = server.sh(&sandbox, "wc -l < ticks").await.trim().parse::<u32>().unwrap();

    database.stop();
    let ask = async |path: &str, body: Value| {
        let begun = Instant::now();
        let request = server.client.post(format!("{}/api/v1{path}", server.url)).header("x-api-key", &server.key);
        let answer = request.json(&body).send().await.unwrap();
        let again = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
        assert!(begun.elapsed() < Duration::from_secs(30), "{path} waited for {:?}", begun.elapsed());
        assert_eq!((status, body["error"]["code"].as_str()), (503, Some("unavailable")), "{path}: {body}");
        assert!(again.is_some(), "{path}: no Retry-After");
    };
    for _ in 0..2 {
        ask("/sandbox/create", json!({})).await;
        ask("/sandbox", json!({})).await;
        ask(&format!("/sandbox/{sandbox}/stop"), json!({})).await;
        ask(&format!("/sandbox/{sandbox}/checkpoints"), json!({ "name": "late" })).await;
        ask(&format!("/sandbox/{sandbox}/checkpoints/restore"), json!({ "checkpoint_id": saved })).await;
        ask(&format!("/checkpoints/{saved}/clone"), json!({ "name": "late" })).await;
        ask(&format!("/sandbox/{sandbox}/fork"), json!({ "count": 2 })).await;
    }
    let health = server.client.get(format!("{}/healthz", server.url)).send().await.unwrap();
    assert_eq!(health.status().as_u16(), 200);

    database.start_again();
    let deadline = Instant::now() + SOON;
    while !server.get("/sandboxes").await.status.is_success() {
        assert!(Instant::now() < deadline, "{}", server.logged());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let later = server.sh(&sandbox, "wc -l < ticks").await.trim().parse::<u32>().unwrap();
    assert!(later > ticks, "{ticks} then {later}");
    let (sandboxes, checkpoints) = (server.get("/sandboxes").await.ok(), server.get("/checkpoints").await.ok());
    assert_eq!(sandboxes["sandboxes"].as_array().unwrap().len(), 1, "{sandboxes}");
    assert_eq!(checkpoints["checkpoints"].as_array().unwrap().len(), 1, "{checkpoints}");
    server.owns(&[("cgroups", 1), ("layers", 2), ("namespaces", 2)]).await;
    let fork = server.sandbox_with(json!({ "checkpoint_id": saved })).await;
    server.sh(&fork, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_when_the_database_ends_are_done_or_not_done() {
    let mut database = PostgresServer::start();
    let url = database.new_schema("flight");
    let server = Server::start_with(&[("database_url", &url)]).await;
    let sandbox = server.sandbox().await;
    let creations: Vec<_> = (0..8)
        .map(|_| {
            let request = server.client.post(format!("{}/api/v1/sandbox/create", server.url));
            tokio::spawn(request.header("x-api-key", &server.key).json(&json!({})).send())
        })
        .collect();
    // They are at it: one has got as far as to its processes.
    let deadline = Instant::now() + SOON;
    while doctor(&server.data_dir(), &["--database-url", &url])["owned"]["cgroups"].as_u64() < Some(2) {
        assert!(Instant::now() < deadline);
    }
    database.stop();
    database.start_again();
    let mut made = 0;
    for creation in creations {
        let answer = creation.await.unwrap().unwrap();
        assert!([201, 503].contains(&answer.status().as_u16()), "{answer:?}");
        made += u64::from(answer.status().is_success());
    }
    let running = 1 + made;
    server.owns(&[("cgroups", running), ("layers", running), ("namespaces", running + 1)]).await;
    let listed = server.get("/sandboxes").await.ok();
    assert_eq!(listed["sandboxes"].as_array().unwrap().len() as u64, running, "{listed}");
    server.sh(&sandbox, "true").await;
}
