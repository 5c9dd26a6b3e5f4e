//! Commands: JSON answers, drips while they run, event streams, and that each is run once.

use crate::harness::{Answer, OK, Server};
use axum::{
    body::Body,
    http::{Method, Request},
};
use bytes::Bytes;
use forkpoint_engine::ports::guest::{Command, ExecEvent, ExecExit, GuestError};
use forkpoint_testkit::Step;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

fn out(text: &'static [u8]) -> Step {
    Step::Tell(ExecEvent::Stdout(Bytes::from_static(text)))
}

fn err(text: &'static [u8]) -> Step {
    Step::Tell(ExecEvent::Stderr(Bytes::from_static(text)))
}

fn exit(code: i32) -> Step {
    Step::Tell(ExecEvent::Exit(ExecExit { code, ..ExecExit::default() }))
}

async fn scripted(steps: impl Fn() -> Vec<Step> + Send + Sync + 'static) -> (Server, String) {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.test.runtime.script(move |_| Ok(steps()));
    (server, format!("/api/v1/sandbox/{id}/execute"))
}

/// A response whose body has not been read.
async fn begin(server: &Server, path: &str, body: Value) -> axum::response::Response {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("x-api-key", &server.key)
        .body(Body::from(body.to_string()))
        .unwrap();
    server.send(request).await
}

/// The next piece of a body as text; `None` at its end.
async fn piece(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.expect("the body does not break");
    Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text"))
}

