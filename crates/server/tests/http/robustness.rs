//! Bodies that are broken, huge, hostile or random; requests sent twice; answers that take long.

use crate::harness::{Answer, Server};
use axum::{
    body::{Body, Bytes},
    http::{Method, Request},
};
use forkpoint_engine::ports::runtime::RuntimeError;
use futures::{StreamExt as _, stream};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::{io, time::Duration};
use tokio::time::Instant;

#[tokio::test]
async fn broken_json_is_refused_with_its_place_whatever_the_content_type() {
    let server = Server::new().await;
    for (body, line, column) in [("{\n \"cpus\": }", 2, 10), ("{", 1, 1), ("{\"count\":1}}", 1, 12), ("nul", 1, 3)] {
        let answer = server.call_with(Method::POST, "/api/v1/sandbox", &[("content-type", "text/plain")], body).await;
        answer.refused(400, "invalid_json");
        let details = &answer.json()["error"]["details"];
        assert_eq!((&details["line"], &details["column"]), (&json!(line), &json!(column)), "{body}: {answer:?}");
    }
    for body in ["[]", "5", "\"x\"", "null"] {
        let message = server.call(Method::POST, "/api/v1/sandbox", body).await.refused(400, "invalid_request");
        assert!(message.contains("must be a JSON object"), "{message}");
    }
    server.call(Method::POST, "/api/v1/sandbox", &b"{\"env\":{\"A\":\"\xff\"}}"[..]).await.refused(400, "invalid_json");
    let json = server
        .call_with(Method::POST, "/api/v1/sandbox", &[("content-type", "application/x-www-form-urlencoded")], "{}")
        .await;
    assert_eq!(json.status, 201);
}

#[tokio::test]
async fn bodies_over_the_limit_are_413_declared_or_not() {
    let server = Server::new().await;
    let declared = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/sandbox")
        .header("x-api-key", &server.key)
        .header("content-length", (64 * 1024 * 1024 + 1).to_string())
        .body(Body::from_stream(stream::pending::<Result<Bytes, io::Error>>()))
        .unwrap();
    Answer::read(server.send(declared).await).await.refused(413, "too_large");
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let endless = Body::from_stream(stream::repeat_with(move || Ok::<_, io::Error>(piece.clone())));
    server.call(Method::POST, "/api/v1/sandbox", endless).await.refused(413, "too_large");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let server = Server::new().await;
    let stalled = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"{"))]).chain(stream::pending());
    server.call(Method::POST, "/api/v1/sandbox", Body::from_stream(stalled)).await.refused(408, "request_timeout");
}

