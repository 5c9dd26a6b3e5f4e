//! Checkpoints: what they look like, restoring, cloning, comparing, listing.

use crate::harness::{Server, assert_time, unknown};
use forkpoint_domain::checkpoint::CaptureLimits;
use forkpoint_engine::Settings;
use serde_json::{Value, json};

#[tokio::test]
async fn a_checkpoint_has_every_field_that_clients_read() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/src/a", "12345").await;
    let body = json!({"name": "first", "description": "d", "include_paths": ["/workspace/src"], "exclude_paths": ["/workspace/src/*.log"],
                      "include_env": false, "metadata": {"accuracy": 0.95, "epochs": 100, "nested": {"a": [1, null]}}, "kind": "files", "wait": "ready"});
    let answer = server.post(&format!("/api/v1/sandbox/{id}/checkpoints"), body.clone()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    assert!(made["id"].as_str().unwrap().starts_with("cp-"));
    for (field, expected) in [
        ("sandbox_id", json!(id)),
        ("name", json!("first")),
        ("description", json!("d")),
        ("size", json!(5)),
        ("size_bytes", json!(5)),
        ("file_count", json!(1)),
        ("checksum", json!("")),
        ("metadata", body["metadata"].clone()),
        ("status", json!("ready")),
        ("durability", json!("captured")),
        ("kind", json!("files")),
        ("parent_id", Value::Null),
        ("cloned_from", Value::Null),
        ("pause_ms", json!(2.5)),
        ("copy_duration_ms", json!(4.25)),
        ("include_paths", body["include_paths"].clone()),
        ("exclude_paths", body["exclude_paths"].clone()),
        ("include_env", json!(false)),
        ("template", json!("default")),
    ] {
        assert_eq!(made[field], expected, "{field}");
    }
    assert!(made["org_id"].as_str().unwrap().starts_with("org_"));
    assert_time(&made["created_at"]);
    assert_time(&made["expires_at"]);
    let cp = made["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/checkpoints/{cp}")).await.json(), made);
    assert_eq!(server.get("/api/v1/checkpoints").await.json(), json!({"checkpoints": [made]}));
}

#[tokio::test]
async fn only_a_name_is_needed() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let made = server
        .post(&format!("/api/v1/sandbox/{id}/checkpoints"), json!({"name": "n", "metadata": null, "description": null}))
        .await
        .json();
    assert_eq!(
        (&made["metadata"], &made["description"], &made["include_env"]),
        (&json!({}), &Value::Null, &json!(true))
    );
    let second = server.post(&format!("/api/v1/sandbox/{id}/checkpoints"), json!({"name": "m"})).await.json();
    assert_eq!(second["parent_id"], made["id"]);
}

#[tokio::test]
async fn what_cannot_be_captured_is_refused() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let path = format!("/api/v1/sandbox/{id}/checkpoints");
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": null}), "name"),
        (json!({"name": "n", "metadata": {"a": "x".repeat(10 * 1024)}}), "metadata"),
        (json!({"name": "n", "metadata": []}), "metadata"),
        (json!({"name": "n", "include_paths": "/a"}), "include_paths"),
        (json!({"name": "n", "include_paths": ["a"]}), "include_paths[0]"),
        (json!({"name": "n", "excludePaths": ["/a/../b"]}), "exclude_paths[0]"),
        (json!({"name": "n", "include_env": "yes"}), "include_env"),
        (json!({"name": "n", "kind": "huge"}), "kind"),
        (json!({"name": "n", "wait": "forever"}), "wait"),
        (json!({"name": "n", "description": "x".repeat(5000)}), "description"),
        (json!({"name": "n", "expires": 1}), "expires"),
    ] {
        server.post(&path, body).await.refuses_field(field);
    }
    let full = server.post(&path, json!({"name": "n", "kind": "full"})).await;
    full.refused(409, "kind_unavailable");
    assert_eq!(full.json()["error"]["details"]["available"], json!(["files"]));
    for wait in ["durable", "verified"] {
        server.post(&path, json!({"name": "n", "wait": wait})).await.refused(409, "durability_unavailable");
    }
    assert_eq!(server.get("/api/v1/checkpoints").await.json(), json!({"checkpoints": []}));
}

