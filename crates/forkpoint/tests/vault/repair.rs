//! `forkpoint vault repair`: what is damaged is put aside, and stored anew from the layers that are here.

use crate::{
    kit::{damage, evict, files_of, printed, told, vault, verified},
    support::Server,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_put_aside_mended_from_layers_and_the_rest_is_named() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 1500000 /dev/urandom > one; md5sum one > sum").await;
    let here = verified(&server, &sb, json!({ "name": "here" })).await;
    server.sh(&sb, "rm one; head -c 1500000 /dev/urandom > two; md5sum two > sum").await;
    let away = verified(&server, &sb, json!({ "name": "away" })).await;
    server.sh(&sb, "rm two; echo fine > three; md5sum three > sum").await;
    let whole = verified(&server, &sb, json!({ "name": "whole" })).await;
    let sound = vault(&server, &["repair"]);
    assert!(sound.status.success(), "{sound:?}");
    assert_eq!((&printed(&sound)["damaged"], &printed(&sound)["stored_again"]), (&json!([]), &json!([])));

    evict(&server, &away).await;
    // The two large files are in packs that hold little else.
    let large: Vec<_> = files_of(&server.data_dir().join("vault/orgs"))
        .into_iter()
        .filter(|file| file.metadata().unwrap().len() > 1_400_000)
        .collect();
    assert_eq!(large.len(), 2);
    large.iter().for_each(|pack| damage(pack));
    let check = vault(&server, &["check", "--read-data", "100"]);
    assert!(!check.status.success());

    let repaired = vault(&server, &["repair"]);
    let report = printed(&repaired);
    assert_eq!(repaired.status.code(), Some(1), "what is lost is an error: {report}");
    let damaged = report["damaged"].as_array().unwrap();
    assert_eq!(damaged.len(), 2, "{report}");
    for (one, id) in damaged.iter().zip([&here, &away]) {
        assert!(one["moved_to"].as_str().unwrap().starts_with("quarantine/orgs/"), "{report}");
        assert!(one["chunks_lost"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(one["affects"].as_array().unwrap().len(), 1, "{report}");
        assert!(damaged.iter().any(|one| one["affects"] == json!([id])), "{report}");
    }
    assert_eq!(report["stored_again"], json!([here]));
    assert_eq!(report["lost"].as_object().unwrap().keys().collect::<Vec<_>>(), [&away], "{report}");
    let lost = told(&server, &away).await;
    assert_eq!(lost["durability"], "failed");
    assert!(lost["durability_reason"].as_str().unwrap().contains("is not on this machine"), "{lost}");
    server.post("/sandbox/create", json!({ "checkpoint_id": away })).await.refused(503, "unavailable");

    // Nothing is wrong any more but the one that is lost, and that one is not served; the others come back.
    server.delete(&format!("/checkpoints/{away}")).await.ok();
    let again = vault(&server, &["repair"]);
    assert!(again.status.success(), "{again:?}");
    for id in [&here, &whole] {
        evict(&server, id).await;
        let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
        server.sh(&fork, "md5sum -c sum").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_lost_or_damaged_are_written_again() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > f").await;
    let (lost, bad) = (
        verified(&server, &sb, json!({ "name": "lost" })).await,
        verified(&server, &sb, json!({ "name": "bad" })).await,
    );
    for file in files_of(&server.data_dir().join("vault/orgs")) {
        let name = file.to_string_lossy().into_owned();
        if name.ends_with(&lost) {
            std::fs::remove_file(&file).unwrap();
        } else if name.ends_with(&bad) {
            damage(&file);
        }
    }
    let repaired = vault(&server, &["repair"]);
    let report = printed(&repaired);
    assert!(repaired.status.success(), "{report}");
    let again: std::collections::BTreeSet<_> =
        report["stored_again"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(again, std::collections::BTreeSet::from([lost.as_str(), bad.as_str()]));
    for id in [&lost, &bad] {
        evict(&server, id).await;
        server.restore(&sb, id).await;
        assert_eq!(server.sh(&sb, "cat f").await, "1\n");
    }
}
