//! Builds of recipes and watches over HTTP, with scripted sandboxes: what is streamed and what is refused.

use crate::harness::Server;
use axum::http::Method;
use forkpoint_engine::ports::guest::{ExecEvent, ExecExit};
use forkpoint_testkit::Step;
use serde_json::{Value, json};

const RECIPE: &str = "name = \"made\"\n[base]\ntemplate = \"default\"\n[[step]]\nrun = \"make\"\n";

fn events(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|one| serde_json::from_str(one).unwrap()).collect()
}

#[tokio::test]
async fn a_build_tells_its_steps_their_output_and_the_template() {
    let server = Server::new().await;
    let told = |bytes: &'static [u8]| Step::Tell(ExecEvent::Stdout(bytes.into()));
    // A character that comes in two pieces stays whole.
    let script = vec![told(b"caf\xc3"), told(b"\xa9\n"), Step::Tell(ExecEvent::Exit(ExecExit::default()))];
    server.test.runtime.script(move |_| Ok(script.clone()));
    let body = json!({ "recipe": RECIPE, "stream": true });
    let answer = server.post("/api/v1/templates", body.clone()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
    let told = events(&answer.body);
    let kinds: Vec<_> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["build", "step", "stdout", "stdout", "step_done", "publishing", "template", "done"]);
    assert_eq!(told[1], json!({ "type": "step", "step": 1, "line": 4, "title": "run make", "cached": false }));
    assert_eq!((&told[2]["data"], &told[3]["data"]), (&json!("caf"), &json!("é\n")));
    assert_eq!((&told[6]["template"]["id"], &told[6]["cached_steps"]), (&json!("made"), &json!(0)));

    let again = server.post("/api/v1/templates", json!({ "recipe": RECIPE })).await;
    assert_eq!(again.status, 201);
    let again = again.json();
    assert_eq!((&again["unchanged"], &again["cached_steps"]), (&json!(true), &json!(1)));
    assert_eq!(again["template"], told[6]["template"]);
    // What its steps left is nobody's checkpoint, and no sandbox is left.
    assert_eq!(server.get("/api/v1/checkpoints").await.json()["checkpoints"], json!([]));
    assert_eq!(server.get("/api/v1/sandboxes").await.json()["sandboxes"], json!([]));
}

#[tokio::test]
async fn a_watch_tells_every_kind_of_event() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/f", "1").await;
    let path = format!("/api/v1/sandbox/{id}/files/watch?path=/workspace/f&recursive=true");
    let answer = server.call(Method::GET, &path, axum::body::Body::empty()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
    let changed = |kind: &str| json!({ "type": "changed", "kind": kind, "path": "/workspace/f" });
    let expected = [
        json!({ "type": "watching", "path": "/workspace/f", "recursive": true, "polled": true }),
        changed("created"),
        changed("modified"),
        changed("attributes"),
        changed("removed"),
        json!({ "type": "overflow" }),
        json!({ "type": "gone" }),
        json!({ "type": "done" }),
    ];
    assert_eq!(events(&answer.body), expected);
}
