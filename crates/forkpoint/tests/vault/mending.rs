//! Damage in the vault that a server meets: mended from layers that are here, told where there are none.

use crate::{
    kit::{damage, evict, files_of, told, until, vault, verified},
    support::Server,
};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Files of the store whose path has this in it.
fn stored(server: &Server, part: &str) -> Vec<PathBuf> {
    let mut files = files_of(&server.data_dir().join("vault"));
    files.retain(|file| file.to_string_lossy().contains(part));
    files
}

/// The pack that holds the one large file.
fn large_pack(server: &Server) -> PathBuf {
    stored(server, "/packs/").into_iter().max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}

async fn soon(server: &Server, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}\n{}", server.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_its_layer_here_is_stored_again_and_the_damage_put_aside() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 1500000 /dev/urandom > big; md5sum big > sum").await;
    let here = verified(&server, &sb, json!({ "name": "here" })).await;
    server.sh(&sb, "echo more > more").await;
    let away = verified(&server, &sb, json!({ "name": "away" })).await;
    evict(&server, &away).await;
    let first = told(&server, &here).await;
    let pack = large_pack(&server);
    damage(&pack);

    server.post(&format!("/checkpoints/{here}/verify"), json!({})).await.refused(409, "checkpoint_damaged");
    soon(&server, "it is put aside", || !pack.exists()).await;
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(stored(&server, "/quarantine/").len(), 1);
    assert!(stored(&server, "/quarantine/")[0].ends_with(&name));
    for id in [&here, &away] {
        let healed = until(&server, id, |answer| answer.body["durability"] == "verified").await.ok();
        assert_eq!(healed["durability_reason"], json!(null), "{healed}");
    }
    let second = told(&server, &here).await;
    assert_eq!(second["checksum"], first["checksum"]);
    assert!(second["verified_at"].as_str() > first["verified_at"].as_str(), "{first} {second}");
    // The one whose layer was away is whole again, since they share what was damaged.
    let check = vault(&server, &["check", "--read-data", "100"]);
    assert!(check.status.success(), "{check:?}");
    assert_eq!(stored(&server, "/suspects/"), Vec::<PathBuf>::new());
    evict(&server, &here).await;
    for id in [&here, &away] {
        let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
        server.sh(&fork, "md5sum -c sum").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_layer_here_says_that_it_failed_and_is_served_once_it_is_whole() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 1500000 /dev/urandom > big; md5sum big > sum").await;
    let id = verified(&server, &sb, json!({ "name": "away" })).await;
    evict(&server, &id).await;
    let pack = large_pack(&server);
    let good = std::fs::read(&pack).unwrap();
    damage(&pack);
    let create = json!({ "checkpoint_id": id });
    server.post("/sandbox/create", create.clone()).await.refused(503, "unavailable");
    let failed = until(&server, &id, |answer| answer.body["durability"] == "failed").await.ok();
    let object = format!("packs/{}", pack.file_name().unwrap().to_str().unwrap());
    assert!(failed["durability_reason"].as_str().unwrap().contains(&object), "{failed}");
    server.post("/sandbox/create", create.clone()).await.refused(503, "unavailable");
    // It may have been the way from the store: nothing is taken away.
    assert!(pack.exists() && stored(&server, "/quarantine/").is_empty());
    assert_eq!(stored(&server, "/suspects/").len(), 1);
    let metrics = server.client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|line| line == "forkpoint_vault_damaged_objects 1"), "{metrics}");

    // It comes back as soon as it is whole, and is found to be so before long.
    std::fs::write(&pack, good).unwrap();
    let fork = server.sandbox_with(create).await;
    server.sh(&fork, "md5sum -c sum").await;
    soon(&server, "its mark goes", || stored(&server, "/suspects/").is_empty()).await;
    // Nobody has to ask for it.
    until(&server, &id, |answer| answer.body["durability"] == "verified").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_for_damage_that_passed_is_read_back_again() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 1500000 /dev/urandom > big").await;
    let id = verified(&server, &sb, json!({ "name": "away" })).await;
    evict(&server, &id).await;
    let pack = large_pack(&server);
    let good = std::fs::read(&pack).unwrap();
    damage(&pack);
    server.post(&format!("/checkpoints/{id}/verify"), json!({})).await.refused(409, "checkpoint_damaged");
    until(&server, &id, |answer| answer.body["durability"] == "failed").await;
    std::fs::write(&pack, good).unwrap();
    let healed = until(&server, &id, |answer| answer.body["durability"] == "verified").await.ok();
    assert_eq!((&healed["durability_reason"], &healed["vault"]["local"]), (&json!(null), &json!(false)), "{healed}");
}
