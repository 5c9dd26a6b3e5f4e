//! What one tenant leaves never reaches the next, and no organisation reaches another's.

use crate::kit::{Wrong, first_process, said};
use crate::support::Server;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

async fn outer_address(server: &Server, sandbox: &str) -> Ipv4Addr {
    server.get(&format!("/sandbox/{sandbox}")).await.ok()["pod_ip"].as_str().unwrap().parse().unwrap()
}

/// Answers every line with its own name.
const ECHO: &str = r#"
import os, socket, sys
listener = socket.socket(); listener.setsockopt(1, 2, 1); listener.bind(("0.0.0.0", 7000)); listener.listen()
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3): os.dup2(null, number)
    while True:
        peer, _ = listener.accept()
        if os.fork() == 0:
            while peer.recv(100): peer.send(sys.argv[1].encode())
"#;

fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"x")?;
    let mut answer = [0; 100];
    let count = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_tenant_gets_a_fresh_network_and_none_of_the_old_connections() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let first = server.sandbox().await;
    let address = outer_address(&server, &first).await;
    said(&server, &first, "sandbox", ECHO, &["first"]).await;
    let mut held = TcpStream::connect_timeout(&SocketAddr::from((address, 7000)), Duration::from_secs(5)).unwrap();
    assert_eq!(ask(&mut held).unwrap(), "first");
    // A question to the name server, so that there is a tracked connection; and things outside the layer.
    let marks = "import socket, os\ntry: socket.getaddrinfo('example.com', 80)\nexcept OSError: pass\n\
                 open('/dev/shm/mark', 'w').close(); open('/tmp/mark', 'w').close()";
    said(&server, &first, "sandbox", marks, &[]).await;
    server.root(&first, "touch /run/mark").await;
    let process = first_process(&server, &first);
    let namespace = std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    let uid = owner(process);
    // Held open, so that the kernel cannot give its number to another one.
    let _kept = std::fs::File::open(format!("/proc/{process}/ns/net")).unwrap();
    server.delete(&format!("/sandbox/{first}")).await.ok();

    let mut addresses = BTreeSet::from([address]);
    let mut uids = BTreeSet::from([uid]);
    for round in 0..8 {
        let next = server.sandbox().await;
        let other = outer_address(&server, &next).await;
        wrong.unless(addresses.insert(other), || format!("round {round}: {other} was given again at once"));
        let process = first_process(&server, &next);
        wrong.unless(uids.insert(owner(process)), || format!("round {round}: uids were given again at once"));
        let own = std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
        wrong.unless(own != namespace, || format!("round {round}: the same network namespace"));
        said(&server, &next, "sandbox", ECHO, &["next"]).await;
        let facts = server.root(&next, "ls /dev/shm /tmp /run | grep -c mark; tail -n +2 /proc/net/tcp | wc -l; tail -n +2 /proc/net/udp | wc -l; true").await;
        let facts: Vec<&str> = facts.lines().collect();
        // The agent's listener, its connection for this command, and the listener of the test.
        wrong.unless(facts[0] == "0" && facts[1].parse::<u32>().unwrap() <= 4 && facts[2] == "0", || {
            format!("round {round}: {facts:?}")
        });
        let answer = ask(&mut held);
        wrong.unless(!answer.as_ref().is_ok_and(|text| text.contains("next")), || format!("round {round}: {answer:?}"));
        if round % 2 == 0 {
            server.delete(&format!("/sandbox/{next}")).await.ok();
        }
    }
    let gone = TcpStream::connect_timeout(&SocketAddr::from((address, 7000)), Duration::from_secs(1));
    wrong.unless(gone.is_err(), || "the old address still answers".into());
}

/// The host's user of a process.
fn owner(process: u32) -> u64 {
    crate::kit::of_status(process, "Uid")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organisation_finds_nothing() {
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    let checkpoint = server.checkpoint(&sandbox, json!({ "name": "own" })).await;
    let other = server.register("Other").await;
    let own = server.call_as(&other, Method::POST, "/sandbox/create", Some(json!({}))).await.ok()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = |rest: &str| format!("/sandbox/{sandbox}{rest}");
    let file = json!({ "files": [{ "path": "/workspace/f", "content": "" }] });
    let calls: Vec<(Method, String, Option<Value>)> = vec![
        (Method::GET, path(""), None),
        (Method::GET, path("/status"), None),
        (Method::DELETE, path(""), None),
        (Method::POST, path("/stop"), Some(json!({}))),
        (Method::POST, path("/start"), Some(json!({}))),
        (Method::POST, path("/extend"), Some(json!({ "additional_seconds": 60 }))),
        (Method::POST, path("/fork"), Some(json!({}))),
        (Method::POST, path("/execute"), Some(json!({ "command": "id" }))),
        (Method::POST, path("/execute"), Some(json!({ "command": "id", "stream": true }))),
        (Method::POST, path("/files"), Some(file)),
        (Method::GET, path("/files?path=/etc/passwd"), None),
        (Method::GET, path("/files/raw?path=/etc/passwd"), None),
        (Method::GET, path("/files/list?path=/"), None),
        (Method::POST, path("/files/glob"), Some(json!({ "pattern": "/*" }))),
        (Method::POST, path("/files/mkdir"), Some(json!({ "path": "/workspace/d" }))),
        (Method::POST, path("/files/move"), Some(json!({ "source": "/etc/passwd", "destination": "/workspace/p" }))),
        (Method::POST, path("/files/copy"), Some(json!({ "source": "/etc/passwd", "destination": "/workspace/p" }))),
        (Method::DELETE, path("/files?path=/etc/passwd"), None),
        (Method::POST, path("/checkpoints"), Some(json!({ "name": "x" }))),
        (Method::POST, path("/checkpoints/restore"), Some(json!({ "checkpoint_id": checkpoint }))),
        (Method::GET, format!("/checkpoints/{checkpoint}"), None),
        (Method::DELETE, format!("/checkpoints/{checkpoint}"), None),
        (Method::POST, "/sandbox/create".into(), Some(json!({ "checkpoint_id": checkpoint }))),
        (Method::POST, format!("/sandbox/{own}/checkpoints/restore"), Some(json!({ "checkpoint_id": checkpoint }))),
        (
            Method::POST,
            "/checkpoints/compare".into(),
            Some(json!({ "checkpoint_id_1": checkpoint, "checkpoint_id_2": checkpoint })),
        ),
    ];
    let mut wrong = Wrong::default();
    for (method, path, body) in calls {
        let answer = server.call_as(&other, method.clone(), &path, body).await;
        wrong.unless(answer.status == 404, || format!("{method} {path}: {answer:?}"));
        let told = answer.body.to_string();
        wrong.unless(!told.contains("root:x"), || format!("{method} {path}: {told}"));
    }
    let listed = server.call_as(&other, Method::GET, "/sandboxes", None).await.ok();
    wrong.unless(!listed.to_string().contains(&sandbox), || format!("{listed}"));
    assert_eq!(server.sh(&sandbox, "ls; echo here").await, "here\n");
}
