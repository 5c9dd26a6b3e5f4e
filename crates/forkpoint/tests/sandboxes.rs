//! The life of sandboxes and what runs in them, through HTTP.
#![allow(clippy::unwrap_used)]

mod support;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_lives_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let made =
        server.post("/sandbox/create", json!({ "timeout_seconds": 300, "cpus": "0.5", "memory": "256Mi" })).await.ok();
    let sb = made["id"].as_str().unwrap();
    assert_eq!(
        (&made["sandbox_id"], &made["status"], &made["state"]),
        (&made["id"], &json!("running"), &json!("running"))
    );
    assert_eq!((&made["cpus"], &made["memory"]), (&json!("500m"), &json!("256Mi")));
    let status = server.get(&format!("/sandbox/{sb}/status")).await.ok();
    assert_eq!((&status["status"], &status["expires_at"]), (&json!("running"), &made["expires_at"]));
    assert_eq!(server.sh(sb, "id -un; pwd; cat /proc/1/comm").await, "sandbox\n/workspace\nforkpoint-agent\n");
    let (mounts, loops) = server.for_layers();
    server.owns(&[("cgroups", 1), ("layers", 1), ("mounts", 1 + mounts), ("loops", loops)]).await;

    server.sh(sb, "echo kept > /workspace/f; sleep 1000 > /dev/null 2>&1 &").await;
    server.post(&format!("/sandbox/{sb}/stop"), json!({})).await.ok();
    server.owns(&[("processes", 0), ("cgroups", 0), ("layers", 1)]).await;
    let stopped = server.get(&format!("/sandbox/{sb}")).await.ok();
    assert_eq!((&stopped["status"], &stopped["stop_reason"]), (&json!("terminated"), &json!("requested")));
    server.post(&format!("/sandbox/{sb}/start"), json!({})).await.ok();
    assert_eq!(server.sh(sb, "cat f").await, "kept\n");
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    server.get(&format!("/sandbox/{sb}")).await.refused(404, "not_found");
    server.delete(&format!("/sandbox/{sb}")).await.refused(404, "not_found");
    server.owns(&[("processes", 0), ("cgroups", 0), ("layers", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_ends_and_can_be_extended() {
    let server = Server::start().await;
    let (short, long) = (
        server.sandbox_with(json!({ "timeout_seconds": 2 })).await,
        server.sandbox_with(json!({ "timeout_seconds": 2 })).await,
    );
    server.post(&format!("/sandbox/{long}/extend"), json!({ "additional_seconds": 600 })).await.ok();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = server.get(&format!("/sandbox/{short}")).await.ok();
        if shown["state"] == "stopped" {
            assert_eq!(shown["stop_reason"], "timeout");
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.sh(&long, "echo here").await, "here\n");
    server
        .post(&format!("/sandbox/{long}/extend"), json!({ "additional_seconds": 0 }))
        .await
        .refused(400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_as_they_are_asked_for() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "NODE_ENV": "production" } })).await;
    for (body, code, stdout, stderr) in [
        (json!({ "command": "echo $NODE_ENV" }), 0, "production\n", ""),
        (json!({ "command": ["echo", "a  b", "$NODE_ENV", "'q'"] }), 0, "a  b $NODE_ENV 'q'\n", ""),
        (json!({ "command": "echo out; echo err >&2; exit 7" }), 7, "out\n", "err\n"),
        (json!({ "command": "cat <<'EOF'\na\nEOF" }), 0, "a\n", ""),
        (json!({ "command": "pwd", "working_dir": "/tmp" }), 0, "/tmp\n", ""),
        (json!({ "command": "pwd", "cwd": "/app" }), 0, "/app\n", ""),
        (json!({ "command": "id -u", "user": "root" }), 0, "0\n", ""),
        (json!({ "command": "cat", "stdin": "typed" }), 0, "typed", ""),
        (json!({ "command": "cat; echo end" }), 0, "end\n", ""),
        (json!({ "command": "echo $X$NODE_ENV", "env": { "X": "1", "NODE_ENV": "test" } }), 0, "1test\n", ""),
        (json!({ "command": "kill -9 $$" }), 137, "", ""),
        (json!({ "command": ["node", "-e", "console.log(\"Hello from sandbox!\")"] }), 0, "Hello from sandbox!\n", ""),
        (json!({ "command": "python -c 'print(6*7)'; touch /workspace/x /app/x ~/x" }), 0, "42\n", ""),
    ] {
        let result = server.exec_with(&sb, body.clone()).await.ok();
        assert_eq!(
            (&result["exit_code"], &result["stdout"], &result["stderr"]),
            (&json!(code), &json!(stdout), &json!(stderr)),
            "{body}"
        );
    }
    let missing = server.exec_with(&sb, json!({ "command": ["no-such-program"] })).await.ok();
    assert_eq!(missing["exit_code"], 127);
    for body in [
        json!({}),
        json!({ "command": "" }),
        json!({ "command": [] }),
        json!({ "command": 3 }),
        json!({ "command": "true", "working_dir": "tmp" }),
        json!({ "command": "true", "working_dir": "/no/such/place" }),
        json!({ "command": "true", "user": "nobody-here" }),
        json!({ "command": "true", "timeout": -1 }),
        json!({ "command": "true", "env": { "A=B": "1" } }),
    ] {
        server.exec_with(&sb, body).await.refused(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_background_children_and_output_limits() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let started = Instant::now();
    let result = server.exec_with(&sb, json!({ "command": "sleep 77 & sleep 77", "timeout": 300 })).await.ok();
    assert_eq!((&result["exit_code"], &result["timed_out"]), (&json!(124), &json!(true)));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(server.sh(&sb, "pgrep -xc sleep || true").await, "0\n");
    let started = Instant::now();
    assert_eq!(server.sh(&sb, "(sleep 2; echo late > late; echo late) & echo now").await, "now\n");
    assert!(started.elapsed() < Duration::from_secs(2));
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.exec_with(&sb, json!({ "command": "cat late" })).await.ok()["stdout"] != "late\n" {
        assert!(Instant::now() < deadline, "the background child died");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let result = server
        .exec_with(&sb, json!({ "command": "head -c 20000000 /dev/zero | tr '\\0' x; echo done >&2" }))
        .await
        .ok();
    assert_eq!((&result["output_truncated"], &result["stderr"]), (&json!(true), &json!("done\n")));
    assert_eq!(result["stdout"].as_str().unwrap().len(), 8 * 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_streams_as_it_is_written() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let answer = server
        .client
        .post(format!("{}/api/v1/sandbox/{sb}/execute", server.url))
        .header("Authorization", format!("Bearer {}", server.key))
        .json(&json!({ "command": "echo first; until [ -e go ]; do sleep 0.02; done; echo second >&2; exit 3", "stream": true }))
        .send()
        .await
        .unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    while !text.contains("first") {
        text += &String::from_utf8_lossy(&stream.next().await.unwrap().unwrap());
    }
    server.sh(&sb, "touch go").await;
    while let Some(part) = stream.next().await {
        text += &String::from_utf8_lossy(&part.unwrap());
    }
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(
        events,
        [
            json!({ "type": "stdout", "data": "first\n" }),
            json!({ "type": "stderr", "data": "second\n" }),
            json!({ "type": "exit", "code": 3, "output_truncated": false, "timed_out": false }),
            json!({ "type": "done" }),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_unchanged() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let route = format!("/sandbox/{sb}/files");
    // base64 of bytes 0, 255, 10, "é"
    let body = json!({ "files": [{ "path": "/workspace/deep/er/b.bin", "content": "AP8Kw6k=" }, { "path": "/workspace/t", "content": "dGV4dA==" }] });
    server.post(&route, body).await.ok();
    let read = server.get(&format!("{route}?path=/workspace/deep/er/b.bin")).await.ok();
    assert_eq!((&read["content"], &read["size"]), (&json!("AP8Kw6k="), &json!(5)));
    assert_eq!(
        server.sh(&sb, "stat -c '%U %a' deep t; od -An -tx1 deep/er/b.bin").await,
        "sandbox 755\nsandbox 644\n 00 ff 0a c3 a9\n"
    );
    for (path, status, code) in [
        ("/workspace/none", 404, "not_found"),
        ("/workspace", 400, "invalid_request"),
        ("workspace/t", 400, "invalid_request"),
        ("/workspace/../etc/shadow", 400, "invalid_request"),
    ] {
        server.get(&format!("{route}?path={path}")).await.refused(status, code);
    }
    server.post(&format!("{route}/mkdir"), json!({ "path": "/workspace/n/m", "recursive": true })).await.ok();
    server
        .post(&format!("{route}/copy"), json!({ "source": "/workspace/t", "destination": "/workspace/n/c" }))
        .await
        .ok();
    server
        .post(&format!("{route}/move"), json!({ "source": "/workspace/t", "destination": "/workspace/n/m/t" }))
        .await
        .ok();
    let found = server.get(&format!("{route}/list?path=/workspace/n&recursive=true")).await.ok();
    let mut paths: Vec<_> =
        found["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/workspace/n/c", "/workspace/n/m", "/workspace/n/m/t"]);
    let found = server.post(&format!("{route}/glob"), json!({ "pattern": "/workspace/**/*.bin" })).await.ok();
    assert_eq!(found["files"][0]["path"], "/workspace/deep/er/b.bin");
    let gone = server
        .call_as(&server.key, Method::DELETE, &route, Some(json!({ "path": "/workspace/n", "recursive": true })))
        .await;
    gone.ok();
    assert_eq!(server.sh(&sb, "ls").await, "deep\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_stream_in_constant_memory() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let raw = format!("{}/api/v1/sandbox/{sb}/files/raw?path=/workspace/big", server.url);
    let chunk = bytes_of(1 << 20);
    let total = 300;
    let body = reqwest::Body::wrap_stream(futures::stream::iter((0..total).map({
        let chunk = chunk.clone();
        move |_| Ok::<_, std::io::Error>(chunk.clone())
    })));
    let before = memory_peak(server.pid());
    let sent = server.client.put(&raw).header("x-api-key", &server.key).body(body).send().await.unwrap();
    assert!(sent.status().is_success(), "{}", sent.text().await.unwrap());
    let mut stream = server.client.get(&raw).header("x-api-key", &server.key).send().await.unwrap().bytes_stream();
    let mut got = 0;
    while let Some(part) = stream.next().await {
        got += part.unwrap().len();
    }
    assert_eq!(got, total << 20);
    let grown = memory_peak(server.pid()) - before;
    assert!(grown < 64 << 10, "{grown} KiB more");
    let part =
        server.client.get(&raw).header("x-api-key", &server.key).header("Range", "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(part.bytes().await.unwrap(), chunk[10..20]);
}

fn bytes_of(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 % 251) as u8).collect()
}

/// Peak resident memory in KiB.
fn memory_peak(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_happens_once_per_idempotency_key_and_refuses_nonsense() {
    let server = Server::start().await;
    let create = |key: &'static str, body: Value| {
        let request = server
            .client
            .post(format!("{}/api/v1/sandbox/create", server.url))
            .header("Authorization", format!("ApiKey {}", server.key))
            .header("Idempotency-Key", key)
            .json(&body);
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    let made = futures::future::join_all((0..5).map(|_| create("k1", json!({})))).await;
    assert!(made.iter().all(|(status, body)| *status < 300 && body["id"] == made[0].1["id"]), "{made:?}");
    let (status, body) = create("k1", json!({ "cpus": "2" })).await;
    assert_eq!((status, body["error"]["code"].as_str()), (409, Some("idempotency_key_reused")));
    for body in [
        json!({ "template": "nothing" }),
        json!({ "template": "../x" }),
        json!({ "cpus": "0" }),
        json!({ "memory": "lots" }),
        json!({ "memory": "1Ki" }),
        json!({ "timeout_seconds": 0 }),
        json!({ "timeout_seconds": "1" }),
        json!({ "env": { "A": 1 } }),
        json!({ "count": 0 }),
        json!({ "checkpoint_id": "x" }),
        json!([]),
    ] {
        server.post("/sandbox/create", body).await.refused(400, "invalid_request");
    }
    server.post("/sandbox/create", json!({ "isolation": "microvm" })).await.refused(409, "isolation_unavailable");
    let unknown = json!({ "checkpoint_id": format!("cp-{}", uuid::Uuid::new_v4()) });
    server.post("/sandbox/create", unknown).await.refused(404, "not_found");
    for key in ["", "nonsense", "sk-sandbox-a.b.c"] {
        server.call_as(key, Method::GET, "/sandboxes", None).await.refused(401, "unauthorized");
    }
    assert_eq!(server.get("/sandboxes").await.ok()["sandboxes"].as_array().unwrap().len(), 1);
    server.owns(&[("cgroups", 1), ("layers", 1)]).await;
    let many = server.post("/sandbox/create", json!({ "count": 4 })).await.ok();
    assert_eq!(many["sandboxes"].as_array().unwrap().len(), 4);
    // A revoked key is refused from the next call on.
    let other = server.post("/api-keys", json!({ "name": "ci" })).await.ok();
    let (id, text) = (other["api_key"]["id"].as_str().unwrap(), other["key"].as_str().unwrap());
    server.call_as(text, Method::GET, "/sandboxes", None).await.ok();
    server.delete(&format!("/api-keys/{id}")).await.ok();
    server.call_as(text, Method::GET, "/sandboxes", None).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_the_sandboxs_own_matter() {
    let server = Server::start_with(&[("sandbox_disk_bytes", "67108864"), ("layer_driver", "btrfs")]).await;
    let (full, other) = (server.sandbox().await, server.sandbox().await);
    let fill = "head -c 200M /dev/zero | tr '\\0' x > fill; echo code ${PIPESTATUS[1]}; ls -la fill | awk '{print ($5 < 70000000)}'";
    let result = server.exec_with(&full, json!({ "command": fill })).await.ok();
    assert_eq!(result["stdout"], "code 1\n1\n", "{result}");
    assert!(result["stderr"].as_str().unwrap().contains("quota exceeded"), "{result}");
    let body = json!({ "files": [{ "path": "/workspace/more", "content": "x".repeat(1 << 20), "encoding": "utf-8" }] });
    server.post(&format!("/sandbox/{full}/files"), body).await.refused(409, "sandbox_disk_full");
    // The neighbour has its own room, a fork of the full one too, and the full one works again when it has room.
    server.sh(&other, "head -c 40M /dev/zero > mine").await;
    let id = server.checkpoint(&full, json!({ "name": "full" })).await;
    let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
    server.sh(&fork, "head -c 40M /dev/zero > more").await;
    server.delete(&format!("/checkpoints/{id}")).await.ok();
    server.delete(&format!("/sandbox/{fork}")).await.ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    server.sh(&full, "rm fill").await;
    while server.exec_with(&full, json!({ "command": "head -c 40M /dev/zero > again && sync" })).await.ok()["exit_code"]
        != 0
    {
        assert!(Instant::now() < deadline, "no room came back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
