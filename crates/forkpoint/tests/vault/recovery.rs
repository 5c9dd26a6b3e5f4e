//! A server that lost everything but its master key and its store.

use crate::{
    kit::{files_of, printed, told, until, vault},
    support::Server,
};
use serde_json::json;

/// Everything that a checkpoint brings back, with types, modes, owners, sizes, times and contents.
const LISTING: &str = "cd /; find workspace opt opt2 srv etc/motd -printf '%p %y %m %U:%G %l %s %T@\\n' 2>/dev/null | sort; \
    find workspace -type f | sort | xargs md5sum; env | grep ^KEEP";

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_come_back_on_another_server_that_shares_store_and_key() {
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().join("store");
    let settings = [("vault", store.to_str().unwrap())];
    let first = Server::start_with(&settings).await;
    let sb = first.sandbox_with(json!({ "env": { "KEEP": "s3cret" } })).await;
    first
        .sh(&sb, "mkdir -p d/e && head -c 2000000 /dev/urandom > big && ln big d/hard && ln -s big link && truncate -s 9M sparse; chmod 751 d")
        .await;
    first.root(&sb, "rm /etc/motd; mv /opt /opt2; chown 12:34 /workspace/d/e; mkdir /srv/x").await;
    let trees = first.root(&sb, LISTING).await;
    let make = async |body: serde_json::Value| crate::kit::verified(&first, &sb, body).await;
    let meta = json!({ "acc": 0.95, "n": [1, 2] });
    let body = json!({ "name": "all of it", "description": "d", "metadata": meta, "retention_seconds": 3600 });
    let all = make(body).await;
    let scoped = make(json!({ "name": "src", "include_paths": ["/workspace/d", "/none"], "include_env": false })).await;
    // What is changed after it was stored is told to the store, too.
    let pinned = make(json!({ "name": "pinned" })).await;
    let record = || {
        let files = files_of(&store);
        std::fs::read(files.iter().find(|file| file.to_string_lossy().ends_with(&pinned)).unwrap()).unwrap()
    };
    let unpinned = record();
    let path = format!("/checkpoints/{pinned}");
    first.call_as(&first.key, reqwest::Method::PATCH, &path, Some(json!({ "pinned": true }))).await.ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while record() == unpinned {
        assert!(std::time::Instant::now() < deadline, "the store is not told of the pin");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let deleted = make(json!({ "name": "deleted" })).await;
    first.delete(&format!("/checkpoints/{deleted}")).await.ok();
    let clone = first.post(&format!("/checkpoints/{all}/clone"), json!({ "name": "clone" })).await.ok();
    let clone = clone["id"].as_str().unwrap().to_owned();
    until(&first, &clone, |answer| answer.body["durability"] == "verified").await;
    let known = told(&first, &all).await;

    // What was deleted leaves the store behind the answer.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while files_of(&store).iter().any(|file| file.to_string_lossy().ends_with(&deleted)) {
        assert!(std::time::Instant::now() < deadline, "{deleted} stays in the store");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    // All but the key is gone: database, layers, sandboxes.
    let key = std::fs::read(first.data_dir().join("keys/master.key")).unwrap();
    drop(first);
    // What cannot be read back at first is not given up: that is in the store, and nowhere else.
    let bad = files_of(&store)
        .into_iter()
        .filter(|file| file.parent().unwrap().ends_with("packs"))
        .max_by_key(|file| file.metadata().unwrap().len())
        .unwrap();
    let good = std::fs::read(&bad).unwrap();
    let mut rotten = good.clone();
    rotten[good.len() / 2] ^= 1;
    std::fs::write(&bad, rotten).unwrap();
    let second = Server::start_with_key(&key, &settings).await;
    let rebuilt = vault(&second, &["rebuild"]);
    let report = printed(&rebuilt);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let org = &report["organizations"][0];
    assert_eq!(org["checkpoints_rebuilt"].as_array().unwrap().len(), 4, "{report}");
    let api_key = org["api_key"].as_str().unwrap().to_owned();
    // A second run finds all of it.
    let again = printed(&vault(&second, &["rebuild"]));
    assert_eq!(
        (&again["organizations"][0]["checkpoints_known"], &again["organizations"][0]["api_key"]),
        (&json!(4), &json!(null))
    );

    let mut second = second;
    second.key = api_key;
    for id in [&all, &scoped, &pinned, &clone] {
        let settled = |answer: &crate::support::Answer| {
            ["verified", "failed"].contains(&answer.body["durability"].as_str().unwrap_or_default())
        };
        until(&second, id, settled).await;
    }
    assert_eq!(told(&second, &all).await["durability"], "failed");
    std::fs::write(&bad, good).unwrap();
    for id in [&all, &scoped, &pinned, &clone] {
        if told(&second, id).await["durability"] == "failed" {
            second.post(&format!("/checkpoints/{id}/retry"), json!({})).await.ok();
        }
        until(&second, id, |answer| answer.body["durability"] == "verified").await;
    }
    let now = told(&second, &all).await;
    for field in [
        "name",
        "description",
        "metadata",
        "sandbox_id",
        "org_id",
        "size_bytes",
        "file_count",
        "checksum",
        "created_at",
        "include_env",
    ] {
        assert_eq!(now[field], known[field], "{field}");
    }
    assert_eq!((&now["vault"]["local"], &told(&second, &pinned).await["pinned"]), (&json!(false), &json!(true)));
    // Its retention was to end soon; a recovery gives it the usual time.
    assert!(now["expires_at"].as_str() > known["expires_at"].as_str(), "{now}");
    assert_eq!(told(&second, &clone).await["cloned_from"], json!(all));

    let fork = second.sandbox_with(json!({ "checkpoint_id": all })).await;
    assert_eq!(second.root(&fork, LISTING).await, trees);
    let fork = second.sandbox_with(json!({ "checkpoint_id": scoped })).await;
    assert_eq!(second.sh(&fork, "ls /workspace; stat -c %s d/hard").await, "d\n2000000\n");
    let listed = second.get("/checkpoints").await.ok()["checkpoints"].as_array().unwrap().len();
    assert_eq!(listed, 4);
    // It is a checkpoint like any other.
    let diff = crate::kit::diff(&second, &all, &clone, "").await;
    assert_eq!(diff["files_modified"], json!([]), "{diff}");
    second.delete(&format!("/checkpoints/{scoped}")).await.ok();
    assert_eq!(printed(&vault(&second, &["rebuild"]))["organizations"][0]["checkpoints_known"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_a_store_is_refused() {
    let shared = tempfile::tempdir().unwrap();
    let store = shared.path().join("store");
    let settings = [("vault", store.to_str().unwrap())];
    let mut server = Server::start_with(&settings).await;
    assert!(vault(&server, &["rebuild"]).status.success());
    server.stop();
    let key = server.data_dir().join("keys/master.key");
    let mut other = std::fs::read(&key).unwrap();
    other[0] ^= 1;
    std::fs::write(&key, other).unwrap();
    for command in ["rebuild", "repair", "check"] {
        let refused = vault(&server, &[command]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("another master key"), "{command}: {told}");
    }
    assert!(server.try_launch().await.is_err(), "it does not start on it");
    assert!(server.logged().contains("another master key"), "{}", server.logged());
}
