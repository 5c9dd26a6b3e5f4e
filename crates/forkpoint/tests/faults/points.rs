//! The server dies at every named point of every operation.

use crate::{
    host,
    tree::same,
    world::{SETTLED, Saved, World},
};
use forkpoint_engine::failpoint::Point::{self, *};
use reqwest::Method;
use serde_json::json;
use std::{collections::BTreeSet, fs};

/// What the server was doing.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    CreateScoped,
    FailToCreate,
    Checkpoint,
    Fork,
    Build,
    Import,
    Restore,
    RestoreWithoutOverwriting,
    Start,
    Stop,
    Delete,
    DeleteCheckpoint,
    Expire,
    /// Taking over what runs.
    TakeOver,
    /// Undoing a creation that was cut short.
    UndoCreation,
    /// Bringing back a sandbox whose restore was cut short.
    BringBack,
    /// Noting that a sandbox died meanwhile.
    NoteDeath,
}

use Operation::*;

/// Where things come into being.
const MAKING: &[(Operation, &[Point])] = &[
    (
        Create,
        &[
            CreateRows,
            LayerMade,
            CreateLayer,
            LaunchSlot,
            LaunchGroup,
            LaunchJail,
            LaunchRemembered,
            LaunchWatched,
            CreateLaunched,
            CreateRunning,
        ],
    ),
    (CreateScoped, &[LayerMade, LayerGrafted]),
    (FailToCreate, &[UndoEnded, UndoLayer, UndoRow]),
    (
        UndoCreation,
        &[AdoptEnded, EndForgotten, EndKilled, EndGroup, RecoverEnded, RecoverRow, CollectChosen, CollectDropped],
    ),
    (
        Checkpoint,
        &[
            CaptureFlushed,
            CaptureFrozen,
            CaptureSnapshot,
            CaptureThawed,
            CheckpointCaptured,
            CheckpointMeasured,
            CheckpointRow,
        ],
    ),
    (
        Fork,
        &[
            CaptureSnapshot,
            CheckpointRow,
            ForkCheckpoint,
            CreateRows,
            LaunchJail,
            CreateLaunched,
            CreateRunning,
            ForkMade,
        ],
    ),
    (Build, &[CreateRows, LaunchJail, CreateRunning, BuildSandbox, CheckpointRow, BuildStep, BuildPublished]),
    (Import, &[LayerMade, ImportFilled, ImportLayer, ImportRow]),
];

/// Where they change and go.
const CHANGING: &[(Operation, &[Point])] = &[
    (
        Restore,
        &[
            LayerMade,
            RestoreLayer,
            EndForgotten,
            EndKilled,
            EndGroup,
            RestoreEnded,
            LaunchSlot,
            LaunchGroup,
            LaunchJail,
            LaunchRemembered,
            LaunchWatched,
            RestoreLaunched,
            RestoreRow,
            CollectChosen,
            CollectDropped,
            EndSlot,
        ],
    ),
    (RestoreWithoutOverwriting, &[EndKilled, RestoreStill, LayerGrafted, RestoreLayer, RestoreLaunched]),
    (Start, &[LaunchSlot, LaunchJail, LaunchRemembered, StartLaunched, StartRow]),
    (Stop, &[EndForgotten, EndKilled, EndGroup, StopEnded, StopRow]),
    (Delete, &[DeleteRow, EndForgotten, EndKilled, EndGroup, DeleteEnded, CollectChosen, CollectDropped, EndSlot]),
    (DeleteCheckpoint, &[CheckpointDeleteRow, CollectChosen, CollectDropped]),
    (Expire, &[ExpiryDue, StopEnded, StopRow]),
    (TakeOver, &[AdoptTaken]),
    (BringBack, &[BackEnded, LaunchJail, LaunchRemembered, BackLaunched]),
    (NoteDeath, &[LostRecorded, EndForgotten, EndGroup]),
];

