//! Trees made to harm whoever captures, compares and restores them on the host.

use crate::kit::{Wrong, said};
use crate::support::Server;
use serde_json::json;
use std::time::{Duration, Instant};

/// Things that are no files, links out, names that are no text, times out of all calendars, sizes that overflow sums.
const PLANT: &str = r#"
import os, socket, struct
os.chdir("/workspace")
for name in ["pipe", "turns-pipe"]:
    os.mkfifo(name)
open("turns-file", "w").close()
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/etc", "etc"); os.symlink("loop", "loop"); os.symlink("/" + "x" * 4000, "long")
os.mkdir("turns-link"); open("turns-link/shadow", "w").close()
for name in [b"new\nline", b"bad\xff", b"n" * 255]:
    open(name, "w").close()
os.utime("bad\udcff", ns=(-(2**62), 2**62))
os.setxattr("new\nline", "user.overlay.opaque", b"y"); os.setxattr("new\nline", "user.x", b"v" * 4000)
folder = os.open(".", os.O_RDONLY)
for _ in range(300):
    os.mkdir("d", dir_fd=folder); folder = os.open("d", os.O_RDONLY, dir_fd=folder)
open("many-names", "w").close()
os.mkdir("names")
for number in range(500):
    os.link("many-names", f"names/{number}")
"#;

const TURN: &str = r#"
import os, shutil
os.chdir("/workspace")
os.remove("turns-pipe"); open("turns-pipe", "w").close()
os.remove("turns-file"); os.mkfifo("turns-file")
shutil.rmtree("turns-link"); os.symlink("/etc", "turns-link")
os.remove("etc"); os.mkdir("etc"); open("etc/shadow", "w").close()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_trees_are_captured_compared_and_restored_without_touching_the_host() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let shadow = std::fs::metadata("/etc/shadow").and_then(|metadata| metadata.modified()).ok();
    said(&server, &sandbox, "root", PLANT, &[]).await;
    let scope =
        json!({ "name": "scoped", "include_paths": ["/workspace/**"], "exclude_paths": ["/workspace/names/**"] });
    let first = server.checkpoint(&sandbox, json!({ "name": "first" })).await;
    let scoped = server.checkpoint(&sandbox, scope).await;
    said(&server, &sandbox, "root", TURN, &[]).await;
    let second = server.checkpoint(&sandbox, json!({ "name": "second" })).await;
    let mut wrong = Wrong::default();
    for (one, other) in [(&first, &second), (&second, &first), (&scoped, &second)] {
        let started = Instant::now();
        let answer =
            server.post("/checkpoints/compare", json!({ "checkpoint_id_1": one, "checkpoint_id_2": other })).await;
        wrong.unless(answer.status.is_success(), || format!("compare: {answer:?}"));
        wrong.unless(started.elapsed() < Duration::from_secs(20), || format!("compare took {:?}", started.elapsed()));
    }
    for checkpoint in [&scoped, &first, &second, &scoped] {
        let body = json!({ "checkpoint_id": checkpoint });
        let answer = server.post(&format!("/sandbox/{sandbox}/checkpoints/restore"), body.clone()).await;
        wrong.unless(answer.status.is_success(), || format!("restore: {answer:?}"));
        let kept = server.exec_with(&sandbox, json!({ "command": "ls -A | wc -l" })).await;
        wrong.unless(kept.body["exit_code"] == 0, || format!("after restore: {kept:?}"));
        let forked = server.post("/sandbox/create", body).await;
        wrong.unless(forked.status.is_success(), || format!("fork: {forked:?}"));
        if let Some(id) = forked.body["id"].as_str() {
            server.delete(&format!("/sandbox/{id}")).await.ok();
        }
    }
    let now = std::fs::metadata("/etc/shadow").and_then(|metadata| metadata.modified()).ok();
    wrong.unless(shadow == now, || "the host's /etc/shadow was changed".into());
    assert_eq!(server.sh(&neighbour, "echo here").await, "here\n");
    for id in [&first, &scoped, &second] {
        server.delete(&format!("/checkpoints/{id}")).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_depth_and_impossible_sizes_are_refused_without_harm() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let deep = r#"
import os
folder = os.open("/workspace", os.O_RDONLY)
for _ in range(10000):
    os.mkdir("d" * 10, dir_fd=folder)
    below = os.open("d" * 10, os.O_RDONLY, dir_fd=folder); os.close(folder); folder = below
"#;
    let sizes = r#"
import os
for number in range(5):
    with open(f"/workspace/sparse{number}", "wb") as file: file.truncate((1 << 63) - 4097)
"#;
    let mut wrong = Wrong::default();
    for (what, code, away) in [("depth", deep, "d*"), ("sizes", sizes, "sparse*")] {
        said(&server, &sandbox, "sandbox", code, &[]).await;
        let (answer, times) = crate::kit::beside(
            &server,
            &neighbour,
            server.post(&format!("/sandbox/{sandbox}/checkpoints"), json!({ "name": what })),
        )
        .await;
        wrong.unless(!answer.status.is_success() && answer.status != 500, || format!("{what}: {answer:?}"));
        wrong.unless(crate::kit::was_calm(&times), || format!("{what}: the neighbour took {times:?}"));
        let listed = server.get(&format!("/sandbox/{sandbox}/files/list?path=/workspace&recursive=true")).await;
        wrong.unless(listed.status.is_success(), || format!("{what}: {listed:?}"));
        // A deep tree is shortened from within, as any program has to.
        server.sh(&sandbox, &format!("rm -rf {away}")).await;
        let again = server.post(&format!("/sandbox/{sandbox}/checkpoints"), json!({ "name": "again" })).await;
        wrong.unless(again.status.is_success(), || format!("after {what}: {again:?}"));
    }
    server.delete(&format!("/sandbox/{sandbox}")).await.ok();
}
