//! The server dies at every named point of a checkpoint's way into the vault and back, and so does a collection.

use crate::{host, points::every_other_point, world::World};
use forkpoint_engine::failpoint::Point::{self, *};
use reqwest::Method;
use serde_json::json;
use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

/// While a checkpoint becomes durable and verified.
const STORING: &[Point] = &[VaultLeased, VaultPacked, VaultRecorded, DurableRow, VerifiedRead, VerifiedRow];
/// While its layer comes back.
const RETURNING: &[Point] = &[ColdFetched, ColdPlaced];
/// While a collection beside the server removes what is not needed.
const COLLECTING: &[Point] = &[VaultRewritten, VaultCondemned, VaultSwept];

#[test]
fn every_point_has_its_turn_here_or_there() {
    let here: BTreeSet<&str> = [STORING, RETURNING, COLLECTING, &[EvictDropped, ForgetRecord]]
        .concat()
        .iter()
        .map(|point| point.name())
        .collect();
    let all: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    let there = every_other_point();
    let missing: Vec<_> = all.iter().filter(|name| !here.contains(*name) && !there.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_on_the_way_into_the_vault_or_back_loses_nothing() {
    let mut world = World::start().await;
    let target = world.server.sandbox_with(json!({ "checkpoint_id": world.second.checkpoint })).await;
    for point in STORING {
        let (key, path) = (world.new_key(), format!("/sandbox/{}/checkpoints", world.source));
        let noise = format!("head -c 30000 /dev/urandom > /workspace/{}", point.name());
        world.server.sh(&world.source, &noise).await;
        let body = json!({ "name": point.name(), "wait": "verified" });
        world.breaks(*point, Method::POST, &path, &body, &key).await;
        world.mends(*point).await;
        let made = world.post(&path, &body, &key).await.ok();
        assert_eq!((&made["status"], &made["durability"]), (&json!("ready"), &json!("verified")), "{made}");
        sound(&world);
        let id = made["id"].as_str().unwrap();
        evict(&world, id).await;
        world.server.restore(&target, id).await;
        world.server.sh(&target, &format!("test -s /workspace/{}", point.name())).await;
        world.remove_checkpoint(id).await;
    }
    let body = json!({ "name": "cold", "wait": "verified" });
    let cold = world.server.checkpoint(&world.source, body).await;
    let key = world.new_key();
    world.breaks(EvictDropped, Method::POST, &format!("/checkpoints/{cold}/evict"), &json!({}), &key).await;
    world.server.launch().await;
    for point in RETURNING {
        evict(&world, &cold).await;
        let (key, path) = (world.new_key(), format!("/sandbox/{target}/checkpoints/restore"));
        let body = json!({ "checkpoint_id": cold });
        world.breaks(*point, Method::POST, &path, &body, &key).await;
        world.server.launch().await;
        world.post(&path, &body, &key).await.ok();
        crate::tree::same(&world.show(&target).await, &world.second.tree, "brought back");
    }
    let key = world.new_key();
    world.breaks(ForgetRecord, Method::DELETE, &format!("/checkpoints/{cold}"), &json!({}), &key).await;
    world.mends(ForgetRecord).await;
    world.server.get(&format!("/checkpoints/{cold}")).await.refused(404, "not_found");
    sound(&world);
    world.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_death_left_of_deleted_checkpoints_is_forgotten_and_collected() {
    let mut world = World::start().await;
    for id in [world.first.checkpoint.clone(), world.second.checkpoint.clone()] {
        verified(&world, &id).await;
    }
    // The row is gone, and nobody has told the vault.
    let body = json!({ "name": "goes", "wait": "verified" });
    let goes = world.server.checkpoint(&world.source, body).await;
    let key = world.new_key();
    let path = format!("/checkpoints/{goes}");
    world.breaks(CheckpointDeleteRow, Method::DELETE, &path, &json!({}), &key).await;
    assert!(!objects(&world, &goes).is_empty());
    // It died while it stored another, too.
    let (key, path) = (world.new_key(), format!("/sandbox/{}/checkpoints", world.source));
    world.server.launch().await;
    world.server.sh(&world.source, "head -c 500000 /dev/urandom > large; echo small > small").await;
    let body = json!({ "name": "half", "wait": "verified" });
    world.breaks(VaultPacked, Method::POST, &path, &body, &key).await;
    world.mends(VaultPacked).await;
    let half = world.post(&path, &body, &key).await.ok()["id"].as_str().unwrap().to_owned();
    world.server.sh(&world.source, "rm large").await;
    let kept = world.server.checkpoint(&world.source, json!({ "name": "kept", "wait": "verified" })).await;
    world.remove_checkpoint(&half).await;
    for gone in [&goes, &half] {
        forgotten(&world, gone).await;
    }
    for point in COLLECTING {
        let died = vault(&world, &["gc"], Some(*point));
        assert_eq!(died.status.signal(), Some(9), "{}: {died:?}", point.name());
        sound(&world);
    }
    assert!(vault(&world, &["gc"], None).status.success());
    evict(&world, &kept).await;
    let fork = world.server.sandbox_with(json!({ "checkpoint_id": kept })).await;
    assert_eq!(world.server.sh(&fork, "cat small; test ! -e large").await, "small\n");
    world.remove_sandbox(&fork).await;
    let (_, _, checkpoints) = host::listed(&world.server).await;
    for id in checkpoints {
        world.remove_checkpoint(&id).await;
        forgotten(&world, &id).await;
    }
    assert!(vault(&world, &["gc"], None).status.success());
    let left: Vec<PathBuf> = objects(&world, "");
    let needless = |path: &&PathBuf| !["format", "key"].iter().any(|name| path.file_name().unwrap() == *name);
    assert_eq!(left.iter().filter(needless).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

/// Waits until a checkpoint is verified.
async fn verified(world: &World, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let shown = world.server.get(&format!("/checkpoints/{id}")).await.ok();
        if shown["durability"] == "verified" {
            return;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn evict(world: &World, id: &str) {
    world.server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
}

/// Waits until the vault has no record of a checkpoint.
async fn forgotten(world: &World, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !objects(world, id).is_empty() {
        assert!(Instant::now() < deadline, "{id} is deleted and in the store");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Files of the store whose name has this in it.
fn objects(world: &World, part: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![world.server.data_dir().join("vault")]);
    while let Some(folder) = folders.pop() {
        // A folder may go while it is being looked at.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().unwrap().contains(part) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// `forkpoint vault check --read-data 100` finds nothing.
#[track_caller]
fn sound(world: &World) {
    let check = vault(world, &["check", "--read-data", "100"], None);
    assert!(check.status.success(), "{check:?}");
}

/// Runs `forkpoint vault …` beside the server.
fn vault(world: &World, arguments: &[&str], point: Option<Point>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpoint"));
    command.arg("vault").args(arguments).arg("--data-dir").arg(world.server.data_dir());
    command.envs(point.map(|point| ("FORKPOINT_FAILPOINT", point.name())));
    command.output().unwrap()
}
