//! Health, readiness, metrics, the page, request ids, panics.

use crate::harness::{Answer, Server, bare};
use axum::http::Method;
use forkpoint_domain::sandbox::SandboxState;
use forkpoint_server::{Readiness, SandboxCounts};
use futures::FutureExt as _;
use serde_json::json;

#[tokio::test]
async fn readiness_opens_the_gate() {
    let server = Server::new().await;
    server.ready.send_replace(Readiness::not_yet("preparing_template", "unpacking packages, 120 of 310"));
    assert_eq!(server.get("/healthz").await.json(), json!({"status": "ok"}));
    let not_ready = server.get("/readyz").await;
    assert_eq!(not_ready.status, 503);
    let expected =
        json!({"status": "not_ready", "reason": "preparing_template", "progress": "unpacking packages, 120 of 310"});
    assert_eq!(not_ready.json(), expected);
    for (method, path) in
        [(Method::POST, "/api/v1/sandbox"), (Method::POST, "/api/v1/register"), (Method::GET, "/api/checkpoints")]
    {
        let answer = server.call(method, path, "{}").await;
        let message = answer.refused(503, "not_ready");
        assert!(message.contains("120 of 310"), "{message}");
        assert_eq!(answer.header("retry-after"), "2");
    }
    assert_eq!(server.test.runtime.layer_count(), 0);
    server.ready.send_replace(Readiness::Ready);
    assert_eq!(server.get("/readyz").await.json(), json!({"status": "ready"}));
    assert_eq!(server.post("/api/v1/sandbox", json!({})).await.status, 201);
}

#[tokio::test]
async fn a_database_that_does_not_answer_shows() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.test.records.set_unavailable(true);
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, answer.json()["reason"].clone()), (503, json!("database_unavailable")));
    server.get(&format!("/api/v1/sandbox/{id}")).await.refused(503, "unavailable");
    assert_eq!(server.get("/healthz").await.status, 200);
    server.test.records.set_unavailable(false);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_count_by_route_template() {
    let server = Server::with(Default::default(), |options| {
        options.sandbox_counts = Some(SandboxCounts::new(|| async { vec![(SandboxState::Running, 3)] }.boxed()));
    })
    .await;
    let id = server.sandbox().await;
    server.checkpoint(&id, "c").await;
    server.get(&format!("/api/v1/sandbox/{id}")).await;
    server.get("/api/sandbox/bad").await;
    server.get("/nowhere/secret").await;
    server.post(&format!("/api/v1/sandbox/{id}/execute"), json!({"command": "true"})).await;
    let answer = Answer::read(server.send(bare(Method::GET, "/metrics")).await).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in [
        "forkpoint_http_requests_total{route=\"/api/v1/sandbox/{id}\",method=\"GET\",status=\"2xx\"} 1",
        "forkpoint_http_requests_total{route=\"/api/sandbox/{id}\",method=\"GET\",status=\"4xx\"} 1",
        "forkpoint_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"4xx\"} 1",
        "forkpoint_execs_total{outcome=\"exited\"} 1",
        "forkpoint_sandboxes{state=\"running\"} 3",
        "forkpoint_sandboxes{state=\"stopped\"} 0",
        "forkpoint_checkpoint_pause_seconds_count 1",
        "forkpoint_http_request_duration_seconds_count{route=\"/api/v1/sandbox/create\",method=\"POST\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(text.contains("forkpoint_build_info{version=\""));
    assert!(!text.contains(&id) && !text.contains("secret"));
}

#[tokio::test]
async fn metrics_can_be_switched_off() {
    let server = Server::with(Default::default(), |options| options.metrics = false).await;
    server.get("/metrics").await.refused(404, "not_found");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Server::new().await;
    for path in ["/docs", "/docs/docs.js", "/docs/docs.css"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(!text.contains("://"), "{path} loads from elsewhere");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    }
}

#[tokio::test]
async fn request_ids_are_kept_when_plain_and_made_when_not() {
    let server = Server::new().await;
    let id_of =
        async |given: &str| server.call_with(Method::GET, "/api/v1/nothing", &[("x-request-id", given)], "").await;
    let answer = id_of("req-42").await;
    assert_eq!(answer.header("x-request-id"), "req-42");
    answer.refused(404, "not_found");
    for bad in ["", "has blank", "<script>", &"x".repeat(129)] {
        let made = id_of(bad).await;
        assert_ne!(made.header("x-request-id"), bad);
        assert_eq!(made.header("x-request-id").len(), 36);
    }
    assert_eq!(server.get("/healthz").await.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn a_panic_is_503_with_an_id_and_tells_nothing_more() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.test.runtime.script(|_| panic!("secret of the house"));
    let answer = server.post(&format!("/api/v1/sandbox/{id}/execute"), json!({"command": "x"})).await;
    let message = answer.refused(503, "internal");
    assert!(message.contains(answer.header("x-request-id")) && !message.contains("secret"), "{message}");
    assert_eq!(server.get("/healthz").await.status, 200);
}
