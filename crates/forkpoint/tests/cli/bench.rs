//! `bench`: what it writes, and that it leaves nothing behind.

use crate::stub::{Seen, Stub, command, finish, json, not_found, signal};
use axum::{body::Body, http::Response};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// A server that only keeps account of what exists.
#[derive(Clone, Default)]
struct Account {
    things: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Told at each command.
    ran: Arc<Notify>,
    /// From this command on they fail.
    failing_from: Option<usize>,
    commands: Arc<Mutex<usize>>,
}

impl Account {
    fn answer(&self, seen: &Seen) -> Response<Body> {
        let mut things = self.things.lock().unwrap();
        let made = |id: String, things: &mut BTreeMap<String, Value>| {
            things.insert(id.clone(), seen.json()["metadata"].clone());
            json(201, &json!({"id": id, "sandbox_id": id, "pause_ms": 2.5, "copy_duration_ms": 4.0}))
        };
        let (method, path) = seen.line.split_once(" /api/v1").unwrap_or((&seen.line, ""));
        let number = format!("018f5c2e-7a8b-7c3d-9e4f-{:012}", things.len() + *self.commands.lock().unwrap() * 1000);
        match (method, path.rsplit('/').next().unwrap()) {
            ("POST", "create") => made(format!("sb-{number}"), &mut things),
            ("POST", "checkpoints") => made(format!("cp-{number}"), &mut things),
            ("POST", "execute") => {
                let mut commands = self.commands.lock().unwrap();
                *commands += 1;
                self.ran.notify_one();
                let fails = self.failing_from.is_some_and(|from| *commands >= from);
                json(200, &json!({"exit_code": i32::from(fails), "stdout": "", "stderr": "no"}))
            }
            ("POST", "restore") => json(200, &json!({"success": true})),
            ("GET", list @ ("sandboxes" | "checkpoints")) => {
                let all: Vec<_> = things
                    .iter()
                    .filter(|(id, _)| id.starts_with(&list[..1]))
                    .map(|(id, metadata)| json!({"id": id, "metadata": metadata}))
                    .collect();
                json(200, &json!({list: all}))
            }
            ("DELETE", id) if things.remove(id).is_some() => json(200, &json!({"success": true})),
            ("GET /metrics", _) => Response::new(Body::from("forkpoint_layers{driver=\"btrfs\"} 1\n")),
            _ => not_found(),
        }
    }

    /// What this account holds, but for what was there before.
    fn left(&self) -> Vec<String> {
        self.things.lock().unwrap().keys().filter(|id| *id != FOREIGN).cloned().collect()
    }
}

const FOREIGN: &str = "sb-018f5c2e-7a8b-7c3d-9e4f-ffffffffffff";

async fn serve(account: &Account) -> Stub {
    account.things.lock().unwrap().insert(FOREIGN.to_owned(), json!({"bench": "another"}));
    let account = account.clone();
    Stub::start(move |seen| account.answer(seen)).await
}

