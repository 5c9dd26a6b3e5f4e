//! Servers that share nothing but an object store and the master key.
#![allow(clippy::unwrap_used)]

mod support;

use forkpoint_torture::moto::Moto;
use serde_json::{Value, json};
use std::path::Path;
use support::Server;

const LISTING: &str = "cd /; find workspace opt2 etc/motd -printf '%p %y %m %U:%G %l %s %T@\\n' 2>/dev/null | sort; \
    find workspace -type f | sort | xargs md5sum; env | grep ^KEEP";

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_one_server_is_restored_by_another_from_s3() {
    let moto = tokio::task::spawn_blocking(|| Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR")), "shared"));
    let moto = moto.await.unwrap().unwrap();
    let variables = moto.variables();
    let mut settings: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(("vault", "s3://shared/some/prefix"));
    let first = Server::start_with(&settings).await;
    let sb = first.sandbox_with(json!({ "env": { "KEEP": "s3cret" } })).await;
    first.sh(&sb, "mkdir -p d/e && head -c 2000000 /dev/urandom > big && ln big d/hard && ln -s big link && truncate -s 9M sparse").await;
    first.root(&sb, "rm /etc/motd; mv /opt /opt2; chown 12:34 /workspace/d/e").await;
    let tree = first.root(&sb, LISTING).await;
    let body = json!({ "name": "shared", "wait": "verified" });
    let made = first.post(&format!("/sandbox/{sb}/checkpoints"), body).await.ok();
    assert_eq!(made["durability"], "verified", "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    // The first machine is lost; its key was kept apart.
    let key = std::fs::read(first.data_dir().join("keys/master.key")).unwrap();
    drop(first);

    let mut second = Server::start_with_key(&key, &settings).await;
    let rebuilt = second.program(&["vault", "rebuild"]);
    let report: Value = serde_json::from_slice(&rebuilt.stdout).unwrap_or_else(|_| panic!("{rebuilt:?}"));
    second.key = report["organizations"][0]["api_key"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned();
    let shown = second.get(&format!("/checkpoints/{id}")).await.ok();
    assert_eq!((&shown["status"], &shown["checksum"]), (&json!("ready"), &made["checksum"]), "{shown}");
    let fork = second.sandbox_with(json!({ "checkpoint_id": id })).await;
    assert_eq!(second.root(&fork, LISTING).await, tree);
    let check = second.program(&["vault", "check", "--read-data", "100"]);
    assert!(check.status.success(), "{check:?}");
}
