//! File routes under a sandbox that changes the ground while they work.

use crate::kit::{Wrong, put, said};
use crate::support::Server;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Exchanges a directory and a link to /etc as fast as it can, for as long as `/workspace/racing` is there.
const RACE: &str = r#"
import os
os.makedirs("/workspace/folder", exist_ok=True)
os.symlink("/etc", "/workspace/link")
open("/workspace/racing", "w").close()
os.rename("/workspace/folder", "/workspace/x")
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3): os.dup2(null, number)
    while os.path.exists("/workspace/racing"):
        for _ in range(100):
            try:
                os.rename("/workspace/x", "/workspace/folder"); os.rename("/workspace/link", "/workspace/x")
                os.rename("/workspace/x", "/workspace/link"); os.rename("/workspace/folder", "/workspace/x")
            except OSError:
                pass
    os._exit(0)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_race_of_links_never_leads_out_of_the_sandbox() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let mark = format!("forkpoint-race-{}", std::process::id());
    let host_name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    said(&server, &sandbox, "root", RACE, &[]).await;
    let route = format!("/sandbox/{sandbox}/files");
    let mut wrong = Wrong::default();
    let mut seen = [0, 0];
    for round in 0..60 {
        let target = format!("/workspace/x/{mark}");
        let file = json!({ "path": target, "content": "inside", "encoding": "utf-8" });
        let calls: [(Method, String, Value); 5] = [
            (Method::POST, route.clone(), json!({ "files": [file] })),
            (Method::POST, format!("{route}/mkdir"), json!({ "path": format!("{target}-d{round}/e") })),
            (
                Method::POST,
                format!("{route}/copy"),
                json!({ "source": "/workspace/x/hostname", "destination": format!("{target}-c") }),
            ),
            (
                Method::POST,
                format!("{route}/move"),
                json!({ "source": format!("{target}-c"), "destination": format!("{target}-m") }),
            ),
            (Method::DELETE, route.clone(), json!({ "path": format!("{target}-d{round}"), "recursive": true })),
        ];
        for (method, path, body) in calls {
            let answer = server.call_as(&server.key, method, &path, Some(body)).await;
            let status = answer.status.as_u16();
            seen[usize::from(status >= 400)] += 1;
            wrong.unless(status < 500 || status == 503, || format!("{path}: {answer:?}"));
        }
        let read = server.get(&format!("{route}?path=/workspace/x/hostname")).await;
        if let Some(content) = read.body["content"].as_str() {
            let content = String::from_utf8(base64_decode(content)).unwrap();
            wrong.unless(content.is_empty() || content != host_name, || "the host's name was read".into());
        }
    }
    server.root(&sandbox, "rm /workspace/racing").await;
    wrong.unless(seen[0] > 20, || format!("{seen:?}: nearly nothing succeeded, so nothing was tried"));
    let on_host = std::fs::read_dir("/etc")
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_str().is_some_and(|name| name.starts_with(&mark)));
    wrong.unless(!on_host, || "the host's /etc was written".into());
    let other = server.sh(&neighbour, &format!("ls -a /etc | grep -c {mark} || true")).await;
    wrong.unless(other == "0\n", || "the neighbour's /etc was written".into());
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

const PLANT: &str = r#"
import os, socket
os.chdir("/workspace")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
for name, target in {"zero": "/dev/zero", "random": "/dev/urandom", "terminal": "/dev/ptmx", "kcore": "/proc/kcore",
                     "memory": "/proc/self/mem", "log": "/proc/kmsg", "loop": "loop", "gone": "/nowhere",
                     "up": "../../../../../../../../etc/shadow", "magic": "/proc/1/root/etc/passwd",
                     "agent": "/proc/1/fd/3", "pipe-link": "pipe"}.items():
    os.symlink(target, name)
for name in [b"new\nline", b"bad\xff\xfeutf", b"\x1b[31mred", b"quote'\"", b"n" * 255, b"tab\t", b"\xe2\x80\xaegnp.exe"]:
    open(name, "w").close()
with open("huge", "wb") as file:
    file.truncate(1 << 42)
