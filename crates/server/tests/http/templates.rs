//! Templates over HTTP: lists, publishing, who sees what, what is in use.

use crate::harness::{Server, assert_time, unknown};
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    list["templates"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

async fn publish(server: &Server, name: &str) -> Value {
    let sandbox = server.sandbox().await;
    server.write(&sandbox, "/workspace/made", name).await;
    let checkpoint = server.checkpoint(&sandbox, "prepared").await;
    let body = json!({ "name": name, "description": "Ready to go", "category": "tools", "tags": ["Fast"] });
    let answer = server.post(&format!("/api/v1/checkpoints/{checkpoint}/publish"), body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    for path in [format!("/api/v1/checkpoints/{checkpoint}"), format!("/api/v1/sandbox/{sandbox}")] {
        assert_eq!(server.delete(&path).await.status, 200);
    }
    answer.json()
}

#[tokio::test]
async fn the_default_template_is_everybodys_and_has_the_documented_shape() {
    let server = Server::new().await;
    let list = server.get("/api/v1/templates").await.json();
    assert_eq!(names(&list), ["default"]);
    let one = server.get("/api/v1/templates/base").await.json();
    assert_eq!(one, list["templates"][0]);
    assert_eq!((&one["name"], &one["owner"]), (&json!("default"), &json!("operator")));
    let config = json!({ "cpus": "1", "memory": "1Gi", "timeout_seconds": 3600, "env": {} });
    assert_eq!(one["config"], config);
    assert_time(&one["created_at"]);
    server.get("/api/v1/templates/nothing").await.refused(404, "not_found");
    server.get("/api/v1/templates/No%20Name").await.refuses_field("template");
    server.delete("/api/v1/templates/default").await.refused(409, "template_of_operator");
    server.delete("/api/v1/templates/nothing").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_published_checkpoint_is_a_template_of_its_organisation_alone() {
    let server = Server::new().await;
    let made = publish(&server, "tool").await;
    assert_eq!(
        (&made["id"], &made["owner"], &made["tags"]),
        (&json!("tool"), &json!("organization"), &json!(["Fast"]))
    );
    assert_eq!(names(&server.get("/api/v1/templates").await.json()), ["default", "tool"]);
    for (query, expected) in [
        ("?category=tools", vec!["tool"]),
        ("?category=other", vec![]),
        ("?search=FAST", vec!["tool"]),
        ("?search=ready", vec!["tool"]),
        ("?search=default", vec!["default"]),
        ("?search=ready&category=other", vec![]),
    ] {
        assert_eq!(names(&server.get(&format!("/api/v1/templates{query}")).await.json()), expected, "{query}");
    }
    for body in [json!({ "template": "tool" }), json!({ "template_id": "tool" })] {
        let sandbox = server.post("/api/v1/sandbox/create", body).await.text_at("/id");
        assert_eq!(server.read(&sandbox, "/workspace/made").await.as_deref(), Some("tool"));
    }

    let other = server.other_organisation().await;
    assert_eq!(names(&other.get("/api/v1/templates").await.json()), ["default"]);
    other.get("/api/v1/templates/tool").await.refused(404, "not_found");
    other.delete("/api/v1/templates/tool").await.refused(404, "not_found");
    other.post("/api/v1/sandbox/create", json!({ "template": "tool" })).await.refuses_field("template");
    // The name is free for it, and means its own.
    let theirs = publish(&other, "tool").await;
    assert_ne!(theirs["digest"], made["digest"]);
    assert_eq!(server.get("/api/v1/templates/tool").await.json()["digest"], made["digest"]);
}

#[tokio::test]
async fn create_from_template_takes_what_the_published_client_sends() {
    let server = Server::new().await;
    publish(&server, "tool").await;
    let body = json!({ "template_id": "tool", "timeout_seconds": 60, "env": { "A": "1" }, "override_cpus": "500m", "override_memory": "256Mi" });
    for path in ["/api/v1/sandbox/create-from-template", "/api/sandbox/create-from-template"] {
        let made = server.post(path, body.clone()).await;
        assert_eq!(made.status, 201, "{made:?}");
        let sandbox = made.json();
        assert_eq!(
            (&sandbox["template"], &sandbox["cpus"], &sandbox["memory"]),
            (&json!("tool"), &json!("500m"), &json!("256Mi"))
        );
    }
    let refused = |body: Value| server.post("/api/v1/sandbox/create-from-template", body);
    let before = server.test.runtime.running_count();
    refused(json!({ "template_id": "nothing" })).await.refuses_field("template");
    refused(json!({ "template_id": "../x" })).await.refuses_field("template_id");
    refused(json!({})).await.refuses_field("template_id");
    assert_eq!(server.test.runtime.running_count(), before);
}

#[tokio::test]
async fn a_templates_sandboxes_begin_with_the_environment_of_the_checkpoint() {
    let server = Server::new().await;
    let made = server.post("/api/v1/sandbox/create", json!({ "env": { "TOKEN": "s3cret", "MODE": "a" } })).await;
    let sandbox = made.text_at("/id");
    let checkpoint = server.checkpoint(&sandbox, "prepared").await;
    let path = format!("/api/v1/checkpoints/{checkpoint}/publish");
    let published = server.post(&path, json!({ "name": "with" })).await;
    assert_eq!(published.status, 201);
    assert!(!String::from_utf8_lossy(&published.body).contains("s3cret"));
    server.post(&path, json!({ "name": "without", "include_env": false })).await;
    let env_of = async |template: &str| {
        let body = json!({ "template": template, "env": { "MODE": "b" } });
        let sandbox = server.post("/api/v1/sandbox/create", body).await.text_at("/id");
        server.post(&format!("/api/v1/sandbox/{sandbox}/execute"), json!({ "command": "env" })).await;
        serde_json::to_value(&server.test.runtime.commands().last().unwrap().env).unwrap()
    };
    assert_eq!(env_of("with").await, json!({ "TOKEN": "s3cret", "MODE": "b" }));
    assert_eq!(env_of("without").await, json!({ "MODE": "b" }));
}

#[tokio::test]
async fn a_template_in_use_is_not_deleted() {
    let server = Server::new().await;
    publish(&server, "tool").await;
    let sandbox = server.post("/api/v1/sandbox/create", json!({ "template": "tool" })).await.text_at("/id");
    let message = server.delete("/api/v1/templates/tool").await.refused(409, "template_in_use");
    assert!(message.contains(&sandbox), "{message}");
    let checkpoint = server.checkpoint(&sandbox, "later").await;
    server.delete(&format!("/api/v1/sandbox/{sandbox}")).await;
    let message = server.delete("/api/v1/templates/tool").await.refused(409, "template_in_use");
    assert!(message.contains(&checkpoint), "{message}");
    server.delete(&format!("/api/v1/checkpoints/{checkpoint}")).await;
    assert_eq!(server.delete("/api/v1/templates/tool").await.json(), json!({ "success": true }));
    server.get("/api/v1/templates/tool").await.refused(404, "not_found");
}

#[tokio::test]
async fn publishing_refuses_what_makes_no_template() {
    let server = Server::new().await;
    let sandbox = server.sandbox().await;
    let checkpoint = server.checkpoint(&sandbox, "prepared").await;
    let publish = async |body: Value| server.post(&format!("/api/v1/checkpoints/{checkpoint}/publish"), body).await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({ "name": "../up" }), "name"),
        (json!({ "name": "default" }), "name"),
        (json!({ "name": "base" }), "name"),
        (json!({ "name": "x", "category": "c".repeat(65) }), "category"),
        (json!({ "name": "x", "tags": vec!["t"; 21] }), "tags"),
        (json!({ "name": "x", "nmae": "y" }), "nmae"),
    ] {
        publish(body).await.refuses_field(field);
    }
    let missing = unknown("cp-");
    server
        .post(&format!("/api/v1/checkpoints/{missing}/publish"), json!({ "name": "x" }))
        .await
        .refused(404, "not_found");
    let other = server.other_organisation().await;
    other
        .post(&format!("/api/v1/checkpoints/{checkpoint}/publish"), json!({ "name": "x" }))
        .await
        .refused(404, "not_found");
    assert_eq!(names(&server.get("/api/v1/templates").await.json()), ["default"]);
}

#[tokio::test]
async fn a_scoped_checkpoint_publishes_its_template_and_the_set() {
    let server = Server::new().await;
    let sandbox = server.sandbox().await;
    for path in ["/workspace/in/a", "/workspace/out/b"] {
        server.write(&sandbox, path, "x").await;
    }
    let body = json!({ "name": "scoped", "include_paths": ["/workspace/in"] });
    let checkpoint = server.post(&format!("/api/v1/sandbox/{sandbox}/checkpoints"), body).await.text_at("/id");
    let layers = server.test.runtime.layer_count();
    let made = server.post(&format!("/api/v1/checkpoints/{checkpoint}/publish"), json!({ "name": "part" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    server.test.platform.drain().await;
    assert_eq!(server.test.runtime.layer_count(), layers, "the layer in between is still there");
    let sandbox = server.post("/api/v1/sandbox/create", json!({ "template": "part" })).await.text_at("/id");
    assert_eq!(server.read(&sandbox, "/workspace/in/a").await.as_deref(), Some("x"));
    assert_eq!(server.read(&sandbox, "/workspace/out/b").await, None);
}