#[tokio::test]
async fn rows_are_measured_reported_and_cleaned_up() {
    let account = Account::default();
    let stub = serve(&account).await;
    let (as_json, markdown) = (stub.home.path().join("b.json"), stub.home.path().join("b.md"));
    let rows = [
        "create",
        "exec",
        "exec-parallel",
        "checkpoint",
        "pause-small",
        "pause-big",
        "capture-ratio",
        "restore",
        "fork",
        "forks-parallel",
        "idle-memory",
        "podman-create",
    ];
    let only: Vec<&str> = rows.iter().flat_map(|row| ["--only", row]).collect();
    let files = [
        "--runs",
        "3",
        "--callers",
        "2",
        "--live",
        "10",
        "--json",
        as_json.to_str().unwrap(),
        "--markdown",
        markdown.to_str().unwrap(),
    ];
    let ran = stub.run(&[&["bench"][..], &only, &files].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(account.left(), [""; 0]);
    assert!(account.things.lock().unwrap().contains_key(FOREIGN));

    let report: Value = serde_json::from_slice(&fs::read(as_json).unwrap()).unwrap();
    assert_eq!(report["host"]["layer_driver"], "btrfs");
    let row = |name: &str| report["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    assert_eq!((&row("create")["summary"]["runs"], &row("create")["reached"]), (&json!(3), &json!(true)));
    assert_eq!(row("pause-small")["summary"]["p99"], 2.5);
    assert_eq!(row("capture-ratio")["summary"]["p50"], 1.0);
    let told = row("podman-create")["note"].as_str().unwrap();
    assert!(told == "not installed" || told.starts_with("no root file system for it"), "{told}");
    assert_eq!(ran.stdout.lines().count(), report["rows"].as_array().unwrap().len() + 1);
    let markdown = fs::read_to_string(markdown).unwrap();
    assert!(markdown.contains("| layer driver | btrfs |") && markdown.contains("| pause-small |"), "{markdown}");
}

#[tokio::test]
async fn a_row_that_fails_leaves_nothing_and_shows_in_the_exit_code() {
    let account = Account { failing_from: Some(6), ..Account::default() };
    let stub = serve(&account).await;
    let ran = stub.run(&["bench", "--only", "create", "--runs", "10"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("create: p50 -, p99 - failed: the server gave `true` did not end with 0"), "{ran:?}");
    assert_eq!(account.left(), [""; 0]);
}

#[tokio::test]
async fn an_interrupted_bench_cleans_up_too() {
    for kind in [Signal::INT, Signal::TERM] {
        let account = Account::default();
        let stub = serve(&account).await;
        let child = stub.command(&["bench", "--only", "fork", "--runs", "100000"]).spawn().unwrap();
        account.ran.notified().await;
        signal(&child, kind);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert_eq!(account.left(), [""; 0]);
    }
}

#[tokio::test]
async fn the_floor_is_measured_and_leaves_no_mounts() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounts =
        || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains("floor")).count();
    let before = mounts();
    let mut floor = command(dir.path(), &["bench-floor", "--runs", "4"]);
    floor.env("TMPDIR", dir.path());
    let times: Vec<f64> = finish(floor).await.ok().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(times.len(), 4);
    assert!(times.iter().all(|time| (0.05..5000.0).contains(time)), "{times:?}");
    assert_eq!(mounts(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let ran = finish(command(dir.path(), &["bench-floor", "--runs", "1", "--root", "/nonexistent"])).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("measure the floor"), "{ran:?}");
}

#[tokio::test]
async fn peers_are_measured_where_they_are_installed_and_removed_afterwards() {
    let account = Account::default();
    let stub = serve(&account).await;
    let (bin, root, log) = (stub.home.path().join("bin"), stub.home.path().join("root"), stub.home.path().join("log"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&root).unwrap();
    for peer in ["podman", "runsc"] {
        // Without a network only the first try of podman fails; an import reads its archive to the end.
        let script = format!(
            "#!/bin/sh\necho {peer} \"$@\" >> {}\ncase \"$*\" in import*) cat > /dev/null;; run*--network=none*) ;; 'run --rm'*) exit 1;; esac\n",
            log.display()
        );
        fs::write(bin.join(peer), script).unwrap();
        fs::set_permissions(bin.join(peer), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let rows =
        ["create", "podman-create", "podman-exec", "podman-checkpoint", "podman-fork", "runsc-create", "runsc-exec"];
    let only: Vec<&str> = rows.iter().flat_map(|row| ["--only", row]).collect();
    let report = stub.home.path().join("b.json");
    let rest = ["--runs", "2", "--peers", "--peer-root", root.to_str().unwrap(), "--json", report.to_str().unwrap()];
    let mut bench = stub.command(&[&["bench"][..], &only, &rest].concat());
    bench.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).env("TMPDIR", stub.home.path());
    let ran = finish(bench).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let row = |name: &str| report["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    for name in &rows[1..] {
        assert_eq!(row(name)["summary"]["runs"], 2, "{name}");
    }
    assert_eq!(row("podman-create")["targets"][0]["at_most"], false);
    assert_eq!(row("podman-fork")["note"], "works here only with --network=none");
    let log = fs::read_to_string(log).unwrap();
    let count = |start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("podman run -d"), 1, "{log}");
    assert_eq!(
        (
            count("podman rm -f"),
            log.lines().filter(|line| line.starts_with("podman rmi") && !line.ends_with(":commit")).count()
        ),
        (1, 2),
        "{log}"
    );
    assert!(log.lines().any(|line| line.starts_with("runsc --root=") && line.contains(" delete ")), "{log}");
    let left: Vec<_> = fs::read_dir(stub.home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_str().unwrap().starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
