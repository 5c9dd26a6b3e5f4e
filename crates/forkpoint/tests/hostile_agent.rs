//! A sandbox whose agent is in an enemy's hand, against the real server: it stays up, small, and says what happened.
//!
//! The enemy stands in the sandbox's own network namespace, where a rule leads the agent's port to it.
#![allow(clippy::unwrap_used)]

mod support;

use forkpoint_protocol::{AgentFrame, Entry, EntryKind, codec};
use reqwest::Method;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::Server;

/// What the enemy says: this once, and that for ever.
#[derive(Clone, Default)]
struct Lie {
    once: Vec<u8>,
    then: Vec<u8>,
    stays: bool,
}

/// Takes the agent's place in a sandbox; what it says can be changed.
fn replace_agent(server: &Server, sandbox: &str) -> Arc<Mutex<Lie>> {
    let path = server.data_dir().join(format!("run/instances/{sandbox}.json"));
    let remembered: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let namespace = format!("/proc/{}/ns/net", remembered["pid"]);
    let file = File::open(&namespace).unwrap();
    // Namespaces belong to threads; a listener stays where it was made.
    let listener = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind("10.0.0.2:0").unwrap()
    })
    .join()
    .unwrap();
    let port = listener.local_addr().unwrap().port();
    let rules = format!(
        "table ip enemy {{ chain c {{ type nat hook prerouting priority -100; tcp dport 4650 redirect to :{port}; }}; }}"
    );
    let mut nft = Command::new("nsenter")
        .arg(format!("--net={namespace}"))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    let lie = Arc::new(Mutex::new(Lie::default()));
    let told = Arc::clone(&lie);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let lie = told.lock().unwrap().clone();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let mut result = stream.write_all(&lie.once);
                while result.is_ok() && !lie.then.is_empty() {
                    result = stream.write_all(&lie.then);
                }
                while lie.stays && stream.read(&mut request).is_ok_and(|length| length > 0) {}
            });
        }
    });
    lie
}

fn frame(frame: &AgentFrame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(frame, &mut bytes).unwrap();
    bytes
}

fn entry(kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: b"/workspace/f".into(),
        kind,
        size,
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: String::new(),
        group: String::new(),
        modified_ns: i64::MIN,
        target: Some(b"\xff\n".into()),
    }
}

