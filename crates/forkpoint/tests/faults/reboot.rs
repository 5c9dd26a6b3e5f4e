//! The host is started again: nothing runs, nothing is mounted, and only the disk remembers.

use crate::{host, support::Server, tree, world::SETTLED};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// Takes away what a host loses when it is switched off; the server does not run.
fn lose_the_host(server: &Server) {
    let data_dir = &server.data_dir();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = host::processes(data_dir);
        if left.is_empty() {
            break;
        }
        for (pid, _) in left {
            // It may have ended with the first of its sandbox.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        assert!(Instant::now() < deadline, "processes did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    for group in host::group_directories(data_dir) {
        while let Err(error) = fs::remove_dir(&group) {
            assert!(Instant::now() < deadline, "{}: {error}", group.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    unmount(data_dir.join("run/hub"), UnmountFlags::empty()).unwrap();
    // Copies lie in a directory like any other.
    let (mounts, _) = server.for_layers();
    while mounts > 0
        && let Err(error) = unmount(data_dir.join("layers"), UnmountFlags::empty())
    {
        assert!(Instant::now() < deadline, "layers: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let table = format!("forkpoint_{}", host::instance(data_dir));
    let removed = Command::new("nft").args(["delete", "table", "inet", &table]).status().unwrap();
    assert!(removed.success(), "delete table {table}");
    // Everything was noted under another boot.
    let other = "00000000-0000-4000-8000-000000000000";
    fs::write(data_dir.join("run/boot"), other).unwrap();
    for entry in fs::read_dir(data_dir.join("run/instances")).unwrap() {
        let path = entry.unwrap().path();
        let mut one: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        one["boot_id"] = other.into();
        fs::write(&path, one.to_string()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_all_sandboxes_are_stopped_and_start_from_their_layers() {
    let mut server = Server::start().await;
    let first = server.sandbox_with(json!({ "env": { "K": "v" } })).await;
    let shown = tree::make_first(&server, &first).await;
    let checkpoint = server.checkpoint(&first, json!({ "name": "before" })).await;
    let second = server.sandbox_with(json!({ "checkpoint_id": checkpoint })).await;
    let changed = tree::make_second(&server, &second).await;
    let stopped = server.sandbox().await;
    server.post(&format!("/sandbox/{stopped}/stop"), json!({})).await.ok();
    server.kill();
    lose_the_host(&server);
    // A file that was not synced may be lost with the host, and one may be torn.
    fs::remove_file(server.data_dir().join(format!("run/instances/{second}.json"))).unwrap();
    fs::write(server.data_dir().join("run/instances/torn.new"), "{\"sandbox\":").unwrap();

    server.launch().await;
    host::nothing_leaks(&server, SETTLED).await;
    for (id, reason) in [(&first, "host_restart"), (&second, "host_restart"), (&stopped, "requested")] {
        let one = server.get(&format!("/sandbox/{id}")).await.ok();
        assert_eq!((&one["state"], &one["stop_reason"]), (&json!("stopped"), &json!(reason)), "{one}");
        server.exec_with(id, json!({ "command": "true" })).await.refused(409, "sandbox_not_running");
    }
    for (id, expected) in [(&first, &shown), (&second, &changed)] {
        server.post(&format!("/sandbox/{id}/start"), json!({})).await.ok();
        tree::same(&tree::show(&server, id).await, expected, "after the reboot");
    }
    assert_eq!(server.sh(&first, "echo $K").await, "v\n");
    server.restore(&second, &checkpoint).await;
    tree::same(&tree::show(&server, &second).await, &shown, "restored after the reboot");
    // Once in step again, a server that is only killed leaves them running.
    server.kill();
    server.launch().await;
    assert_eq!(server.get(&format!("/sandbox/{first}")).await.ok()["state"], "running");
    host::nothing_leaks(&server, SETTLED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_cut_short_after_a_reboot_forgets_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().join("point");
    let mut server = Server::start_with(&[("failpoint", &format!("@{}", point.display()))]).await;
    let sandboxes = [server.sandbox().await, server.sandbox().await];
    server.kill();
    lose_the_host(&server);
    // The first of them is recorded as stopped, the other is not.
    fs::write(&point, "lost.recorded").unwrap();
    server.try_launch().await.unwrap_err();
    fs::remove_file(&point).unwrap();
    server.launch().await;
    host::nothing_leaks(&server, SETTLED).await;
    for id in &sandboxes {
        let one = server.get(&format!("/sandbox/{id}")).await.ok();
        assert_eq!((&one["state"], &one["stop_reason"]), (&json!("stopped"), &json!("host_restart")), "{one}");
    }
}
