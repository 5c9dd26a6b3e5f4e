//! Checkpoints on their way into the vault and back, with a real server.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use std::path::Path;
use support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_checkpoint_comes_back_from_the_vault() {
    let mut server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "K": "in the vault s3cret" } })).await;
    server
        .sh(&sb, "mkdir -p d/e && echo one > d/e/f && ln d/e/f hard && ln -s d link && head -c 3000000 /dev/urandom > big && truncate -s 50M sparse && rm -rf /app/* && setfattr -n user.x -v y big 2>/dev/null; true")
        .await;
    server.root(&sb, "rm /etc/motd; mv /opt /opt2; chmod 700 /srv").await;
    let listing = "cd /; find workspace opt2 srv etc/motd -printf '%p %y %m %U %l %s %T@\\n' 2>/dev/null | sort; md5sum /workspace/big /workspace/hard; stat -c %h /workspace/hard";
    let before = server.root(&sb, listing).await;
    let route = format!("/sandbox/{sb}/checkpoints");
    let first = server.post(&route, json!({ "name": "first", "wait": "verified" })).await.ok();
    assert_eq!((&first["status"], &first["durability"]), (&json!("ready"), &json!("verified")), "{first}");
    assert!(first["checksum"].as_str().unwrap().starts_with("b3:"), "{first}");
    assert!(first["durable_at"].as_str() <= first["verified_at"].as_str());

    // The same tree again: the same hash, and nearly nothing more in the store.
    let stored = size_of(&server.data_dir().join("vault"));
    let again = server.post(&route, json!({ "name": "again", "wait": "verified" })).await.ok();
    assert_eq!(again["checksum"], first["checksum"]);
    let grown = size_of(&server.data_dir().join("vault")) - stored;
    assert!(stored > 3_000_000 && grown < 100_000, "{stored} then {grown} more");

    // Without its layer, after a restart, it is the same.
    server.delete(&format!("/checkpoints/{}", again["id"].as_str().unwrap())).await.ok();
    let id = first["id"].as_str().unwrap().to_owned();
    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
    server.owns(&[("layers", 1)]).await;
    server.sh(&sb, "rm -rf d big hard; echo changed > sparse").await;
    server.kill();
    server.launch().await;
    server.restore(&sb, &id).await;
    assert_eq!(server.root(&sb, listing).await, before);
    assert_eq!(server.sh(&sb, "echo $K").await, "in the vault s3cret\n");
    for file in files_of(&server.data_dir().join("vault")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"s3cret"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_in_scope_is_stored_and_damage_is_never_served() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "mkdir src; echo 1 > src/a; head -c 4000000 /dev/urandom > secret.bin").await;
    let body = json!({ "name": "src", "include_paths": ["/workspace/src", "/workspace/none"], "wait": "verified" });
    let made = server.post(&format!("/sandbox/{sb}/checkpoints"), body).await.ok();
    assert_eq!(made["durability"], "verified", "{made}");
    assert!(size_of(&server.data_dir().join("vault")) < 1_000_000);
    let id = made["id"].as_str().unwrap();
    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
    let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
    assert_eq!(server.sh(&fork, "find . -type f").await, "./src/a\n");
    // What was listed and absent at capture is left alone.
    server.sh(&fork, "mkdir none; echo 1 > none/new; echo 2 > src/b").await;
    server.restore(&fork, id).await;
    assert_eq!(server.sh(&fork, "find . -type f | sort").await, "./none/new\n./src/a\n");

    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
    for file in files_of(&server.data_dir().join("vault")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&file, bytes).unwrap();
    }
    let refused = server.post("/sandbox/create", json!({ "checkpoint_id": id })).await;
    assert_eq!(refused.status.as_u16(), 503, "{refused:?}");
    server.sh(&fork, "cat src/a").await;
    server.owns(&[("cgroups", 2), ("layers", 2)]).await;
}

fn files_of(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn size_of(folder: &Path) -> u64 {
    files_of(folder).iter().map(|file| file.metadata().unwrap().len()).sum()
}