os.mkdir("self")
chain = "chain"
os.mkdir(chain)
for _ in range(300):
    chain += "/d"; os.mkdir(chain)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn special_files_strange_names_and_endless_content_are_answered_at_once() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    said(&server, &sandbox, "root", PLANT, &[]).await;
    let route = format!("/sandbox/{sandbox}/files");
    let mut wrong = Wrong::default();
    let before = crate::kit::of_status(server.pid(), "VmHWM");
    for name in [
        "pipe",
        "socket",
        "zero",
        "random",
        "terminal",
        "memory",
        "log",
        "loop",
        "gone",
        "agent",
        "pipe-link",
        "huge",
        "self",
    ] {
        for path in [format!("{route}?path=/workspace/{name}"), format!("{route}/raw?path=/workspace/{name}")] {
            // A file of 4 TiB may well be sent raw; nobody wants it here.
            if name == "huge" && path.contains("/raw") {
                continue;
            }
            let started = Instant::now();
            let answer = server.get(&path).await;
            let (status, took) = (answer.status.as_u16(), started.elapsed());
            // Of the agent's own memory nothing lies at the beginning, so even there nothing is read.
            wrong.unless((400..500).contains(&status), || format!("read {path}: {status}"));
            wrong.unless(took < Duration::from_secs(5), || format!("read {path}: {took:?}"));
        }
        let started = Instant::now();
        let file = json!({ "path": format!("/workspace/{name}"), "content": "", "encoding": "utf-8" });
        if !["huge", "gone"].contains(&name) {
            let answer = server.post(&route, json!({ "files": [file] })).await;
            wrong.unless((400..500).contains(&answer.status.as_u16()), || format!("write {name}: {answer:?}"));
        }
        wrong.unless(started.elapsed() < Duration::from_secs(5), || format!("write {name}: {:?}", started.elapsed()));
    }
    // The agent's root is the sandbox's own.
    let magic = server.get(&format!("{route}?path=/workspace/magic")).await;
    let own = server.sh(&sandbox, "cat /etc/passwd").await;
    wrong
        .unless(magic.body["content"].as_str().is_some_and(|content| base64_decode(content) == own.as_bytes()), || {
            format!("{magic:?}")
        });
    // A part of the agent's memory, named by where it lies, is not a file either.
    let part = server
        .client
        .get(format!("{}/api/v1{route}/raw?path=/proc/self/mem", server.url))
        .header("x-api-key", &server.key)
        .header("Range", "bytes=4194304-4198400")
        .send()
        .await
        .unwrap();
    wrong.unless(part.status().is_client_error() || part.bytes().await.is_ok_and(|bytes| bytes.is_empty()), || {
        "memory of the agent was read".into()
    });
    for path in
        ["/proc/kcore", "/dev/zero", "/dev/random", "/proc/kmsg", "/proc/1/mem", "/proc/1/environ", "/sys/kernel/notes"]
    {
        let answer = server.get(&format!("{route}?path={path}")).await;
        let empty = answer.body["content"].as_str().is_some_and(str::is_empty);
        wrong.unless((400..500).contains(&answer.status.as_u16()) || empty, || format!("read {path}: {answer:?}"));
    }
    for (source, destination) in [
        ("/dev/zero", "/workspace/copy"),
        ("/dev", "/workspace/copies"),
        ("/workspace/pipe", "/workspace/copy"),
        ("/workspace/self", "/workspace/self/self"),
        ("/workspace", "/workspace/self/all"),
        ("/etc/passwd", "/proc/sys/kernel/core_pattern"),
        ("/etc/passwd", "/dev/null"),
        ("/etc/passwd", "/sys/x"),
    ] {
        let started = Instant::now();
        for what in ["copy", "move"] {
            if what == "move" && !source.starts_with("/workspace/self") {
                continue;
            }
            let answer =
                server.post(&format!("{route}/{what}"), json!({ "source": source, "destination": destination })).await;
            wrong.unless(answer.status.as_u16() < 500, || format!("{what} {source} to {destination}: {answer:?}"));
        }
        wrong.unless(started.elapsed() < Duration::from_secs(20), || format!("copy {source}: {:?}", started.elapsed()));
    }
    for question in [
        format!("{route}/list?path=/workspace"),
        format!("{route}/list?path=/workspace&recursive=true"),
        format!("{route}/list?path=/proc&recursive=true"),
        format!("{route}/list?path=/sys&recursive=true"),
    ] {
        let started = Instant::now();
        let answer = server.get(&question).await;
        wrong.unless(answer.status == 200 && started.elapsed() < Duration::from_secs(30), || {
            format!("{question}: {:?} {}", started.elapsed(), answer.status)
        });
        wrong.unless(answer.body["files"].as_array().is_some_and(|files| files.len() <= 20_000), || {
            format!("{question}: too many")
        });
    }
    let listed = server.get(&format!("{route}/list?path=/workspace")).await.ok();
    let names: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    wrong.unless(names.contains(&"new\nline") && names.contains(&"bad\u{fffd}\u{fffd}utf"), || format!("{names:?}"));
    for pattern in [
        "/**/**/**/**/**/**/**/x",
        "/workspace/{a,b}{c,d}{e,f}{g,h}{i,j}{k,l}{m,n}{o,p}*",
        "/workspace/chain/**/d/**/d/**/d/**/nothing",
        "/workspace/[",
        "/workspace/n*n*n*n*n*n*n*n*n*n*n*n*nx",
    ] {
        let started = Instant::now();
        let answer = server.post(&format!("{route}/glob"), json!({ "pattern": pattern })).await;
        wrong.unless(answer.status.as_u16() < 500 && started.elapsed() < Duration::from_secs(60), || {
            format!("{pattern}: {:?} {answer:?}", started.elapsed())
        });
    }
    // The link that climbs ends at the sandbox's own root.
    let climbed = server.get(&format!("{route}?path=/workspace/up")).await;
    let own = std::fs::read("/etc/shadow").unwrap_or_default();
    wrong.unless(climbed.body["content"].as_str().is_none_or(|content| base64_decode(content) != own), || {
        "the host's /etc/shadow was read".into()
    });
    let grown = crate::kit::of_status(server.pid(), "VmHWM").saturating_sub(before);
    wrong.unless(grown < 128 << 10, || format!("the server grew by {grown} KiB"));
    put(&server, &neighbour, "/workspace/f", "x").await;
    assert_eq!(server.sh(&neighbour, "cat f").await, "x");
}