/// A number of KiB from the server's `/proc/<pid>/status`.
fn memory(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_of_an_agent_are_refusals_of_that_sandbox_and_nobody_else_notices() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    server.sh(&neighbour, "echo here > f").await;
    let enemy = replace_agent(&server, &sandbox);
    let before = memory(&server, "VmHWM");
    let started = frame(&AgentFrame::Started { pid: 1 });
    let repeated = |one: Vec<u8>| one.iter().copied().cycle().take(one.len() * 2000).collect::<Vec<u8>>();
    let huge_file = frame(&AgentFrame::Entry(entry(EntryKind::File, u64::MAX)));
    let content = frame(&AgentFrame::Data(&[b'x'; 100_000]));
    let lies = [
        ("an end", Lie::default()),
        ("garbage", Lie { once: vec![0xa5; 9000], ..Lie::default() }),
        ("a huge length", Lie { once: u32::MAX.to_le_bytes().to_vec(), then: vec![0; 65536], stays: false }),
        ("half a frame", Lie { once: content[..1000].to_vec(), ..Lie::default() }),
        ("another's answer", Lie { once: frame(&AgentFrame::StdinTaken(77)), ..Lie::default() }),
        (
            "nothing for ever",
            Lie { once: started.clone(), then: repeated(frame(&AgentFrame::StdinTaken(0))), stays: false },
        ),
        (
            "output for ever",
            Lie { once: started.clone(), then: repeated(frame(&AgentFrame::Stdout(&[b'x'; 1000]))), stays: false },
        ),
        (
            "entries for ever",
            Lie {
                once: Vec::new(),
                then: frame(&AgentFrame::Entries(vec![entry(EntryKind::File, 1); 9000])),
                stays: false,
            },
        ),
        ("content for ever", Lie { once: huge_file, then: content, stays: false }),
        (
            "a loud error",
            Lie {
                once: frame(&AgentFrame::Error {
                    kind: forkpoint_protocol::ErrorKind::Other,
                    message: "\u{1b}[2J\n".repeat(90_000),
                }),
                ..Lie::default()
            },
        ),
    ];
    let path = |rest: &str| format!("/sandbox/{sandbox}{rest}");
    let file = json!({ "files": [{ "path": "/workspace/f", "content": "eA==" }] });
    let calls = [
        (Method::POST, path("/execute"), Some(json!({ "command": "true", "timeout": 2000 }))),
        (Method::POST, path("/execute"), Some(json!({ "command": "cat", "stdin": "x", "timeout": 2000 }))),
        (Method::POST, path("/files"), Some(file)),
        (Method::GET, path("/files?path=/workspace/f"), None),
        (Method::GET, path("/files/list?path=/workspace"), None),
        (Method::POST, path("/files/glob"), Some(json!({ "pattern": "/**" }))),
        (Method::POST, path("/files/mkdir"), Some(json!({ "path": "/workspace/d" }))),
        (Method::DELETE, path("/files?path=/workspace/f"), None),
        (Method::GET, path("/status"), None),
    ];
    let mut wrong = Vec::new();
    for (name, lie) in &lies {
        *enemy.lock().unwrap() = lie.clone();
        for (method, path, body) in &calls {
            let began = Instant::now();
            let answer = server.call_as(&server.key, method.clone(), path, body.clone()).await;
            let status = answer.status.as_u16();
            let is_lie_believed = path.ends_with("execute") && status == 200 && answer.body["exit_code"] == 0;
            if status >= 500 || is_lie_believed || began.elapsed() > Duration::from_secs(20) {
                wrong.push(format!(
                    "{name}: {method} {path}: {:?} {status} {:.300}",
                    began.elapsed(),
                    answer.body.to_string()
                ));
            }
            let told = answer.body["error"]["message"].as_str().unwrap_or("");
            if told.len() > 2000 || told.contains('\u{1b}') {
                wrong.push(format!("{name}: {method} {path}: the message has {} bytes", told.len()));
            }
        }
        let began = Instant::now();
        if server.sh(&neighbour, "cat f").await != "here\n" || began.elapsed() > Duration::from_secs(5) {
            wrong.push(format!("{name}: the neighbour took {:?}", began.elapsed()));
        }
    }
    let grown = memory(&server, "VmHWM").saturating_sub(before);
    // A whole file may have 64 MiB, and is base64 in JSON on its way out.
    if grown > 384 << 10 {
        wrong.push(format!("the server grew by {} MiB", grown >> 10));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_holds_up_neither_its_callers_nor_the_end_of_its_sandbox() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let enemy = replace_agent(&server, &sandbox);
    // It says that the command runs, and then nothing.
    *enemy.lock().unwrap() = Lie { once: frame(&AgentFrame::Started { pid: 9 }), then: Vec::new(), stays: true };
    let began = Instant::now();
    let result = server.exec_with(&sandbox, json!({ "command": "true", "timeout": 1000 })).await.ok();
    assert_eq!((&result["exit_code"], &result["timed_out"]), (&json!(124), &json!(true)), "{result}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    // A capture does not need the agent; and whoever waits for it is let go when its sandbox goes.
    server.checkpoint(&sandbox, json!({ "name": "without" })).await;
    let waiting = server.exec_with(&sandbox, json!({ "command": "true" }));
    let ending = async {
        assert_eq!(server.sh(&neighbour, "echo here").await, "here\n");
        let began = Instant::now();
        server.delete(&format!("/sandbox/{sandbox}")).await.ok();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    };
    let (answer, ()) = tokio::join!(waiting, ending);
    let is_told = answer.body["interrupted"] == true || answer.status.is_client_error();
    assert!(is_told, "{answer:?}");
    assert_eq!(server.sh(&neighbour, "echo here").await, "here\n");
}
