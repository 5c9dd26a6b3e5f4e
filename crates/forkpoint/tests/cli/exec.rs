//! `sandbox exec`: output as it comes, exit codes, interruption.

use crate::stub::{SANDBOX, Stub, json, signal};
use axum::{
    body::{Body, Bytes},
    http::Response,
};
use futures::{StreamExt as _, stream};
use rustix::process::Signal;
use serde_json::json;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::{
    io::AsyncReadExt as _,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

fn events(chunks: impl futures::Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let body = Body::from_stream(chunks.map(Ok::<_, Infallible>));
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

#[tokio::test]
async fn output_passes_through_and_the_code_is_the_commands_own() {
    let stub = Stub::start(|_| {
        let text = "data: {\"type\":\"stdout\",\"data\":\"h\u{e9}llo\\n\"}\n\n: still there\n\n\
            event: x\ndata: {\"type\":\"stderr\",\"data\":\"oops\"}\n\ndata: {\"type\":\"new\"}\n\n\
            data: {\"type\":\"exit\",\"code\":7}\n\ndata: {\"type\":\"done\"}\n\n";
        events(stream::iter(text.as_bytes().chunks(1).map(Bytes::from_static).collect::<Vec<_>>()))
    })
    .await;
    let ran = stub
        .run(&[
            "sandbox",
            "exec",
            "-e",
            "A=b=c",
            "--cwd",
            "/w",
            "--user",
            "root",
            "--timeout",
            "500ms",
            SANDBOX,
            "--",
            "ls",
            "-l",
            "--json",
        ])
        .await;
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "h\u{e9}llo\n", "oops"));
    let request = &stub.seen()[0];
    assert_eq!(request.line, format!("POST /api/v1/sandbox/{SANDBOX}/execute"));
    assert_eq!(
        request.json(),
        json!({"command": ["ls", "-l", "--json"], "env": {"A": "b=c"}, "working_dir": "/w", "user": "root", "timeout": 500, "stream": true})
    );
}

#[tokio::test]
async fn one_argument_is_a_line_for_the_shell() {
    let stub = Stub::start(|_| json(200, &json!({"exit_code": 300, "stdout": "a", "stderr": "b"}))).await;
    let ran = stub.run(&["sandbox", "exec", "--no-stream", SANDBOX, "--", "echo $HOME && ls"]).await;
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (255, "a", "b"));
    assert_eq!(stub.seen()[0].json(), json!({"command": "echo $HOME && ls", "stream": false}));
    let ran = stub.run_with(&["sandbox", "exec", "-i", "--json", SANDBOX, "cat"], b"in\nput").await;
    assert_eq!(ran.code, 255);
    assert!(ran.stdout.contains("\"exit_code\": 300"), "{ran:?}");
    assert_eq!(stub.seen()[1].json()["stdin"], "in\nput");
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error() {
    for (text, message) in [
        ("data: {\"type\":\"stdout\",\"data\":\"x\"}\n\n", "error: the connection ended before the command did\n"),
        (
            "data: {\"type\":\"error\",\"error\":\"restored\"}\n\n",
            "error: the command did not end by itself: restored\n",
        ),
    ] {
        let stub = Stub::start(move |_| events(stream::iter([Bytes::from_static(text.as_bytes())]))).await;
        let ran = stub.run(&["sandbox", "exec", SANDBOX, "x"]).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (1, message));
    }
}

#[tokio::test]
async fn output_arrives_while_the_command_runs_and_an_interrupt_ends_it() {
    struct Gone(Option<oneshot::Sender<()>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.take().map(|sender| sender.send(()));
        }
    }
    let (send, receive) = mpsc::unbounded_channel::<Bytes>();
    let (gone, is_gone) = oneshot::channel();
    let once = Arc::new(Mutex::new(Some((receive, Gone(Some(gone))))));
    let stub = Stub::start(move |_| {
        let (receive, gone) = once.lock().unwrap().take().unwrap();
        events(UnboundedReceiverStream::new(receive).inspect(move |_| {
            let _ = &gone;
        }))
    })
    .await;
    let mut child = stub.command(&["sandbox", "exec", SANDBOX, "--", "sleep", "1000"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    for letter in ["a", "b"] {
        send.send(format!("data: {{\"type\":\"stdout\",\"data\":\"{letter}\"}}\n\n").into()).unwrap();
        // The stream is still open: this byte can only have come at once.
        assert_eq!(stdout.read_u8().await.unwrap(), letter.as_bytes()[0]);
    }
    signal(&child, Signal::INT);
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    // The server sees the connection close, by which it ends the command.
    is_gone.await.unwrap();
}
