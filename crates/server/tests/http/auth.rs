//! Keys: how they are sent, what they may do, whose objects they reach.

use crate::harness::{Answer, Server, unknown};
use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::json;
use std::num::NonZeroU32;

async fn list_with(server: &Server, headers: &[(&str, String)]) -> Answer {
    let mut request = Request::builder().uri("/api/v1/sandboxes");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    Answer::read(server.send(request.body(Body::empty()).unwrap()).await).await
}

#[tokio::test]
async fn one_key_works_in_all_its_forms() {
    let server = Server::new().await;
    let key = &server.key;
    for (name, value) in [
        ("authorization", format!("ApiKey {key}")),
        ("authorization", format!("apikey {key}")),
        ("authorization", format!("Bearer {key}")),
        ("authorization", format!("bearer   {key}")),
        ("x-api-key", key.clone()),
    ] {
        let answer = list_with(&server, &[(name, value.clone()), ("x-org-id", "org_of_somebody".into())]).await;
        assert_eq!(answer.status, 200, "{name}: {value}");
    }
    let conflicting = [("authorization", "ApiKey wrong".to_owned()), ("x-api-key", key.clone())];
    list_with(&server, &conflicting).await.refused(401, "unauthorized");
}

#[tokio::test]
async fn credentials_that_prove_nothing_are_refused_alike() {
    let server = Server::new().await;
    for headers in [
        vec![],
        vec![("authorization", format!("Basic {}", server.key))],
        vec![("authorization", server.key.clone())],
        vec![("authorization", "ApiKey sk-sandbox-unknown".into())],
        vec![("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA".into())],
        vec![("x-api-key", "x".repeat(5000))],
        vec![("x-api-key", String::new())],
    ] {
        list_with(&server, &headers).await.refused(401, "unauthorized");
    }
}

#[tokio::test]
async fn scopes_bound_what_a_key_may_do() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let made = server.post("/api/v1/api-keys", json!({"name": "reader", "scopes": ["read"]})).await;
    let reader = Server {
        key: made.text_at("/key"),
        router: server.router.clone(),
        test: server.test.clone(),
        ready: server.ready.clone(),
    };
    assert_eq!(reader.get(&format!("/api/v1/sandbox/{id}")).await.status, 200);
    for (method, path) in [
        (Method::POST, "/api/v1/sandbox".to_owned()),
        (Method::POST, format!("/api/v1/sandbox/{id}/stop")),
        (Method::DELETE, format!("/api/v1/sandbox/{id}")),
        (Method::POST, format!("/api/v1/sandbox/{id}/fork")),
        (Method::GET, "/api/v1/api-keys".to_owned()),
    ] {
        reader.call(method, &path, "").await.refused(403, "forbidden");
    }
    let exec = reader.post(&format!("/api/v1/sandbox/{id}/execute"), json!({"command": "true"})).await;
    exec.refused(403, "forbidden");
}