#[tokio::test]
async fn the_answer_has_code_and_outputs_unmodified() {
    let (server, path) = scripted(|| vec![out(b"Hello\n"), err(b"warn"), out(b"more\n"), exit(3)]).await;
    let answer = server.post(&path, json!({"command": "x"})).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let expected = json!({"exit_code": 3, "stdout": "Hello\nmore\n", "stderr": "warn",
                          "output_truncated": false, "timed_out": false, "interrupted": false});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn every_field_reaches_the_sandbox() {
    let (server, path) = scripted(|| vec![exit(0)]).await;
    let body = json!({"command": ["node", "-e", "a b 'c'"], "env": {"K": "v"}, "cwd": "/tmp/", "user": "root",
                      "timeout": 1500, "stdin": "in\n", "stream": false});
    assert_eq!(server.post(&path, body).await.status, 200);
    assert_eq!(server.post(&path, json!({"command": "a && b", "workingDir": "/w", "timeout_ms": 7})).await.status, 200);
    let commands = server.test.runtime.commands();
    assert!(commands[0].command == Command::Argv(vec!["node".into(), "-e".into(), "a b 'c'".into()]));
    assert_eq!(commands[0].env["K"], "v");
    assert_eq!(commands[0].working_dir.as_ref().unwrap().as_str(), "/tmp");
    assert_eq!((commands[0].user.as_deref(), commands[0].timeout_ms), (Some("root"), Some(1500)));
    assert_eq!(commands[0].stdin.as_deref(), Some(&b"in\n"[..]));
    assert_eq!(commands[0].output_limit, 8 * 1024 * 1024);
    assert!(commands[1].command == Command::Shell("a && b".into()));
    assert_eq!((commands[1].working_dir.as_ref().unwrap().as_str(), commands[1].timeout_ms), ("/w", Some(7)));
    assert_eq!(commands[1].stdin, None);
}

#[tokio::test]
async fn commands_that_cannot_be_are_refused_naming_the_field() {
    let (server, path) = scripted(|| vec![exit(0)]).await;
    for (body, field) in [
        (json!({}), "command"),
        (json!({"command": ""}), "command"),
        (json!({"command": []}), "command"),
        (json!({"command": [""]}), "command"),
        (json!({"command": 5}), "command"),
        (json!({"command": ["a", 5]}), "command[1]"),
        (json!({"command": "a\u{0}b"}), "command"),
        (json!({"command": "x", "env": {"A": 5}}), "env.A"),
        (json!({"command": "x", "env": {"A=": "b"}}), "env"),
        (json!({"command": "x", "working_dir": "relative"}), "working_dir"),
        (json!({"command": "x", "cwd": "/a/../b"}), "working_dir"),
        (json!({"command": "x", "timeout": -1}), "timeout"),
        (json!({"command": "x", "timeout": 0}), "timeout"),
        (json!({"command": "x", "timeout": "5"}), "timeout"),
        (json!({"command": "x", "stream": "yes"}), "stream"),
        (json!({"command": "x", "user": ""}), "user"),
        (json!({"command": "x", "stdin": ["a"]}), "stdin"),
        (json!({"command": "x", "shell": "zsh"}), "shell"),
    ] {
        let answer = server.post(&path, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        answer.refuses_field(field);
    }
    assert!(server.test.runtime.commands().is_empty());
}

#[tokio::test]
async fn a_missing_program_is_the_commands_failure_and_a_missing_directory_the_requests() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let path = format!("/api/v1/sandbox/{id}/execute");
    server
        .test
        .runtime
        .script(|_| Err(GuestError::NoSuchCommand { message: "nope: command not found".into(), code: 127 }));
    let answer = server.post(&path, json!({"command": ["nope"]})).await;
    assert_eq!((answer.status, answer.json()["exit_code"].clone()), (200, json!(127)));
    assert_eq!(answer.json()["stderr"], "nope: command not found\n");

    server.test.runtime.script(|_| Err(GuestError::NotFound("working directory /x: No such file or directory".into())));
    server.post(&path, json!({"command": "x", "working_dir": "/x"})).await.refuses_field("working_dir");
    server.test.runtime.script(|_| Err(GuestError::NoSuchUser("no user `x`".into())));
    server.post(&path, json!({"command": "x", "user": "x"})).await.refuses_field("user");
    server.test.runtime.script(|_| Err(GuestError::Exhausted("no process could be started".into())));
    server.post(&path, json!({"command": "x"})).await.refused(409, "sandbox_exhausted");
    server.test.runtime.script(|_| Err(GuestError::Unreached("file descriptors")));
    server.post(&path, json!({"command": "x"})).await.refused(503, "unavailable");
    server.test.runtime.script(|_| Err(GuestError::Lost("no answer".into())));
    server.post(&path, json!({"command": "x", "stream": true})).await.refused(409, "sandbox_unreachable");
}

#[tokio::test]
async fn time_outs_truncation_and_odd_bytes_are_told() {
    let timed_out = ExecExit { code: 124, timed_out: true, output_truncated: true };
    let (server, path) =
        scripted(move || vec![out(b"\xffa\xe2\x82"), out(b"\xac"), Step::Tell(ExecEvent::Exit(timed_out))]).await;
    let result = server.post(&path, json!({"command": "x"})).await.json();
    assert_eq!(
        (&result["exit_code"], &result["timed_out"], &result["output_truncated"]),
        (&json!(124), &json!(true), &json!(true))
    );
    assert_eq!(result["stdout"], "\u{fffd}a€");
}

#[tokio::test]
async fn a_sandbox_that_sends_without_end_is_cut_at_the_limit() {
    let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
    let (server, path) = scripted(move || {
        let mut steps = vec![Step::Tell(ExecEvent::Stdout(megabyte.clone())); 20];
        steps.push(exit(0));
        steps
    })
    .await;
    let result = server.post(&path, json!({"command": "x"})).await.json();
    assert_eq!((result["stdout"].as_str().unwrap().len(), &result["output_truncated"]), (8 << 20, &json!(true)));
    let body = Answer::read(begin(&server, &path, json!({"command": "x", "stream": true})).await).await.body;
    assert!(body.len() < 9 << 20, "{}", body.len());
}

#[tokio::test]
async fn a_lost_command_is_interrupted_not_failed() {
    let (server, path) =
        scripted(|| vec![out(b"part"), err(b"e"), Step::Tell(ExecEvent::Lost("the sandbox was restored".into()))])
            .await;
    let answer = server.post(&path, json!({"command": "x"})).await;
    assert_eq!(answer.status, 200);
    let result = answer.json();
    assert_eq!(
        (&result["interrupted"], &result["exit_code"], &result["stdout"]),
        (&json!(true), &json!(-1), &json!("part"))
    );
    assert_eq!(result["stderr"], "e\nforkpoint: the sandbox was restored\n");

    let (server, path) = scripted(|| vec![out(b"part")]).await;
    assert_eq!(server.post(&path, json!({"command": "x"})).await.json()["interrupted"], true);
}

#[tokio::test(start_paused = true)]
async fn a_long_command_is_answered_by_blanks_until_its_result() {
    let (server, path) = scripted(|| vec![Step::Wait(Duration::from_secs(47)), out(b"late"), exit(5)]).await;
    let begun = Instant::now();
    let response = begin(&server, &path, json!({"command": "x"})).await;
    assert_eq!((response.status(), begun.elapsed().as_secs()), (OK, 10));
    let mut body = response.into_body();
    let mut pieces = Vec::new();
    while let Some(piece) = piece(&mut body).await {
        pieces.push((begun.elapsed().as_secs(), piece));
    }
    let (last_at, last) = pieces.pop().unwrap();
    assert_eq!(pieces, [(20, " ".to_owned()), (30, " ".to_owned()), (40, " ".to_owned())]);
    assert_eq!(last_at, 47);
    let result: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&result["exit_code"], &result["stdout"]), (&json!(5), &json!("late")));
    assert_eq!(server.test.runtime.commands().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_command_lost_late_is_told_in_the_body_that_has_begun() {
    let (server, path) =
        scripted(|| vec![Step::Wait(Duration::from_secs(60)), Step::Tell(ExecEvent::Lost("gone".into()))]).await;
    let answer = Answer::read(begin(&server, &path, json!({"command": "x"})).await).await;
    assert_eq!(answer.status, 200);
    let result = answer.json();
    assert_eq!((&result["interrupted"], &result["exit_code"]), (&json!(true), &json!(-1)));
    assert!(result["stderr"].as_str().unwrap().contains("gone"));
}

#[tokio::test]
async fn a_stream_has_exactly_the_lines_that_clients_parse() {
    let (server, path) =
        scripted(|| vec![out(b"one\ntwo"), err(b"\xe2\x82"), out(b""), err(b"\xac"), out(b"\xf0\x9f"), exit(0)]).await;
    let response = begin(&server, &path, json!({"command": "x", "stream": true})).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    let answer = Answer::read(response).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(
        text,
        "data: {\"type\":\"stdout\",\"data\":\"one\\ntwo\"}\n\n\
         data: {\"type\":\"stderr\",\"data\":\"€\"}\n\n\
         data: {\"type\":\"stdout\",\"data\":\"\u{fffd}\"}\n\n\
         data: {\"type\":\"exit\",\"code\":0,\"timed_out\":false,\"output_truncated\":false}\n\n\
         data: {\"type\":\"done\"}\n\n"
    );
}

#[tokio::test]
async fn a_lost_stream_ends_with_error_and_done() {
    let (server, path) = scripted(|| vec![out(b"a"), Step::Tell(ExecEvent::Lost("restored".into()))]).await;
    let answer = server.post(&path, json!({"command": "x", "stream": true})).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(
        text.ends_with("data: {\"type\":\"error\",\"error\":\"restored\"}\n\ndata: {\"type\":\"done\"}\n\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_and_output_comes_at_once() {
    let (server, path) = scripted(|| vec![out(b"a"), Step::Wait(Duration::from_secs(25)), out(b"b"), exit(0)]).await;
    let begun = Instant::now();
    let mut body = begin(&server, &path, json!({"command": "x", "stream": true})).await.into_body();
    let mut seen = Vec::new();
    while let Some(piece) = piece(&mut body).await {
        seen.push((begun.elapsed().as_secs(), piece.trim_end().to_owned()));
    }
    assert_eq!(seen[0], (0, "data: {\"type\":\"stdout\",\"data\":\"a\"}".to_owned()));
    assert_eq!(seen[1], (10, ": keep-alive".to_owned()));
    assert_eq!(seen[2], (20, ": keep-alive".to_owned()));
    assert_eq!(seen[3], (25, "data: {\"type\":\"stdout\",\"data\":\"b\"}".to_owned()));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_command() {
    for stream in [true, false] {
        let (server, path) = scripted(|| vec![out(b"a"), Step::Hang]).await;
        let mut killed = server.test.runtime.killed();
        let (router, key) = (server.router.clone(), server.key.clone());
        let request = async move {
            let server = Server { router, key, test: server.test, ready: server.ready };
            let mut body = begin(&server, &path, json!({"command": "x", "stream": stream})).await.into_body();
            while piece(&mut body).await.is_some() {}
        };
        let client = tokio::spawn(request);
        tokio::task::yield_now().await;
        client.abort();
        tokio::time::timeout(Duration::from_secs(5), killed.wait_for(|count| *count == 1))
            .await
            .expect("killed")
            .unwrap();
    }
}