#[tokio::test]
async fn metadata_of_exactly_ten_kilobytes_passes() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let metadata = json!({"k": "x".repeat(10 * 1024 - 8)});
    assert_eq!(metadata.to_string().len(), 10 * 1024);
    let made =
        server.post(&format!("/api/v1/sandbox/{id}/checkpoints"), json!({"name": "n", "metadata": metadata})).await;
    assert_eq!(made.status, 201);
}

#[tokio::test]
async fn a_set_over_the_limits_is_413() {
    let settings = Settings { capture_limits: CaptureLimits { max_files: 1, max_bytes: 10 }, ..Settings::default() };
    let server = Server::with(settings, |_| {}).await;
    let id = server.sandbox().await;
    let path = format!("/api/v1/sandbox/{id}/checkpoints");
    server.write(&id, "/workspace/a", "12345").await;
    assert_eq!(server.post(&path, json!({"name": "fits"})).await.status, 201);
    server.write(&id, "/workspace/b", "1").await;
    server.post(&path, json!({"name": "n"})).await.refused(413, "too_large");
    server.write(&id, "/workspace/a", "12345678901").await;
    server.post(&path, json!({"name": "n", "include_paths": ["/workspace/a"]})).await.refused(413, "too_large");
}

#[tokio::test]
async fn restoring_brings_files_back_and_takes_added_ones_away() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/app.py", "good").await;
    server.write(&id, "/workspace/config.json", "{}").await;
    let cp = server.checkpoint(&id, "initial").await;
    server.write(&id, "/workspace/app.py", "BROKEN").await;
    server.write(&id, "/workspace/added", "x").await;
    assert_eq!(server.delete(&format!("/api/v1/sandbox/{id}/files?path=/workspace/config.json")).await.status, 200);

    let restore = format!("/api/v1/sandbox/{id}/checkpoints/restore");
    let kept = server.post(&restore, json!({"checkpointId": cp, "overwrite": false})).await;
    assert_eq!(kept.json(), json!({"success": true, "sandbox_id": id, "checkpoint_id": cp}));
    assert_eq!(server.read(&id, "/workspace/app.py").await.as_deref(), Some("BROKEN"));
    assert_eq!(server.read(&id, "/workspace/config.json").await.as_deref(), Some("{}"));

    let restored = server
        .post(&restore, json!({"checkpoint_id": cp, "restore_files": true, "restore_env": true, "overwrite": true}))
        .await;
    assert_eq!((restored.status, restored.json()["success"].clone()), (200, json!(true)));
    assert_eq!(server.read(&id, "/workspace/app.py").await.as_deref(), Some("good"));
    assert_eq!(server.read(&id, "/workspace/added").await, None);

    server.post(&restore, json!({})).await.refuses_field("checkpoint_id");
    server.post(&restore, json!({"checkpoint_id": "x"})).await.refuses_field("checkpoint_id");
    server.post(&restore, json!({"checkpoint_id": cp, "overwrite": 1})).await.refuses_field("overwrite");
    server.post(&restore, json!({"checkpoint_id": unknown("cp-")})).await.refused(404, "not_found");
}

#[tokio::test]
async fn restoring_into_another_sandbox_and_creating_from_a_checkpoint() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/a", "saved").await;
    let cp = server.checkpoint(&id, "c").await;
    let other = server.post("/api/v1/sandbox", json!({"env": {"OWN": "1"}})).await.text_at("/id");
    server.write(&other, "/workspace/a", "its own").await;
    server.write(&other, "/workspace/b", "its own").await;
    // What is left out is true: files, environment, overwriting.
    let restored =
        server.post(&format!("/api/v1/sandbox/{other}/checkpoints/restore"), json!({"checkpoint_id": cp})).await;
    assert_eq!(restored.status, 200);
    assert_eq!(server.read(&other, "/workspace/b").await, None);
    server.post(&format!("/api/v1/sandbox/{other}/execute"), json!({"command": "env"})).await;
    assert!(server.test.runtime.commands()[0].env.is_empty());
    assert_eq!(server.read(&other, "/workspace/a").await.as_deref(), Some("saved"));
    for field in ["checkpoint_id", "snapshot_id", "snapshotId"] {
        let made = server.post("/api/v1/sandbox", json!({field: cp.replace("cp-", "snap_")})).await;
        assert_eq!((made.status, made.text_at("/forked_from")), (201, cp.clone()));
        assert_eq!(server.read(&made.text_at("/id"), "/workspace/a").await.as_deref(), Some("saved"));
    }
    server.post("/api/v1/sandbox", json!({"checkpoint_id": unknown("cp-")})).await.refused(404, "not_found");
}