#[tokio::test]
async fn a_repeated_create_is_done_once() {
    let server = Server::new().await;
    let send = async |key: &str, body: &str| {
        server.call_with(Method::POST, "/api/v1/sandbox", &[("idempotency-key", key)], body.to_owned()).await
    };
    let (first, again) = (send("k1", "{}").await, send("k1", "{}").await);
    assert_eq!((first.status, again.status, first.json()["id"].clone()), (201, 201, again.json()["id"].clone()));
    send("k1", r#"{"cpus":"2"}"#).await.refused(409, "idempotency_key_reused");
    assert_ne!(send("k2", "{}").await.json()["id"], first.json()["id"]);
    for bad in ["", "a b", &"x".repeat(256)] {
        send(bad, "{}").await.refuses_field("Idempotency-Key");
    }
    let other = server.other_organisation().await;
    let theirs = other.call_with(Method::POST, "/api/v1/sandbox", &[("idempotency-key", "k1")], "{}").await;
    assert_ne!(theirs.json()["id"], first.json()["id"]);
    assert_eq!(server.get("/api/v1/sandboxes").await.json()["sandboxes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn repeated_checkpoints_and_forks_are_done_once() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    for (path, body, field) in [("checkpoints", json!({"name": "c"}), "id"), ("fork", json!({}), "forked_id")] {
        let path = format!("/api/v1/sandbox/{id}/{path}");
        let mut ids = Vec::new();
        for _ in 0..3 {
            let made = server.call_with(Method::POST, &path, &[("Idempotency-Key", field)], body.to_string()).await;
            assert_eq!(made.status, 201);
            ids.push(made.json()[field].clone());
        }
        assert!(ids.iter().all(|one| *one == ids[0]), "{ids:?}");
    }
    let listed = async || server.get("/api/v1/checkpoints").await.json()["checkpoints"].as_array().unwrap().clone();
    assert_eq!(listed().await.len(), 2);
    let path = format!("/api/v1/checkpoints/{}/clone", listed().await[0]["id"].as_str().unwrap());
    let clone = || server.call_with(Method::POST, &path, &[("Idempotency-Key", "k")], r#"{"name": "copy"}"#);
    let (one, two, again) = (clone(), clone(), clone());
    let (one, two) = tokio::join!(one, two);
    let again = again.await;
    for answer in [&one, &two, &again] {
        assert_eq!((answer.status, &answer.json()["id"]), (201, &one.json()["id"]));
    }
    assert_eq!(listed().await.len(), 3);
    let other = server.call_with(Method::POST, &path, &[("Idempotency-Key", "k")], r#"{"name": "other"}"#).await;
    other.refused(409, "idempotency_key_reused");
}

#[tokio::test(start_paused = true)]
async fn a_slow_create_begins_its_answer_before_clients_give_up() {
    let server = Server::new().await;
    server.test.runtime.slow_down(Duration::from_secs(50));
    let begun = Instant::now();
    let request = Request::builder().method(Method::POST).uri("/api/v1/sandbox").header("x-api-key", &server.key);
    let response = server.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!((response.status().as_u16(), begun.elapsed().as_secs()), (201, 15));
    let answer = Answer::read(response).await;
    assert!(answer.body.starts_with(b"   {"));
    assert_eq!((answer.json()["status"].clone(), begun.elapsed().as_secs()), (json!("running"), 50));
    assert_eq!(server.test.runtime.running_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_late_says_so_in_the_body() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.test.runtime.slow_down(Duration::from_secs(30));
    server.test.runtime.fail_next([RuntimeError::NoSpace("layers".into())]);
    let answer = server.post(&format!("/api/v1/sandbox/{id}/checkpoints"), json!({"name": "c"})).await;
    assert_eq!(answer.status, 201);
    let body = answer.json();
    assert_eq!(
        (&body["success"], &body["error"]["code"], &body["error"]["status"]),
        (&json!(false), &json!("out_of_space"), &json!(507))
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_for_another_operation_ends_with_its_proper_status() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.test.runtime.slow_down(Duration::from_secs(100));
    let path = format!("/api/v1/sandbox/{id}/checkpoints");
    let (first, second) = tokio::join!(server.post(&path, json!({"name": "a"})), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.post(&path, json!({"name": "b"})).await
    });
    assert_eq!((first.status, first.json()["name"].clone()), (201, json!("a")));
    second.refused(409, "operation_in_progress");
}

/// Any JSON value, with field names that routes know among those they do not.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[/.*a-z0-9_\\-{\\[]{0,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((field(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<String, Value>>())),
        ]
    })
}

fn field() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "name",
        "command",
        "files",
        "path",
        "content",
        "mode",
        "env",
        "cpus",
        "memory",
        "count",
        "metadata",
        "template",
        "checkpoint_id",
        "timeout_seconds",
        "include_paths",
        "exclude_paths",
        "include_env",
        "kind",
        "wait",
        "source",
        "destination",
        "pattern",
        "recursive",
        "stream",
        "stdin",
        "user",
        "working_dir",
        "timeout",
        "checkpoint_id_1",
        "checkpoint_id_2",
        "additional_seconds",
        "email",
        "organization_name",
        "scopes",
        "isolation",
    ];
    prop_oneof![4 => proptest::sample::select(KNOWN).prop_map(str::to_owned), 1 => ".{0,8}".prop_map(String::from)]
}

#[test]
fn random_bodies_never_give_5xx_nor_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, id, cp) = runtime.block_on(async {
        let server = Server::with(Default::default(), |options| options.register_limit_per_minute = None).await;
        let id = server.sandbox().await;
        let cp = server.checkpoint(&id, "c").await;
        (server, id, cp)
    });
    let paths: Vec<(Method, String)> = [
        "sandbox",
        "sandbox/{id}/execute",
        "sandbox/{id}/files",
        "sandbox/{id}/files/glob",
        "sandbox/{id}/files/mkdir",
        "sandbox/{id}/files/move",
        "sandbox/{id}/files/copy",
        "sandbox/{id}/checkpoints",
        "sandbox/{id}/checkpoints/restore",
        "sandbox/{id}/extend",
        "sandbox/{id}/start",
        "sandbox/{id}/fork",
        "checkpoints/compare",
        "checkpoints/{cp}/clone",
        "register",
        "api-keys",
    ]
    .iter()
    .map(|path| (Method::POST, format!("/api/v1/{}", path.replace("{id}", &id).replace("{cp}", &cp))))
    .chain([(Method::DELETE, format!("/api/v1/sandbox/{id}/files"))])
    .collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    });
    let object = proptest::collection::vec((field(), any_json()), 0..6)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect()));
    let body = prop_oneof![6 => object.prop_map(|value| value.to_string().into_bytes()),
                           1 => any_json().prop_map(|value| value.to_string().into_bytes()),
                           1 => proptest::collection::vec(any::<u8>(), 0..64)];
    runner
        .run(&(proptest::sample::select(paths), body), |((method, path), body)| {
            let shown = String::from_utf8_lossy(&body).into_owned();
            let answer = runtime.block_on(server.call(method, &path, body));
            prop_assert!(answer.status < 500, "{} {}: {:?}", path, shown, answer);
            if answer.status >= 400 {
                prop_assert!(answer.json()["error"]["code"].is_string(), "{} {}: {:?}", path, shown, answer);
            }
            Ok(())
        })
        .unwrap();
}
