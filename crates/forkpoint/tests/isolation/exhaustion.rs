//! A sandbox that takes all it can get: it is bounded, its neighbours keep answering, and it works again afterwards.

use crate::kit::{Wrong, beside, first_process, of_status, python, was_calm};
use crate::support::Server;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use std::time::{Duration, Instant};

/// As the user inside: (what it is, code, what its result must contain).
///
/// Code that is to be ended by the memory killer has the exit code 137 as mark.
const HOGS: &[(&str, &str, &str)] = &[
    (
        "processes",
        "
import os, time
made = 0
while made < 20000:
    try:
        if os.fork() == 0: time.sleep(3); os._exit(0)
        made += 1
    except BlockingIOError:
        break
print('bounded' if made < 1024 else made)
",
        "bounded",
    ),
    (
        "threads",
        "
import threading, time
made = 0
try:
    while made < 20000: threading.Thread(target=time.sleep, args=(2,), daemon=True).start(); made += 1
except RuntimeError: pass
print('bounded' if made < 1024 else made)
",
        "bounded",
    ),
    ("memory", "x = bytearray(1 << 30)\nfor at in range(0, len(x), 4096): x[at] = 1", "137"),
    (
        "memory in a file without a name",
        "import os\nfor _ in range(1000): os.write(os.memfd_create('x'), b'x' * (1 << 20))",
        "137",
    ),
    (
        "memory in shared segments",
        "
import ctypes
libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p
for _ in range(1000):
    at = libc.shmat(libc.shmget(0, 1 << 20, 0o1600), None, 0)
    ctypes.memset(at, 1, 1 << 20)
",
        "137",
    ),
    (
        "/dev/shm",
        "
try:
    with open('/dev/shm/hog', 'wb', buffering=0) as file:
        for _ in range(1000): file.write(b'x' * (1 << 20))
except OSError as error: print(error.strerror)
import os; os.remove('/dev/shm/hog')
",
        "No space left on device",
    ),
    (
        "files in /dev/shm",
        "
import os, shutil
os.mkdir('/dev/shm/many')
try:
    for number in range(10**6): os.close(os.open(f'/dev/shm/many/{number}', os.O_CREAT | os.O_WRONLY))
except OSError as error: print(error.strerror)
shutil.rmtree('/dev/shm/many')
",
        "No space left on device",
    ),
    (
        "pipes",
        "
import os, fcntl
keep, total = [], 0
for _ in range(5000):
    keep.append(os.pipe()); reader, writer = keep[-1]; os.set_blocking(writer, False)
    try: fcntl.fcntl(writer, 1031, 1 << 20)
    except OSError: pass
    try:
        while True: total += os.write(writer, b'x' * 65536)
    except BlockingIOError: pass
print('bounded' if total < 256 << 20 else total)
",
        "bounded",
    ),
    (
        "local sockets",
        "
import socket
keep = []
for _ in range(5000):
    keep.append(socket.socketpair()); keep[-1][0].setblocking(False); keep[-1][0].setsockopt(1, 7, 1 << 30)
    try:
        while True: keep[-1][0].send(b'x' * 60000)
    except BlockingIOError: pass
",
        "137",
    ),
    (
        "terminals",
        "
import os
keep = []
try:
    for _ in range(5000): keep.append(os.openpty())
except OSError: print('bounded' if len(keep) <= 256 else len(keep))
",
        "bounded",
    ),
    (
        "open files",
        "
import os
keep = []
try:
    while True: keep.append(os.dup(0))
except OSError as error: print(error.strerror)
",
        "Too many open files",
    ),
    (
        "watches of files",
        "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
made = 0
while made < 100000 and libc.inotify_init1(0) >= 0: made += 1
print('bounded' if made < 100000 else made)
",
        "bounded",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_all_is_bounded_and_its_neighbour_keeps_answering() {
    let server = Server::start().await;
    let sandbox = server.sandbox_with(json!({ "memory": "256Mi" })).await;
    let neighbour = server.sandbox().await;
    let mut wrong = Wrong::default();
    for (what, code, mark) in HOGS {
        let (result, times) = beside(&server, &neighbour, python(&server, &sandbox, "sandbox", code, &[])).await;
        let as_expected = match *mark {
            "137" => result["exit_code"] == 137,
            mark => result["stdout"].as_str().unwrap().trim() == mark,
        };
        wrong.unless(as_expected, || format!("{what}: {result}"));
        wrong.unless(was_calm(&times), || format!("{what}: the neighbour took {times:?}"));
        // Segments outlive who made them, as on any machine; and they count until they are removed.
        let again = server.exec_with(&sandbox, json!({ "command": "ipcrm --all; echo here" })).await;
        wrong.unless(again.body["stdout"] == "here\n", || format!("{what}: afterwards {again:?}"));
    }
    let status = server.get(&format!("/sandbox/{sandbox}/status")).await.ok();
    wrong.unless(status["state"] == "running", || format!("{status}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_ends_with_its_time_and_the_neighbour_keeps_answering() {
    let server = Server::start().await;
    // Room for as many shells as it may have processes, so that these are what it runs out of.
    let sandbox = server.sandbox_with(json!({ "memory": "1Gi" })).await;
    let neighbour = server.sandbox().await;
    let mut wrong = Wrong::default();
    for user in ["sandbox", "root"] {
        let bomb = json!({ "command": "bomb() { bomb | bomb & }; bomb; sleep 60", "user": user, "timeout": 3000 });
        let started = Instant::now();
        let (answer, times) = beside(&server, &neighbour, server.exec_with(&sandbox, bomb)).await;
        let result = answer.ok();
        wrong.unless(result["timed_out"] == true, || format!("{user}: {result}"));
        wrong.unless(started.elapsed() < Duration::from_secs(15), || {
            format!("{user}: ended after {:?}", started.elapsed())
        });
        wrong.unless(was_calm(&times), || format!("{user}: the neighbour took {times:?}"));
        // Its agent has to share the processor with what it kills, so it may need a moment.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left =
                server.exec_with(&sandbox, json!({ "command": "ps -e --no-headers | wc -l", "timeout": 5000 })).await;
            if left.body["stdout"].as_str().is_some_and(|text| text.trim().parse().is_ok_and(|count: u32| count < 20)) {
                break;
            }
            assert!(Instant::now() < deadline, "{user}: left behind {left:?}");
        }
    }
}

/// Fills the buffers of as many sockets as it may have, tells that it has, and holds them until its input ends.
const SOCKETS: &str = r#"
import socket, sys
keep, kind = [], sys.argv[1]
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(4096)
for _ in range(2000):
    try:
        if kind == "tcp":
            sender = socket.create_connection(listener.getsockname()); receiver, _ = listener.accept()
        else:
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); receiver.bind(("127.0.0.1", 0))
            receiver.setsockopt(1, 8, 1 << 30)
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sender.connect(receiver.getsockname())
        keep.append((sender, receiver))
        sender.setblocking(False)
        sender.setsockopt(1, 7, 1 << 30)
        for _ in range(100): sender.send(b"x" * 60000)
    except OSError:
        pass
open("/workspace/full-" + kind, "w").close()
import time
while not __import__("os").path.exists("/workspace/go-" + kind): time.sleep(0.05)
"#;

/// Bytes that the host has in buffers of TCP and UDP, of all namespaces.
fn in_socket_buffers() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let pages: u64 = text
        .lines()
        .filter(|line| line.starts_with("TCP:") || line.starts_with("UDP:"))
        .filter_map(|line| line.split_once(" mem ")?.1.split(' ').next()?.parse::<u64>().ok())
        .sum();
    let size = std::process::Command::new("getconf").arg("PAGESIZE").output().unwrap().stdout;
    pages * String::from_utf8(size).unwrap().trim().parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn buffers_of_sockets_count_towards_the_sandbox() {
    let server = Server::start().await;
    let sandbox = server.sandbox_with(json!({ "memory": "256Mi" })).await;
    let neighbour = server.sandbox().await;
    let mut wrong = Wrong::default();
    for kind in ["tcp", "udp"] {
        let before = in_socket_buffers();
        let arguments = [kind];
        let hog = python(&server, &sandbox, "sandbox", SOCKETS, &arguments);
        let watch = async {
            let wait = format!("until [ -e /workspace/full-{kind} ]; do sleep 0.05; done");
            server.sh(&sandbox, &wait).await;
            let (_, times) = beside(&server, &neighbour, async {}).await;
            let held = in_socket_buffers().saturating_sub(before);
            server.sh(&sandbox, &format!("touch /workspace/go-{kind}")).await;
            (held, times)
        };
        let (result, (held, times)) = tokio::join!(hog, watch);
        wrong.unless(result["exit_code"] == 0, || format!("{kind}: {result}"));
        // A quarter of its memory, and what the kernel lets through while it slows the senders down.
        wrong.unless(held < 160 << 20, || format!("{kind}: {} MiB of buffers are held", held >> 20));
        wrong.unless(was_calm(&times), || format!("{kind}: the neighbour took {times:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_flood_of_files_stay_inside_and_end_with_them() {
    let server = Server::start_with(&[("sandbox_disk_bytes", "134217728"), ("layer_driver", "btrfs")]).await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let fill = "
import os
try:
    with open('/workspace/hog', 'wb', buffering=0) as file:
        for _ in range(400): file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    print('all of it')
except OSError as error: print(error.strerror)
";
    // What is on its way to the disk is charged when it gets there.
    let flood = "
import os
os.mkdir('/workspace/many')
try:
    for number in range(400000):
        os.close(os.open(f'/workspace/many/{number:0200}', os.O_CREAT | os.O_WRONLY))
        if number % 20000 == 0: os.sync()
    print('all of them')
except OSError as error: print(error.strerror)
";
    let mut wrong = Wrong::default();
    for (what, code) in [("bytes", fill), ("files", flood)] {
        let write = "
import os
with open('/workspace/own', 'wb') as file:
    file.write(os.urandom(1 << 20)); file.flush(); os.fsync(file.fileno())
print('written')
";
        let (result, times) = beside(&server, &neighbour, python(&server, &sandbox, "sandbox", code, &[])).await;
        let told = result["stdout"].as_str().unwrap().trim();
        wrong
            .unless(["Disk quota exceeded", "No space left on device"].contains(&told), || format!("{what}: {result}"));
        wrong.unless(was_calm(&times), || format!("{what}: the neighbour took {times:?}"));
        let other = python(&server, &neighbour, "sandbox", write, &[]).await;
        wrong.unless(other["stdout"] == "written\n", || format!("{what}: the neighbour cannot write: {other}"));
        // Removing takes room too; a full layer has to leave it.
        let removed = server.exec_with(&sandbox, json!({ "command": "rm -rf hog many && sync" })).await.ok();
        wrong.unless(removed["exit_code"] == 0, || format!("{what}: cannot be removed: {removed}"));
        let again = python(&server, &sandbox, "sandbox", write, &[]).await;
        wrong.unless(again["stdout"] == "written\n", || format!("{what}: afterwards {again}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_refuses_and_recovers() {
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    // Only the soft limit: the hard one could not be put back.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = line.split_ascii_whitespace().nth(4).unwrap().parse().ok();
    let usual = prlimit(pid, Resource::Nofile, Rlimit { current: Some(open + 40), maximum: hard }).unwrap();
    let many = (0..150).map(|_| async {
        let request = server
            .client
            .post(format!("{}/api/v1/sandbox/{sandbox}/execute", server.url))
            .header("Authorization", format!("ApiKey {}", server.key))
            .timeout(Duration::from_secs(60))
            .json(&json!({ "command": "sleep 0.2; echo here" }));
        match request.send().await {
            Ok(answer) => answer.status().as_u16(),
            Err(_) => 0,
        }
    });
    let answers = futures::future::join_all(many).await;
    // 409: the server had no descriptor left to reach the agent with, so the command did not run.
    assert!(answers.iter().all(|status| [0, 200, 409, 429, 503].contains(status)), "{answers:?}");
    assert!(answers.contains(&200), "{answers:?}");
    // Creating needs many descriptors; whatever comes of it, nothing half-made stays.
    let made = server.post("/sandbox/create", json!({ "count": 8 })).await;
    assert!(made.status.is_success() || [429, 503, 507].contains(&made.status.as_u16()), "{made:?}");
    prlimit(pid, Resource::Nofile, usual).unwrap();
    let running = server.get("/sandboxes").await.ok()["sandboxes"].as_array().unwrap().len() as u64;
    server.owns(&[("cgroups", running), ("layers", running)]).await;
    assert_eq!(server.sh(&sandbox, "echo here").await, "here\n");
    let another = server.sandbox().await;
    assert_eq!(server.sh(&another, "echo here").await, "here\n");
    let first = first_process(&server, &another);
    assert!(of_status(first, "NSpid") > 0);
    let left = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    assert!(left < open + 200, "{open} descriptors before, {left} after");
}
