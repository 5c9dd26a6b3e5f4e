//! `forkpoint gc`: what may go goes, whatever is needed stays, beside a server and without one.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, process::Command};
use support::Server;

/// Changes rows of a SQLite database, also of a live server.
fn sql(server: &Server, statement: &str) {
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=10) as db: db.execute(sys.argv[2])";
    let path = server.data_dir().join("forkpoint.db");
    let done = Command::new("python3").args(["-c", script]).arg(path).arg(statement).output().unwrap();
    assert!(done.status.success(), "{statement}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What a report names, by kind: names with bytes.
fn removed(report: &Value) -> BTreeMap<String, Vec<(String, u64)>> {
    let mut by_kind: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for one in report["removed"].as_array().unwrap() {
        let text = |name: &str| one[name].as_str().unwrap().to_owned();
        by_kind.entry(text("kind")).or_default().push((text("name"), one["bytes"].as_u64().unwrap()));
    }
    by_kind
}

fn bare(id: &str) -> &str {
    id.split_once('-').unwrap().1
}

/// A tree as a killed build leaves it.
fn litter(directory: &Path) {
    fs::create_dir_all(directory.join("rootfs/deep")).unwrap();
    fs::write(directory.join("rootfs/deep/file"), vec![1; 1 << 20]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_go_goes_and_what_is_needed_stays() {
    // With a cache of its own: the usual one has other users.
    let cache = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    server.stop();
    server.set("cache_dir", cache.path().to_str().unwrap());
    server.launch().await;

    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "head -c 2000000 /dev/urandom > big").await;
    let old = server.checkpoint(&sandbox, json!({ "name": "old" })).await;
    let kept = server.checkpoint(&sandbox, json!({ "name": "kept" })).await;
    let stopped = server.sandbox_with(json!({ "checkpoint_id": kept })).await;
    let lately = server.sandbox().await;
    for id in [&stopped, &lately] {
        server.post(&format!("/sandbox/{id}/stop"), json!({})).await.ok();
    }
    // Four versions of a template; a sandbox lies on the second.
    let mut versions = Vec::new();
    let mut on_second = String::new();
    for number in 0..4 {
        server.sh(&sandbox, &format!("echo {number} > version")).await;
        let checkpoint = server.checkpoint(&sandbox, json!({ "name": "version" })).await;
        let route = format!("/checkpoints/{checkpoint}/publish");
        versions.push(server.post(&route, json!({ "name": "mine" })).await.ok());
        if number == 1 {
            on_second = server.sandbox_with(json!({ "template": "mine" })).await;
        }
        server.delete(&format!("/checkpoints/{checkpoint}")).await.ok();
    }
    server.owns(&[("layers", 6)]).await;

    // The next pass of the reconcilers is a minute away now.
    server.stop();
    server.launch().await;
    // Nothing may go yet.
    assert_eq!(removed(&server.gc(&["--dry-run"])).keys().collect::<Vec<_>>(), ["template"]);
    sql(&server, &format!("UPDATE sandboxes SET stopped_at = 1 WHERE id = '{}'", bare(&stopped)));
    litter(&server.data_dir().join("templates/mine/.tmp-1-1"));
    litter(&cache.path().join("templates/default").join("0123456789abcdef".repeat(2)));
    let orphan = server.data_dir().join("layers").join("01890a5d-ac96-774b-bcce-b302099a8057");
    litter(&orphan.join("upper"));

    let told = removed(&server.gc(&["--dry-run"]));
    let name = |kind: &str| told[kind].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!(name("stopped sandbox"), [&stopped]);
    assert_eq!(name("layer").len(), 1);
    assert_eq!(name("template").len(), 2, "neither the newest nor the one in use: {told:?}");
    assert_eq!(name("unfinished template").len(), 2, "{told:?}");
    for (kind, name, least) in
        told.iter().flat_map(|(kind, all)| all.iter().map(move |(name, bytes)| (kind, name, *bytes)))
    {
        assert!(least >= 1_000_000, "{kind} {name}: {least} bytes");
    }
    // Telling removed nothing.
    assert_eq!(removed(&server.gc(&["--dry-run"])), told);
    assert_eq!(removed(&server.gc(&[])), told);
    assert_eq!(removed(&server.gc(&[])), BTreeMap::new());
    assert!(!orphan.exists());
    server.post(&format!("/sandbox/{stopped}/start"), json!({})).await.refused(409, "layer_removed");
    server.post(&format!("/sandbox/{lately}/start"), json!({})).await.ok();
    assert_eq!(server.sh(&on_second, "cat version").await, "1\n");
    let newest = server.sandbox_with(json!({ "template": "mine" })).await;
    assert_eq!(server.sh(&newest, "cat version").await, "3\n");
    let fork = server.sandbox_with(json!({ "checkpoint_id": kept })).await;
    assert_eq!(server.sh(&fork, "stat -c %s big").await, "2000000\n");

    // Without a server it is the same, and what runs goes on.
    server.stop();
    for id in [&old, &kept] {
        sql(&server, &format!("UPDATE checkpoints SET expires_at = 1 WHERE id = '{}'", bare(id)));
    }
    for dry in [true, false] {
        let alone = removed(&server.gc(if dry { &["--dry-run"] } else { &[] }));
        let mut expired: Vec<&String> = alone["checkpoint"].iter().map(|(name, _)| name).collect();
        expired.sort();
        assert_eq!(expired, [&old, &kept]);
    }
    assert_eq!(removed(&server.gc(&[])), BTreeMap::new());
    server.launch().await;
    assert_eq!(server.sh(&fork, "stat -c %s big").await, "2000000\n");
    server.get(&format!("/checkpoints/{kept}")).await.refused(404, "not_found");

    let output =
        Command::new(env!("CARGO_BIN_EXE_forkpoint")).args(["gc", "--data-dir"]).arg(cache.path()).output().unwrap();
    assert!(!output.status.success(), "that is no data directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_layers_are_kept_ready_used_and_given_back() {
    let mut server = Server::start_with(&[("warm_pool", "3")]).await;
    server.owns(&[("layers", 3)]).await;
    let first = server.sandbox().await;
    server.sh(&first, "echo kept > f").await;
    let saved = server.checkpoint(&first, json!({ "name": "saved" })).await;
    let fork = server.sandbox_with(json!({ "checkpoint_id": saved })).await;
    assert_eq!(server.sh(&fork, "cat f").await, "kept\n");
    // More at once than are ready.
    futures::future::join_all((0..6).map(|_| async {
        let sandbox = server.sandbox().await;
        assert_eq!(server.sh(&sandbox, "ls").await, "");
    }))
    .await;
    server.owns(&[("cgroups", 8), ("layers", 9 + 3)]).await;
    let given: Vec<Value> = server.gc(&["--dry-run"])["removed"].as_array().unwrap().clone();
    assert!(given.iter().all(|one| one["kind"] != "layer"), "{given:?}");

    // Those of a server that was killed go, the next one makes its own.
    server.kill();
    assert_eq!(server.doctor()["orphans"].as_array().unwrap().len(), 3);
    server.launch().await;
    server.owns(&[("cgroups", 8), ("layers", 9 + 3)]).await;
    assert_eq!(server.sh(&first, "cat f").await, "kept\n");
    let listed = server.get("/sandboxes").await.ok();
    for one in listed["sandboxes"].as_array().unwrap() {
        server.delete(&format!("/sandbox/{}", one["id"].as_str().unwrap())).await.ok();
    }
    server.delete(&format!("/checkpoints/{saved}")).await.ok();
    server.owns(&[("layers", 3)]).await;
    server.stop();
    let left = server.doctor();
    assert!(left["owned"].as_object().unwrap().values().all(|count| count == 0), "{left}");
    server.launch().await;
    server.owns(&[("layers", 3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_know_the_data_directory_removes_nothing_from_it() {
    let mut server = Server::start().await;
    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "echo 1 > f").await;
    let checkpoint = server.checkpoint(&sandbox, json!({ "name": "precious" })).await;
    server.stop();
    // The operator forgets to say which database the server uses, and gets a new one.
    let files = ["forkpoint.db", "forkpoint.db-wal", "forkpoint.db-shm"].map(|name| server.data_dir().join(name));
    let aside = files.each_ref().map(|file| fs::read(file).ok());
    files.iter().for_each(|file| drop(fs::remove_file(file)));
    let collected = server.program(&["gc"]);
    let told = String::from_utf8_lossy(&collected.stderr);
    assert!(!collected.status.success() && told.contains("does not know server"), "{collected:?}");
    for (file, content) in files.iter().zip(aside) {
        match content {
            Some(content) => fs::write(file, content).unwrap(),
            None => drop(fs::remove_file(file)),
        }
    }
    server.launch().await;
    server.restore(&sandbox, &checkpoint).await;
    assert_eq!(server.sh(&sandbox, "cat f").await, "1\n");
}