#[tokio::test]
async fn another_organisations_objects_do_not_exist() {
    let server = Server::new().await;
    let sandbox = server.sandbox().await;
    let checkpoint = server.checkpoint(&sandbox, "mine").await;
    let opened = server.post(&format!("/api/v1/sandbox/{sandbox}/terminals"), json!({})).await;
    let terminal = format!("/terminals/{}", opened.text_at("/id"));
    let other = server.other_organisation().await;
    let own = other.sandbox().await;
    let sandbox_path = |rest: &str| format!("/api/v1/sandbox/{sandbox}{rest}");
    for (method, path, body) in [
        (Method::GET, sandbox_path(""), json!({})),
        (Method::GET, sandbox_path("/status"), json!({})),
        (Method::DELETE, sandbox_path(""), json!({})),
        (Method::POST, sandbox_path("/stop"), json!({})),
        (Method::POST, sandbox_path("/start"), json!({})),
        (Method::POST, sandbox_path("/extend"), json!({"additional_seconds": 5})),
        (Method::POST, sandbox_path("/fork"), json!({})),
        (Method::POST, sandbox_path("/execute"), json!({"command": "true"})),
        (Method::POST, sandbox_path("/terminals"), json!({})),
        (Method::GET, sandbox_path("/terminals"), json!({})),
        (Method::GET, sandbox_path(&terminal), json!({})),
        (Method::DELETE, sandbox_path(&terminal), json!({})),
        (Method::GET, sandbox_path(&format!("{terminal}/wait")), json!({})),
        (Method::POST, sandbox_path(&format!("{terminal}/signal")), json!({"signal": 9})),
        (Method::GET, sandbox_path("/files?path=/etc/passwd"), json!({})),
        (Method::GET, sandbox_path("/files/raw?path=/etc/passwd"), json!({})),
        (Method::PUT, sandbox_path("/files/raw?path=/tmp/x"), json!({})),
        (Method::GET, sandbox_path("/files/list"), json!({})),
        (Method::POST, sandbox_path("/files"), json!({"files": [{"path": "/a", "content": ""}]})),
        (Method::DELETE, sandbox_path("/files"), json!({"path": "/a"})),
        (Method::POST, sandbox_path("/files/mkdir"), json!({"path": "/a"})),
        (Method::POST, sandbox_path("/files/move"), json!({"source": "/a", "destination": "/b"})),
        (Method::POST, sandbox_path("/files/copy"), json!({"source": "/a", "destination": "/b"})),
        (Method::POST, sandbox_path("/files/glob"), json!({"pattern": "/a"})),
        (Method::POST, sandbox_path("/checkpoints"), json!({"name": "theirs"})),
        (Method::POST, sandbox_path("/checkpoints/restore"), json!({"checkpoint_id": checkpoint})),
        (Method::POST, format!("/api/v1/sandbox/{own}/checkpoints/restore"), json!({"checkpoint_id": checkpoint})),
        (Method::GET, format!("/api/v1/checkpoints/{checkpoint}"), json!({})),
        (Method::DELETE, format!("/api/v1/checkpoints/{checkpoint}"), json!({})),
        (Method::POST, format!("/api/v1/checkpoints/{checkpoint}/clone"), json!({"name": "x"})),
        (
            Method::POST,
            "/api/v1/checkpoints/compare".into(),
            json!({"checkpoint_id_1": checkpoint, "checkpoint_id_2": checkpoint}),
        ),
        (Method::POST, "/api/v1/sandbox".into(), json!({"checkpoint_id": checkpoint})),
    ] {
        let answer = other.call(method.clone(), &path, body.to_string()).await;
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        answer.refused(404, "not_found");
    }
    assert_eq!(other.get("/api/v1/checkpoints").await.json(), json!({"checkpoints": []}));
    let listed = other.get(&format!("/api/v1/checkpoints?sandbox_id={sandbox}")).await;
    assert_eq!(listed.json(), json!({"checkpoints": []}));
    assert_eq!(other.get("/api/v1/sandboxes").await.json()["sandboxes"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&sandbox_path("")).await.status, 200);
}

#[tokio::test]
async fn malformed_ids_are_400_and_unknown_ones_404() {
    let server = Server::new().await;
    for id in ["x", "sb-1", "cp-01890a5d-ac96-774b-bcce-b302099a8057", "..", "%2e%2e%2fetc", "%ff"] {
        let answer = server.get(&format!("/api/v1/sandbox/{id}")).await;
        assert_eq!(answer.status, 400, "{id}: {answer:?}");
    }
    for id in [unknown("sb-"), unknown("sbx_"), unknown("")] {
        server.get(&format!("/api/v1/sandbox/{id}")).await.refused(404, "not_found");
    }
    server.get("/api/v1/checkpoints/nope").await.refuses_field("checkpoint_id");
    server.get(&format!("/api/v1/checkpoints/{}", unknown("cp-"))).await.refused(404, "not_found");
    server.get("/api/v1/checkpoints?sandbox_id=nope").await.refuses_field("sandbox_id");
}

#[tokio::test]
async fn a_key_above_its_rate_is_told_when_to_come_again_and_others_are_not_slowed() {
    let server = Server::with(Default::default(), |options| options.rate_limit_per_minute = NonZeroU32::new(2)).await;
    for remaining in ["1", "0"] {
        let answer = server.get("/api/v1/sandboxes").await;
        assert_eq!(
            (answer.status, answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")),
            (200, "2", remaining)
        );
    }
    let answer = server.get("/api/v1/sandboxes").await;
    answer.refused(429, "rate_limited");
    assert!((1..=30).contains(&answer.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(server.other_organisation().await.get("/api/v1/sandboxes").await.status, 200);
}
