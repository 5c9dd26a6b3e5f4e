//! What another server makes of an archive.

use crate::{
    forge::{annotated, archive},
    kit::{equal, export, import, played, seen, sorted},
    support::Server,
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn another_server_takes_a_checkpoint_back_with_the_same_hash_and_it_is_one_like_any_other() {
    let (here, there) = tokio::join!(Server::start(), Server::start());
    let sandbox = played(&here).await;
    let id = here.checkpoint(&sandbox, json!({ "name": "one of everything", "metadata": { "n": 1 } })).await;
    let expected = sorted(seen(&here, &sandbox).await);
    let folder = tempfile::tempdir().unwrap();
    // Before it is in any vault: the hash is computed for the archive, and is the one that the vault comes to.
    let archive = folder.path().join("it.tar");
    let checksum = export(&here, &id, &archive, &["--with-env", "--no-template"]);
    let taken = import(&there, &archive, &[]).await;
    assert_eq!((&taken["name"], &taken["metadata"]), (&json!("one of everything"), &json!({ "n": 1 })));
    assert_eq!(taken["checksum"], checksum.as_str());
    assert_eq!((&taken["status"], &taken["parent_id"]), (&json!("ready"), &Value::Null));
    let original = here.get(&format!("/checkpoints/{id}")).await.ok();
    assert_eq!(taken["file_count"], original["file_count"]);
    assert_eq!(taken["size_bytes"], original["size_bytes"]);

    let new = taken["id"].as_str().unwrap();
    let fork = there.sandbox_with(json!({ "checkpoint_id": new })).await;
    equal(&sorted(seen(&there, &fork).await), &expected);
    assert_eq!(there.sh(&fork, "echo $TOKEN").await, "s3cret\n");
    // It becomes durable as any other, under the same hash; and comes back from the vault.
    let verified = wait_verified(&there, new).await;
    assert_eq!(verified["checksum"], checksum.as_str());
    assert_eq!(wait_verified(&here, &id).await["checksum"], checksum.as_str());
    there.post(&format!("/checkpoints/{new}/evict"), json!({})).await.ok();
    there.root(&fork, "rm -rf /work").await;
    there.restore(&fork, new).await;
    equal(&sorted(seen(&there, &fork).await), &expected);
    // Back again, from where it was brought to; under another name and without its variables.
    there.post(&format!("/checkpoints/{new}/evict"), json!({})).await.ok();
    let layout = folder.path().join("back");
    assert_eq!(export(&there, new, &layout, &["--no-template"]), checksum);
    let back = import(&here, &layout, &["--name", "back"]).await;
    assert_eq!(
        (&back["name"], &back["checksum"], &back["include_env"]),
        (&json!("back"), &json!(checksum), &json!(false))
    );
    let body = json!({ "checkpoint_id_1": id, "checkpoint_id_2": back["id"] });
    let diff = here.post("/checkpoints/compare", body).await.ok();
    for list in ["added", "removed", "modified"] {
        assert_eq!(diff["diff"][list], json!([]), "{diff}");
    }
    there.delete(&format!("/checkpoints/{new}")).await.ok();
    there.owns(&[("layers", 1)]).await;
    here.owns(&[("layers", 3)]).await;
}

#[tokio::test]
async fn a_scoped_checkpoint_travels_with_its_scope_and_keeps_its_hash() {
    let (here, there) = tokio::join!(Server::start(), Server::start());
    let sandbox = here.sandbox().await;
    here.sh(&sandbox, "mkdir -p src out; echo 1 > src/a; echo 2 > out/b; ln src/a src/again").await;
    let body = json!({ "name": "scoped", "include_paths": ["/workspace"], "exclude_paths": ["/workspace/out"], "wait": "verified" });
    let id = here.checkpoint(&sandbox, body).await;
    let original = here.get(&format!("/checkpoints/{id}")).await.ok();
    let folder = tempfile::tempdir().unwrap();
    let mut sums = Vec::new();
    for (number, evict) in [(0, false), (1, true)] {
        if evict {
            here.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok();
        }
        let archive = folder.path().join(format!("{number}.tar"));
        sums.push(export(&here, &id, &archive, &["--no-template"]));
        let taken = import(&there, &archive, &[]).await;
        assert_eq!(taken["checksum"], original["checksum"]);
        assert_eq!(taken["include_paths"], original["include_paths"]);
        assert_eq!(taken["file_count"], original["file_count"]);
        let new = taken["id"].as_str().unwrap();
        assert_eq!(wait_verified(&there, new).await["checksum"], original["checksum"]);
        let fork = there.sandbox_with(json!({ "checkpoint_id": new })).await;
        assert_eq!(there.sh(&fork, "find . -type f | sort").await, "./src/a\n./src/again\n");
        // What is outside of the scope stays where it is put back into another.
        there.sh(&fork, "mkdir out; echo 3 > out/c; rm src/a").await;
        there.restore(&fork, new).await;
        assert_eq!(there.sh(&fork, "find . -type f | sort").await, "./out/c\n./src/a\n./src/again\n");
    }
    assert_eq!(sums, [original["checksum"].as_str().unwrap(); 2]);
    // It was evicted, and an export does not bring it back.
    here.owns(&[("layers", 1)]).await;
}

#[tokio::test]
async fn a_template_that_is_not_there_comes_along_once_and_is_asked_for_where_it_does_not() {
    let (here, there) = tokio::join!(Server::start(), Server::start());
    let sandbox = here.sandbox().await;
    here.root(&sandbox, "echo tool > /usr/local/bin/tool; rm -rf /usr/share /usr/lib/python3*").await;
    let prepared = here.checkpoint(&sandbox, json!({ "name": "prepared" })).await;
    here.post(&format!("/checkpoints/{prepared}/publish"), json!({ "name": "tools" })).await.ok();
    let sandbox = here.sandbox_with(json!({ "template": "tools" })).await;
    here.root(&sandbox, "echo mine > /workspace/mine; rm /etc/issue").await;
    let id = here.checkpoint(&sandbox, json!({ "name": "on tools" })).await;
    let folder = tempfile::tempdir().unwrap();
    let (whole, bare) = (folder.path().join("whole.tar"), folder.path().join("bare.tar"));
    let checksum = export(&here, &id, &whole, &[]);
    export(&here, &id, &bare, &["--no-template"]);

    let refused = send(&there, &there.key, std::fs::read(&bare).unwrap(), None).await;
    assert_eq!((refused.0, refused.1["error"]["code"].as_str()), (409, Some("template_missing")), "{refused:?}");
    assert!(refused.1["error"]["message"].as_str().unwrap().contains("tools@"), "{refused:?}");
    there.owns(&[("layers", 0)]).await;

    // Refused after its template was made, it leaves that neither.
    let layout = folder.path().join("layout");
    export(&here, &id, &layout, &[]);
    let forged = archive(&annotated(&layout, "checkpoint.root", json!(format!("b3:{}", "0".repeat(64)))));
    std::fs::remove_dir_all(&layout).unwrap();
    let refused = send(&there, &there.key, forged, None).await;
    assert_eq!(refused.0, 400, "{refused:?}");
    assert_eq!(there.get("/templates").await.ok()["templates"].as_array().unwrap().len(), 1);
    there.owns(&[("layers", 0)]).await;

    let taken = import(&there, &whole, &[]).await;
    assert_eq!(taken["checksum"], checksum.as_str());
    let template = taken["template"].as_str().unwrap().to_owned();
    assert!(template.starts_with("tools-"), "{template}");
    let fork = there.sandbox_with(json!({ "checkpoint_id": taken["id"] })).await;
    let seen = "cat /usr/local/bin/tool mine; ls /etc/issue /usr/share 2>&1 | wc -l";
    assert_eq!(there.sh(&fork, seen).await, here.sh(&sandbox, seen).await);
    // Again it is the same template; another organisation does not see it, and gets one of its own.
    assert_eq!(import(&there, &whole, &[]).await["template"], template.as_str());
    let names = |list: Value| list["templates"].as_array().unwrap().len();
    assert_eq!(names(there.get("/templates").await.ok()), 2);
    let other = there.register("Other").await;
    assert_eq!(names(there.call_as(&other, Method::GET, "/templates", None).await.ok()), 1);
    // Deleted with what lies on it, it leaves nothing.
    for checkpoint in there.get("/checkpoints").await.ok()["checkpoints"].as_array().unwrap() {
        there.delete(&format!("/checkpoints/{}", checkpoint["id"].as_str().unwrap())).await.ok();
    }
    there.delete(&format!("/sandbox/{fork}")).await.ok();
    there.delete(&format!("/templates/{template}")).await.ok();
    there.owns(&[("layers", 0)]).await;
}

#[tokio::test]
async fn an_import_sent_twice_is_done_once_and_a_client_that_goes_leaves_nothing() {
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    server.sh(&sandbox, "head -c 30000000 /dev/urandom > data").await;
    let id = server.checkpoint(&sandbox, json!({ "name": "data" })).await;
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("it.tar");
    export(&server, &id, &archive, &["--no-template"]);
    let bytes = std::fs::read(&archive).unwrap();
    let first = send(&server, &server.key, bytes.clone(), Some("once")).await;
    let second = send(&server, &server.key, bytes.clone(), Some("once")).await;
    assert_eq!((first.0, &first.1["id"]), (201, &second.1["id"]), "{first:?} {second:?}");
    let other = send(&server, &server.key, b"another archive".to_vec(), Some("once")).await;
    assert_eq!((other.0, other.1["error"]["code"].as_str()), (409, Some("idempotency_key_reused")));
    // Cut off while it is sent, more often than there are places.
    for _ in 0..3 {
        let cut = bytes::Bytes::from(bytes[..bytes.len() / 2].to_vec());
        let pieces = [Ok(cut), Err(std::io::Error::other("gone"))];
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        let request = server.client.post(format!("{}/api/v1/checkpoints/import", server.url));
        request.header("Authorization", format!("ApiKey {}", server.key)).body(body).send().await.unwrap_err();
    }
    // Hung up while it is received.
    for _ in 0..3 {
        let request = server.client.get(format!("{}/api/v1/checkpoints/{id}/export?template=true", server.url));
        let mut answer = request.header("Authorization", format!("ApiKey {}", server.key)).send().await.unwrap();
        assert!(answer.chunk().await.unwrap().is_some());
    }
    export(&server, &id, &folder.path().join("again.tar"), &["--no-template"]);
    assert_eq!(std::fs::read(folder.path().join("again.tar")).unwrap(), bytes);
    assert_eq!(server.get("/checkpoints").await.ok()["checkpoints"].as_array().unwrap().len(), 2);
    server.owns(&[("layers", 3)]).await;
    assert_no_spool(&server);
}

/// Nothing of an archive lies around.
pub fn assert_no_spool(server: &Server) {
    let names = std::fs::read_dir(server.data_dir().join("run")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("archive")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Sends an archive; gives status and answer.
pub async fn send(server: &Server, key: &str, archive: Vec<u8>, once: Option<&str>) -> (u16, Value) {
    let mut request = server.client.post(format!("{}/api/v1/checkpoints/import", server.url));
    request = request.header("Authorization", format!("ApiKey {key}"));
    if let Some(once) = once {
        request = request.header("Idempotency-Key", once);
    }
    let answer = request.body(archive).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn wait_verified(server: &Server, id: &str) -> Value {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let shown = server.get(&format!("/checkpoints/{id}")).await.ok();
        if shown["durability"] == "verified" {
            return shown;
        }
        assert!(shown["durability"] != "failed" && std::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
