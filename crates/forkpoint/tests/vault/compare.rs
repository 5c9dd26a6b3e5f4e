//! Comparing: by content, mode, owner and name, by line, and without the layers.

use crate::{
    kit::{diff, evict, verified},
    support::Server,
};
use serde_json::json;

const FIRST: &str = "mkdir -p src lib; printf 'one\\ntwo\\nthree\\n' > src/a; echo same > src/same; \
    head -c 100000 /dev/urandom > lib/big; head -c 3000 /dev/urandom > data.bin; echo gone > gone; ln -s a src/link; \
    mkdir d; chmod 755 d; echo x > d/x; chmod 640 src/same; truncate -s 3M sparse; echo tail >> sparse";
const SECOND: &str = "printf 'one\\n2\\nthree\\n' > src/a; touch src/same; chmod 755 src/same; mv lib/big moved-big; \
    head -c 3000 /dev/urandom > data.bin; rm gone; echo new > new; ln -sfn b src/link; chmod 700 d; \
    echo more >> sparse";

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_the_same_with_and_without_the_layers() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "PLAIN": "1", "API_KEY": "s3cret-one" } })).await;
    server.sh(&sb, FIRST).await;
    server.root(&sb, "rm /etc/issue; mv /usr/share/misc /usr/share/moved; rm -rf /srv; echo 1 > /srv").await;
    let first = verified(&server, &sb, json!({ "name": "first" })).await;
    server.sh(&sb, SECOND).await;
    server
        .root(
            &sb,
            "chown 12:34 /workspace/src/a; echo again > /etc/issue; mv /usr/share/moved /usr/share/misc; rm /etc/motd",
        )
        .await;
    let second = verified(&server, &sb, json!({ "name": "second" })).await;
    let scoped = verified(&server, &sb, json!({ "name": "s", "include_paths": ["/workspace/src"] })).await;
    let excluding = verified(&server, &sb, json!({ "name": "e", "exclude_paths": ["/workspace/src", "/etc"] })).await;

    let here = diff(&server, &first, &second, "?content=true").await;
    let paths = |field: &str| -> Vec<String> {
        here[field].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect()
    };
    let has = |field: &str, path: &str| paths(field).iter().any(|one| one == path);
    assert!(has("files_added", "/workspace/new") && has("files_added", "/etc/issue"), "{here}");
    assert!(has("files_removed", "/workspace/gone") && has("files_removed", "/etc/motd"), "{here}");
    for changed in ["/workspace/src/a", "/workspace/src/link", "/workspace/data.bin", "/workspace/sparse"] {
        assert!(has("files_modified", changed), "{changed}: {here}");
    }
    assert!(!has("files_modified", "/workspace/src/same"), "{here}");
    let moved = json!({ "from": "/workspace/lib/big", "to": "/workspace/moved-big", "size_bytes": 100_000 });
    assert!(here["files_renamed"].as_array().unwrap().contains(&moved), "{here}");
    let modes = here["files_mode_changed"].as_array().unwrap();
    assert!(modes.contains(&json!({ "path": "/workspace/src/same", "old": "0640", "new": "0755" })), "{here}");
    assert!(modes.contains(&json!({ "path": "/workspace/d", "old": "0755", "new": "0700" })), "{here}");
    let owners = here["files_owner_changed"].as_array().unwrap();
    let owner = owners.iter().find(|one| one["path"] == "/workspace/src/a").unwrap_or_else(|| panic!("{here}"));
    assert_eq!(owner["new"], "12:34");
    let by_line = |path: &str| here["contents"].as_array().unwrap().iter().find(|one| one["path"] == path).cloned();
    let text = by_line("/workspace/src/a").unwrap();
    assert_eq!(text["diff"], "--- a/workspace/src/a\n+++ b/workspace/src/a\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    assert_eq!((&text["old_size_bytes"], &text["new_size_bytes"]), (&json!(14), &json!(12)));
    assert_eq!(by_line("/workspace/data.bin").unwrap()["omitted"], "binary");
    assert_eq!(by_line("/workspace/sparse").unwrap()["omitted"], "too_large");
    assert!(by_line("/workspace/new").unwrap()["diff"].as_str().unwrap().starts_with("--- /dev/null\n"));
    assert_eq!(here["contents_left_out"], 0);
    assert!(diff(&server, &first, &second, "").await["contents"].is_null());

    let pairs = [
        (&first, &second, "?content=true"),
        (&second, &first, "?content=true"),
        (&scoped, &second, "?content=true"),
        (&first, &scoped, ""),
        (&excluding, &first, "?content=true"),
        (&scoped, &excluding, "?content=true"),
    ];
    let mut expected = Vec::new();
    for (one, other, query) in pairs {
        expected.push(diff(&server, one, other, query).await);
    }
    // One layer is missing, then all are; no layer comes back for it.
    evict(&server, &first).await;
    for ((one, other, query), expected) in pairs.iter().zip(&expected) {
        assert_eq!(&diff(&server, one, other, query).await, expected, "{one} {other}, one layer here");
    }
    for id in [&second, &scoped, &excluding] {
        evict(&server, id).await;
    }
    server.owns(&[("layers", 1)]).await;
    for ((one, other, query), expected) in pairs.iter().zip(&expected) {
        assert_eq!(&diff(&server, one, other, query).await, expected, "{one} {other}, no layer here");
    }
    server.owns(&[("layers", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_roots_are_not_read_and_secrets_are_not_shown() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "PLAIN": "1", "API_KEY": "s3cret-one", "OLD_TOKEN": "x" } })).await;
    server.sh(&sb, "mkdir tree; for n in $(seq 300); do echo $n > tree/$n; done").await;
    let first = verified(&server, &sb, json!({ "name": "first" })).await;
    let again = verified(&server, &sb, json!({ "name": "again" })).await;
    for id in [&first, &again] {
        evict(&server, id).await;
    }
    // Nothing of the store can be read but the rows say that both are the same.
    let (packs, aside) = (server.data_dir().join("vault/orgs"), server.data_dir().join("vault/aside"));
    std::fs::rename(&packs, &aside).unwrap();
    let same = diff(&server, &first, &again, "?content=true").await;
    assert_eq!((&same["files_added"], &same["contents"]), (&json!([]), &json!([])), "{same}");
    std::fs::rename(&aside, &packs).unwrap();

    let body = json!({ "env": { "PLAIN": "2", "API_KEY": "s3cret-two", "DB_PASSWORD": "s3cret-three" } });
    let other = server.sandbox_with(body).await;
    let second = server.checkpoint(&other, json!({ "name": "second" })).await;
    let answer = diff(&server, &first, &second, "").await;
    assert_eq!(answer["env_modified"]["PLAIN"], json!({ "old": "1", "new": "2" }));
    assert_eq!(answer["env_modified"]["API_KEY"], json!({ "old": "[secret]", "new": "[secret]" }));
    assert_eq!(answer["env_added"], json!({ "DB_PASSWORD": "[secret]" }));
    assert_eq!(answer["env_removed"], json!({ "OLD_TOKEN": "[secret]" }));
    assert!(!answer.to_string().contains("s3cret"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_vault_ends_a_comparison_with_its_reason() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > a").await;
    let first = verified(&server, &sb, json!({ "name": "first" })).await;
    server.sh(&sb, "echo 2 > a").await;
    let second = server.checkpoint(&sb, json!({ "name": "second" })).await;
    evict(&server, &first).await;
    for pack in crate::kit::files_of(&server.data_dir().join("vault/orgs")) {
        if pack.to_string_lossy().contains("/packs/") {
            crate::kit::damage(&pack);
        }
    }
    let body = json!({ "checkpoint_id_1": first, "checkpoint_id_2": second });
    let refused = server.post("/checkpoints/compare", body).await.refused(503, "unavailable");
    assert!(refused["message"].as_str().unwrap().contains("damaged"), "{refused}");
}