#[tokio::test]
async fn comparing_shows_files_and_environment() {
    let server = Server::new().await;
    let make = |env: Value| server.post("/api/v1/sandbox", json!({"env": env}));
    let (one, two) = (
        make(json!({"A": "1", "B": "2"})).await.text_at("/id"),
        make(json!({"B": "3", "C": "4"})).await.text_at("/id"),
    );
    for (sandbox, path, content) in [(&one, "a", "1"), (&one, "m", "1"), (&two, "b", "22"), (&two, "m", "2")] {
        server.write(sandbox, &format!("/workspace/{path}"), content).await;
    }
    let (first, second) = (server.checkpoint(&one, "one").await, server.checkpoint(&two, "two").await);
    let compared =
        server.post("/api/v1/checkpoints/compare", json!({"checkpoint_id_1": first, "checkpointId2": second})).await;
    assert_eq!(
        compared.json(),
        json!({
            "checkpoint_1": {"id": first, "name": "one"},
            "checkpoint_2": {"id": second, "name": "two"},
            "diff": {
                "files_added": ["/workspace/b"], "files_removed": ["/workspace/a"], "files_modified": ["/workspace/m"],
                "added": ["/workspace/b"], "removed": ["/workspace/a"], "modified": ["/workspace/m"],
                "env_added": {"C": "4"}, "env_removed": {"A": "1"}, "env_modified": {"B": {"old": "2", "new": "3"}},
                "size_change_bytes": 1
            }
        })
    );
    for (body, field) in [
        (json!({"checkpoint_id_1": first}), "checkpoint_id_2"),
        (json!({"checkpoint_id_1": "x", "checkpoint_id_2": second}), "checkpoint_id_1"),
        (json!({"checkpoint_id_1": first, "checkpoint_id_2": 5}), "checkpoint_id_2"),
    ] {
        server.post("/api/v1/checkpoints/compare", body).await.refuses_field(field);
    }
}

#[tokio::test]
async fn clones_live_on_their_own() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/a", "x").await;
    let cp = server.checkpoint(&id, "origin").await;
    let clone = server.post(&format!("/api/v1/checkpoints/{cp}/clone"), json!({"name": "copy"})).await;
    assert_eq!(clone.status, 201);
    let clone = clone.json();
    assert_eq!(
        (&clone["name"], &clone["cloned_from"], &clone["sandbox_id"], &clone["size"]),
        (&json!("copy"), &json!(cp), &json!(id), &json!(1))
    );
    assert_eq!(server.delete(&format!("/api/v1/checkpoints/{cp}")).await.json(), json!({"success": true}));
    server.get(&format!("/api/v1/checkpoints/{cp}")).await.refused(404, "not_found");
    server.delete(&format!("/api/v1/checkpoints/{cp}")).await.refused(404, "not_found");
    let made = server.post("/api/v1/sandbox", json!({"checkpoint_id": clone["id"]})).await;
    assert_eq!(server.read(&made.text_at("/id"), "/workspace/a").await.as_deref(), Some("x"));
    server.post(&format!("/api/v1/checkpoints/{cp}/clone"), json!({})).await.refuses_field("name");
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let server = Server::new().await;
    let (one, two) = (server.sandbox().await, server.sandbox().await);
    for (sandbox, name) in [(&one, "Setup"), (&one, "Initial setup complete"), (&two, "other")] {
        server.checkpoint(sandbox, name).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let answer = server.get(&format!("/api/v1/checkpoints{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("").await, ["other", "Initial setup complete", "Setup"]);
    assert_eq!(names("?order=asc&limit=2").await, ["Setup", "Initial setup complete"]);
    assert_eq!(names("?name=setup").await, ["Setup", "Initial setup complete"]);
    assert_eq!(names("?name_exact=Initial%20setup+complete").await, ["Initial setup complete"]);
    assert_eq!(names(&format!("?sandbox_id={two}")).await, ["other"]);
    assert_eq!(names("?org_id=org_whatever&sandbox_id=&name=").await.len(), 3);
    for (query, field) in [("?order=up", "order"), ("?limit=0", "limit"), ("?limit=x", "limit"), ("?name=%ff", "name")]
    {
        server.get(&format!("/api/v1/checkpoints{query}")).await.refuses_field(field);
    }
}