/// Points that have their turn here; those of the vault have it in `vault.rs`.
pub(crate) fn every_other_point() -> BTreeSet<&'static str> {
    MAKING.iter().chain(CHANGING).flat_map(|(_, points)| points.iter().map(|point| point.name())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_while_making_something_leaves_all_of_it_or_nothing() {
    sweep(MAKING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_while_changing_something_leaves_the_old_or_the_new() {
    sweep(CHANGING).await;
}

/// `FORKPOINT_TEST_POINT` picks one point.
async fn sweep(cases: &[(Operation, &[Point])]) {
    let only = std::env::var("FORKPOINT_TEST_POINT").ok();
    let mut world = World::start().await;
    // Shows the second tree between the cases.
    let target = world.server.sandbox_with(json!({ "checkpoint_id": world.second.checkpoint })).await;
    let started = std::time::Instant::now();
    let mut count = 0;
    for (operation, points) in cases {
        for point in points.iter().filter(|point| only.as_ref().is_none_or(|only| only == point.name())) {
            count += 1;
            eprintln!("{:>6} ms {operation:?} {}", started.elapsed().as_millis(), point.name());
            run(&mut world, *operation, *point, &target).await;
        }
    }
    eprintln!("{count} deaths in {:?}", started.elapsed());
    same(&world.show(&target).await, &world.second.tree, "target");
    world.ends().await;
}

async fn run(world: &mut World, operation: Operation, point: Point, target: &str) {
    // What runs behind the answers so far must not come to the point first.
    host::nothing_leaks(&world.server, SETTLED).await;
    match operation {
        Create => create(world, point, json!({ "env": { "K": "v" } })).await,
        CreateScoped => {
            let scoped = json!({ "name": "scoped", "include_paths": ["/workspace/t/deep"] });
            let checkpoint = world.server.checkpoint(&world.source, scoped).await;
            create(world, point, json!({ "checkpoint_id": checkpoint, "env": { "K": "v" } })).await;
            world.remove_checkpoint(&checkpoint).await;
        }
        FailToCreate => fail_to_create(world, point).await,
        Checkpoint => checkpoint(world, point, target).await,
        Fork => fork(world, point).await,
        Build => build(world, point).await,
        Import => import(world, point, target).await,
        Restore => restore(world, point, target, true).await,
        RestoreWithoutOverwriting => restore(world, point, target, false).await,
        Start => start(world, point, target).await,
        Stop => stop(world, point, target).await,
        Delete => delete(world, point).await,
        DeleteCheckpoint => delete_checkpoint(world, point).await,
        Expire => expire(world, point).await,
        TakeOver => {
            world.server.kill();
            world.breaks_at_start(point).await;
            world.mends(point).await;
            same(&world.show(target).await, &world.second.tree, "taken over");
        }
        UndoCreation => undo_creation(world, point).await,
        BringBack => bring_back(world, point, target).await,
        NoteDeath => note_death(world, point, target).await,
    }
}

async fn create(world: &mut World, point: Point, body: serde_json::Value) {
    let key = world.new_key();
    let (_, before, _) = host::listed(&world.server).await;
    world.breaks(point, Method::POST, "/sandbox/create", &body, &key).await;
    world.mends(point).await;
    let (_, after, _) = host::listed(&world.server).await;
    assert_eq!(after.len() - before.len(), usize::from(point == CreateRunning), "what was not answered is not there");
    let made = world.post("/sandbox/create", &body, &key).await.ok()["id"].as_str().unwrap().to_owned();
    let again = world.post("/sandbox/create", &body, &key).await.ok();
    assert_eq!(again["id"], made.as_str());
    assert!(
        after.len() == before.len() || after.contains(&made),
        "the one that is there is the one that was asked for"
    );
    assert_eq!(world.server.sh(&made, "echo $K").await, "v\n");
    world.remove_sandbox(&made).await;
}

/// A creation that cannot succeed, since the layer it starts from is damaged.
async fn fail_to_create(world: &mut World, point: Point) {
    let layers = world.server.data_dir().join("layers");
    let names = || fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>();
    let before = names();
    let checkpoint = world.server.checkpoint(&world.source, json!({ "name": "damaged" })).await;
    let layer = names().difference(&before).next().unwrap().clone();
    // Without it there is no overlay, so that starting fails when everything but that is made. Copies get a new one:
    // there it is the layer that cannot be made.
    let part = if world.server.for_layers().1 > 0 { "work" } else { "upper" };
    fs::remove_dir_all(layer.join(part)).unwrap();
    let body = json!({ "checkpoint_id": checkpoint });
    let key = world.new_key();
    world.breaks(point, Method::POST, "/sandbox/create", &body, &key).await;
    world.mends(point).await;
    world.post("/sandbox/create", &body, &key).await.refused(503, "unavailable");
    host::nothing_leaks(&world.server, SETTLED).await;
    world.remove_checkpoint(&checkpoint).await;
}

async fn checkpoint(world: &mut World, point: Point, target: &str) {
    let key = world.new_key();
    let path = format!("/sandbox/{}/checkpoints", world.source);
    let body = json!({ "name": "interrupted", "metadata": { "step": point.name() } });
    let (_, _, before) = host::listed(&world.server).await;
    world.breaks(point, Method::POST, &path, &body, &key).await;
    world.mends(point).await;
    let (_, _, after) = host::listed(&world.server).await;
    assert_eq!(after.len() - before.len(), usize::from(point == CheckpointRow));
    // It goes on, whether or not the server was lost while it stood still.
    same(&world.show(&world.source).await, &world.second.tree, "captured");
    let made = world.post(&path, &body, &key).await.ok()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.post(&path, &body, &key).await.ok()["id"], made.as_str());
    world.restores(target, &world.first).await;
    world.restores(target, &Saved { checkpoint: made.clone(), tree: world.second.tree.clone() }).await;
    world.remove_checkpoint(&made).await;
}

async fn fork(world: &mut World, point: Point) {
    let key = world.new_key();
    let path = format!("/sandbox/{}/fork", world.source);
    let (_, _, before) = host::listed(&world.server).await;
    world.breaks(point, Method::POST, &path, &json!({ "count": 2 }), &key).await;
    world.mends(point).await;
    let forked = world.post(&path, &json!({ "count": 2 }), &key).await.ok();
    assert_eq!(world.post(&path, &json!({ "count": 2 }), &key).await.ok(), forked);
    let (_, sandboxes, after) = host::listed(&world.server).await;
    assert_eq!(after.len() - before.len(), 1, "one request makes one checkpoint, however often it is sent");
    let forks: Vec<&str> =
        forked["forks"].as_array().unwrap().iter().map(|one| one["forked_id"].as_str().unwrap()).collect();
    assert!(forks.len() == 2 && forks.iter().all(|id| sandboxes.contains(*id)), "{forked}");
    same(&world.show(forks[1]).await, &world.second.tree, "fork");
    for id in forks {
        world.remove_sandbox(id).await;
    }
    world.remove_checkpoint(forked["checkpoint_id"].as_str().unwrap()).await;
}

async fn build(world: &mut World, point: Point) {
    let recipe = "[base]\ntemplate = \"default\"\n[[step]]\nrun = \"echo made > /opt/made\"\n";
    let body = json!({ "recipe": recipe, "name": "built" });
    let key = world.new_key();
    let before = host::listed(&world.server).await;
    world.breaks(point, Method::POST, "/templates", &body, &key).await;
    world.mends(point).await;
    assert_eq!(host::listed(&world.server).await, before, "nothing is left of the build");
    let there = world.server.get("/templates/built").await.status == 200;
    assert_eq!(there, point == BuildPublished, "the template is there wholly or not at all");
    let built = world.post("/templates", &body, &key).await.ok();
    assert_eq!(built["unchanged"], there);
    let made = world.server.sandbox_with(json!({ "template": "built" })).await;
    assert_eq!(world.server.sh(&made, "cat /opt/made").await, "made\n");
    world.remove_sandbox(&made).await;
    world.server.delete("/templates/built").await.ok();
    host::nothing_leaks(&world.server, SETTLED).await;
}

async fn import(world: &mut World, point: Point, target: &str) {
    let export = format!("{}/api/v1/checkpoints/{}/export?template=false", world.server.url, world.first.checkpoint);
    let key_header = format!("ApiKey {}", world.server.key);
    let request = world.server.client.get(export).header("Authorization", &key_header);
    let archive = request.send().await.unwrap().bytes().await.unwrap();
    let key = world.new_key();
    let send = |server: &crate::support::Server| {
        let request = server.client.post(format!("{}/api/v1/checkpoints/import", server.url));
        request.header("Authorization", &key_header).header("Idempotency-Key", &key).body(archive.clone()).send()
    };
    let (_, _, before) = host::listed(&world.server).await;
    world.arm(point);
    assert!(send(&world.server).await.is_err());
    world.dies(point).await;
    world.mends(point).await;
    let (_, _, after) = host::listed(&world.server).await;
    assert_eq!(after.len() - before.len(), usize::from(point == ImportRow));
    let mut made = Vec::new();
    for _ in 0..2 {
        let answer: serde_json::Value = send(&world.server).await.unwrap().json().await.unwrap();
        made.push(answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
    }
    assert_eq!(made[0], made[1]);
    assert!(after.len() == before.len() || after.contains(&made[0]));
    world.restores(target, &Saved { checkpoint: made[0].clone(), tree: world.first.tree.clone() }).await;
    world.restores(target, &world.second).await;
    world.remove_checkpoint(&made[0]).await;
}

async fn restore(world: &mut World, point: Point, target: &str, overwrite: bool) {
    let path = format!("/sandbox/{target}/checkpoints/restore");
    let body = json!({ "checkpoint_id": world.first.checkpoint, "overwrite": overwrite });
    let key = world.new_key();
    let new = if overwrite {
        world.first.tree.clone()
    } else {
        world.post(&path, &body, &key).await.ok();
        let mixed = world.show(target).await;
        assert!(mixed != world.first.tree && mixed != world.second.tree);
        world.restores(target, &world.second).await;
        mixed
    };
    world.breaks(point, Method::POST, &path, &body, &key).await;
    world.mends(point).await;
    assert_eq!(world.sandbox(target).await["state"], "running");
    let found = world.show(target).await;
    match point {
        RestoreRow | CollectChosen | CollectDropped => same(&found, &new, "after the row was switched"),
        // Behind the rest, at no certain time.
        EndSlot if found == new => {}
        _ => same(&found, &world.second.tree, "before the row was switched"),
    }
    world.post(&path, &body, &key).await.ok();
    same(&world.show(target).await, &new, "restored again");
    world.restores(target, &world.second).await;
}

async fn start(world: &mut World, point: Point, target: &str) {
    world.server.post(&format!("/sandbox/{target}/stop"), json!({})).await.ok();
    let key = world.new_key();
    let path = format!("/sandbox/{target}/start");
    world.breaks(point, Method::POST, &path, &json!({}), &key).await;
    world.mends(point).await;
    let expected = if point == StartRow { "running" } else { "stopped" };
    assert_eq!(world.sandbox(target).await["state"], expected);
    world.post(&path, &json!({}), &key).await.ok();
    same(&world.show(target).await, &world.second.tree, "started");
}

async fn stop(world: &mut World, point: Point, target: &str) {
    let key = world.new_key();
    let path = format!("/sandbox/{target}/stop");
    world.breaks(point, Method::POST, &path, &json!({}), &key).await;
    world.mends(point).await;
    let expected = if point == StopRow { "stopped" } else { "running" };
    assert_eq!(world.sandbox(target).await["state"], expected, "the row decides");
    world.post(&path, &json!({}), &key).await.ok();
    let stopped = world.sandbox(target).await;
    assert_eq!((&stopped["state"], &stopped["stop_reason"]), (&json!("stopped"), &json!("requested")));
    host::nothing_leaks(&world.server, SETTLED).await;
    world.server.post(&format!("/sandbox/{target}/start"), json!({})).await.ok();
    same(&world.show(target).await, &world.second.tree, "stopped and started");
}

async fn delete(world: &mut World, point: Point) {
    let victim = world.server.sandbox().await;
    let key = world.new_key();
    world.breaks(point, Method::DELETE, &format!("/sandbox/{victim}"), &json!({}), &key).await;
    world.mends(point).await;
    world.server.get(&format!("/sandbox/{victim}")).await.refused(404, "not_found");
}

async fn delete_checkpoint(world: &mut World, point: Point) {
    let victim = world.server.checkpoint(&world.source, json!({ "name": "goes" })).await;
    let key = world.new_key();
    world.breaks(point, Method::DELETE, &format!("/checkpoints/{victim}"), &json!({}), &key).await;
    world.mends(point).await;
    world.server.get(&format!("/checkpoints/{victim}")).await.refused(404, "not_found");
}

async fn expire(world: &mut World, point: Point) {
    let victim = world.server.sandbox_with(json!({ "timeout_seconds": 1 })).await;
    world.arm(point);
    world.dies(point).await;
    world.server.launch().await;
    let deadline = std::time::Instant::now() + SETTLED;
    loop {
        let shown = world.sandbox(&victim).await;
        if shown["state"] == "stopped" {
            assert_eq!(shown["stop_reason"], "timeout", "{shown}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    host::nothing_leaks(&world.server, SETTLED).await;
    world.remove_sandbox(&victim).await;
}

async fn undo_creation(world: &mut World, point: Point) {
    let key = world.new_key();
    // Not remembered, it is ended while what runs is taken over; remembered, when rows are compared with that.
    let cut_at = if point == AdoptEnded { LaunchJail } else { CreateLaunched };
    world.breaks(cut_at, Method::POST, "/sandbox/create", &json!({}), &key).await;
    world.breaks_at_start(point).await;
    world.mends(point).await;
    let made = world.post("/sandbox/create", &json!({}), &key).await.ok()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.server.sh(&made, "echo here").await, "here\n");
    world.remove_sandbox(&made).await;
}

async fn bring_back(world: &mut World, point: Point, target: &str) {
    let key = world.new_key();
    let path = format!("/sandbox/{target}/checkpoints/restore");
    let body = json!({ "checkpoint_id": world.first.checkpoint });
    world.breaks(RestoreEnded, Method::POST, &path, &body, &key).await;
    world.breaks_at_start(point).await;
    world.mends(point).await;
    let shown = world.sandbox(target).await;
    assert_eq!(shown["state"], "running");
    same(&world.show(target).await, &world.second.tree, "brought back");
    // Its address is what the host says, though that changed when nobody could note it.
    let file = world.server.data_dir().join(format!("run/instances/{target}.json"));
    let remembered: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(shown["pod_ip"], remembered["address"]);
}

async fn note_death(world: &mut World, point: Point, target: &str) {
    world.server.kill();
    for (pid, sandbox) in host::processes(&world.server.data_dir()) {
        if sandbox == target {
            // It may have ended with the first of them.
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
    }
    world.breaks_at_start(point).await;
    world.mends(point).await;
    let shown = world.sandbox(target).await;
    assert_eq!((&shown["state"], &shown["stop_reason"]), (&json!("stopped"), &json!("died")), "{shown}");
    world.server.post(&format!("/sandbox/{target}/start"), json!({})).await.ok();
    same(&world.show(target).await, &world.second.tree, "died and started");
}
