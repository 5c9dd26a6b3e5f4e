//! Watching files in real sandboxes, through HTTP and by the program.
#![allow(clippy::unwrap_used)]

mod support;

use futures::{StreamExt as _, stream::BoxStream};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};
use support::Server;

/// A watch, read event by event.
struct Watch {
    pieces: BoxStream<'static, Vec<u8>>,
    held: Vec<u8>,
    ready: VecDeque<Value>,
}

impl Watch {
    /// Begins one; from then on changes are told.
    async fn begin(server: &Server, sandbox: &str, query: &str) -> (Self, Value) {
        let url = format!("{}/api/v1/sandbox/{sandbox}/files/watch?{query}", server.url);
        let request = server.client.get(url).header("Authorization", format!("ApiKey {}", server.key));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        let pieces = answer.bytes_stream().map(|piece| piece.unwrap().to_vec()).boxed();
        let mut watch = Self { pieces, held: Vec::new(), ready: VecDeque::new() };
        let first = watch.next().await;
        assert_eq!(first["type"], "watching");
        (watch, first)
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let piece = tokio::time::timeout(Duration::from_secs(60), self.pieces.next()).await;
            self.held.extend(piece.expect("nothing was told").expect("the stream ended"));
            while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data: ") {
                    self.ready.push_back(serde_json::from_slice(data).unwrap());
                }
            }
        }
    }

    /// Reads up to an event; gives all before it as `kind path`.
    async fn until(&mut self, kind: &str, path: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let event = self.next().await;
            assert_eq!(event["type"], "changed", "{event}");
            let (told, at) = (event["kind"].as_str().unwrap(), event["path"].as_str().unwrap());
            seen.push(format!("{told} {at}"));
            if (told, at) == (kind, path) {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_in_a_tree_is_told_as_it_happens() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "mkdir -p a/b; echo 1 > a/old; ln -s / a/link").await;
    let (mut flat, first) = Watch::begin(&server, &sb, "path=/workspace").await;
    assert_eq!(
        (&first["polled"], &first["recursive"], &first["path"]),
        (&json!(false), &json!(false), &json!("/workspace"))
    );
    let (mut deep, _) = Watch::begin(&server, &sb, "path=/workspace&recursive=true").await;
    server
        .sh(&sb, "echo 2 >> a/old; chmod 600 a/old; echo new > a/b/new; mv a/b/new a/b/moved; rm a/old; touch end")
        .await;
    assert_eq!(flat.until("created", "/workspace/end").await, ["created /workspace/end"]);
    let mut seen = deep.until("created", "/workspace/end").await;
    seen.dedup();
    let expected = [
        "modified /workspace/a/old",
        "attributes /workspace/a/old",
        "created /workspace/a/b/new",
        "modified /workspace/a/b/new",
        "removed /workspace/a/b/new",
        "created /workspace/a/b/moved",
        "removed /workspace/a/old",
        "created /workspace/end",
    ];
    let meant: Vec<_> = seen.iter().filter(|one| expected.contains(&one.as_str())).collect();
    assert_eq!(meant, expected.iter().collect::<Vec<_>>(), "{seen:?}");
    // New directories are watched too, with what was put into them at once; moved ones under their new name alone.
    server.sh(&sb, "mkdir -p n/e/w; echo x > n/e/w/file").await;
    deep.until("created", "/workspace/n/e/w/file").await;
    server.sh(&sb, "mv n moved; echo y > moved/e/w/second").await;
    let seen = deep.until("created", "/workspace/moved/e/w/second").await;
    let behind = seen.iter().skip_while(|one| *one != "removed /workspace/n").skip(1);
    assert!(!behind.clone().any(|one| one.contains("/workspace/n/")) && behind.count() > 0, "{seen:?}");
    // One file, also when it is replaced.
    let (mut file, _) = Watch::begin(&server, &sb, "path=/workspace/end").await;
    server.sh(&sb, "touch other; echo 1 > .new; mv .new end; echo 2 >> end").await;
    assert_eq!(file.until("modified", "/workspace/end").await.first().unwrap(), "created /workspace/end");

    server.sh(&sb, "rm -r moved; mkdir gone").await;
    let (mut gone, _) = Watch::begin(&server, &sb, "path=/workspace/gone").await;
    server.sh(&sb, "rmdir gone").await;
    assert_eq!(gone.next().await["type"], "gone");
    assert_eq!(gone.next().await["type"], "done");
    server.post(&format!("/sandbox/{sb}/stop"), json!({})).await.ok();
    loop {
        let event = flat.next().await;
        if event["type"] != "changed" {
            assert_eq!(event["type"], "error", "{event}");
            break;
        }
    }
    assert_eq!(flat.next().await["type"], "done");
    for (query, status, code) in [
        ("path=/workspace/nothing", 409, "sandbox_not_running"),
        ("path=workspace", 400, "invalid_request"),
        ("", 400, "invalid_request"),
        ("path=/&recursive=maybe", 400, "invalid_request"),
    ] {
        server.get(&format!("/sandbox/{sb}/files/watch?{query}")).await.refused(status, code);
    }
    server.post(&format!("/sandbox/{sb}/start"), json!({})).await.ok();
    server.get(&format!("/sandbox/{sb}/files/watch?path=/workspace/nothing")).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_is_told_of_the_loss() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let (mut watch, _) = Watch::begin(&server, &sb, "path=/workspace").await;
    // Many times what kernel queue, sockets and buffers hold together.
    let flood = "import os\nfor n in range(600000):\n open('x'*200+str(n%50),'w').close()";
    server.sh(&sb, &format!("python3 -c \"{flood}\"; touch end")).await;
    let mut lost = false;
    loop {
        let event = watch.next().await;
        lost |= event["type"] == "overflow";
        if lost {
            break;
        }
    }
    // It goes on: what happens now is told again.
    loop {
        server.sh(&sb, "touch again").await;
        let event = watch.next().await;
        if event["path"] == "/workspace/again" {
            break;
        }
        while watch.ready.pop_front().is_some_and(|event| event["path"] != "/workspace/again") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_a_watch_the_tree_is_looked_at_again_and_again() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "mkdir d; echo 1 > d/old; echo 1 > d/gone").await;
    // Takes every inotify instance that root may have inside.
    let hog = "import ctypes,time\nlibc=ctypes.CDLL(None)\nn=0\nwhile libc.inotify_init()>=0: n+=1\nopen('/workspace/hogged','w').write(str(n))\ntime.sleep(1000)";
    let body = json!({ "command": ["python3", "-c", hog], "user": "root" });
    server.post(&format!("/sandbox/{sb}/terminals"), body).await.ok();
    server.sh(&sb, "until [ -s hogged ]; do sleep 0.05; done").await;
    let (mut watch, first) = Watch::begin(&server, &sb, "path=/workspace&recursive=1").await;
    assert_eq!(first["polled"], true);
    server.sh(&sb, "rm d/gone; echo 22 >> d/old; echo 3 > d/new").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = watch.next().await;
        seen.push(format!("{} {}", event["kind"].as_str().unwrap(), event["path"].as_str().unwrap()));
    }
    seen.sort();
    assert_eq!(seen, ["created /workspace/d/new", "modified /workspace/d/old", "removed /workspace/d/gone"]);
    server.sh(&sb, "chmod 600 d/new").await;
    assert_eq!(watch.until("attributes", "/workspace/d/new").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_prints_what_happens_and_watches_are_bounded() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(["sandbox", "watch", &sb, "/workspace", "--json"])
        .env("FORKPOINT_URL", &server.url)
        .env("FORKPOINT_KEY", &server.key)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.next().unwrap().contains("\"watching\""));
    server.sh(&sb, "mkdir made").await;
    let told: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!(told, json!({ "type": "changed", "kind": "created", "path": "/workspace/made" }));
    server.root(&sb, "rm -rf /workspace").await;
    while lines.next().is_some() {}
    assert!(child.wait().unwrap().success());

    let mut watches = Vec::new();
    for _ in 0..64 {
        watches.push(Watch::begin(&server, &sb, "path=/tmp").await);
    }
    let path = format!("/sandbox/{sb}/files/watch?path=/tmp");
    server.get(&path).await.refused(409, "sandbox_exhausted");
    watches.clear();
    // Once the connections are seen to be gone there is room again.
    for _ in 0..200 {
        let request = server.client.request(Method::GET, format!("{}/api/v1{path}", server.url));
        let answer = request.header("Authorization", format!("ApiKey {}", server.key)).send().await.unwrap();
        if answer.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("ended watches keep their places");
}
