//! Real sockets: bounds on what a peer can hold, disconnects, shutting down without cutting requests short.

use crate::harness::Server;
use forkpoint_engine::ports::guest::{ExecEvent, ExecExit};
use forkpoint_server::{ConnectionOptions, serve};
use forkpoint_testkit::Step;
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);

struct Running {
    server: Server,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

async fn running(options: ConnectionOptions) -> Running {
    let server = Server::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, server.router.clone(), options, async move { drop(stopped.await) }));
    Running { server, address, stop, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn post(&self, path: &str, body: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.server.key,
            body.len()
        )
    }
}

/// Reads until `wanted` has come; gives what came.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let count = timeout(SOON, stream.read(&mut buffer)).await.expect("in time").unwrap();
        assert_ne!(count, 0, "closed before {wanted:?}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    timeout(SOON, stream.read_to_end(&mut seen)).await.expect("closed in time").unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn connections_are_kept_and_answer_again() {
    let running = running(ConnectionOptions::default()).await;
    let mut stream = running.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "{\"status\":\"ok\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn headers_that_do_not_come_end_the_connection() {
    let running = running(ConnectionOptions { header_timeout: Duration::from_millis(200), ..Default::default() }).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let running = running(ConnectionOptions { max_header_bytes: 8192, ..Default::default() }).await;
    let mut stream = running.connect().await;
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(20_000)).as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 431"));
    let mut stream = running.connect().await;
    let many: String = (0..200).map(|at| format!("h{at}: x\r\n")).collect();
    stream.write_all(format!("GET /healthz HTTP/1.1\r\n{many}\r\n").as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let running = running(ConnectionOptions { max_connections: 1, ..Default::default() }).await;
    let mut first = running.connect().await;
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut first, "ok").await;
    let mut second = running.connect().await;
    second.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), second.read(&mut byte)).await.is_err(), "answered beyond the limit");
    drop(first);
    read_until(&mut second, "ok").await;
}

#[tokio::test]
async fn output_is_flushed_as_it_comes_and_a_disconnect_ends_the_command() {
    for stream in [true, false] {
        let running = running(ConnectionOptions::default()).await;
        let id = running.server.sandbox().await;
        running.server.test.runtime.script(|_| Ok(vec![Step::Tell(ExecEvent::Stdout("first".into())), Step::Hang]));
        let mut killed = running.server.test.runtime.killed();
        let mut client = running.connect().await;
        let request = running
            .post(&format!("/api/v1/sandbox/{id}/execute"), &json!({"command": "x", "stream": stream}).to_string());
        client.write_all(request.as_bytes()).await.unwrap();
        if stream {
            read_until(&mut client, "data: {\"type\":\"stdout\",\"data\":\"first\"}\n\n").await;
        } else {
            let started = async {
                while running.server.test.runtime.commands().is_empty() {
                    tokio::task::yield_now().await
                }
            };
            timeout(SOON, started).await.expect("started");
        }
        assert_eq!(*killed.borrow(), 0);
        drop(client);
        timeout(SOON, killed.wait_for(|count| *count == 1)).await.expect("killed in time").unwrap();
    }
}

#[tokio::test]
async fn shutting_down_lets_requests_end_and_takes_no_new_ones() {
    let running = running(ConnectionOptions::default()).await;
    let id = running.server.sandbox().await;
    running.server.test.runtime.script(|_| {
        Ok(vec![
            Step::Tell(ExecEvent::Stdout("begun".into())),
            Step::Wait(Duration::from_millis(300)),
            Step::Tell(ExecEvent::Exit(ExecExit::default())),
        ])
    });
    let mut idle = running.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok").await;
    let mut busy = running.connect().await;
    let request = running.post(&format!("/api/v1/sandbox/{id}/execute"), r#"{"command":"x","stream":true}"#);
    busy.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut busy, "begun").await;

    running.stop.send(()).unwrap();
    assert!(read_to_end(&mut busy).await.contains("data: {\"type\":\"done\"}\n\n"));
    assert_eq!(read_to_end(&mut idle).await, "");
    timeout(SOON, running.task).await.expect("ended in time").unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn requests_that_do_not_end_are_cut_after_the_grace() {
    let running = running(ConnectionOptions { shutdown_grace: Duration::from_millis(200), ..Default::default() }).await;
    let id = running.server.sandbox().await;
    running.server.test.runtime.script(|_| Ok(vec![Step::Tell(ExecEvent::Stdout("begun".into())), Step::Hang]));
    let mut busy = running.connect().await;
    let request = running.post(&format!("/api/v1/sandbox/{id}/execute"), r#"{"command":"x","stream":true}"#);
    busy.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut busy, "begun").await;
    running.stop.send(()).unwrap();
    timeout(SOON, running.task).await.expect("ended in time").unwrap().unwrap();
}

#[tokio::test]
async fn who_is_refused_while_still_sending_sees_why_and_may_go_on() {
    let running = running(ConnectionOptions::default()).await;
    let mut stream = running.connect().await;
    let body = vec![b'x'; 8 << 20];
    let head = format!(
        "POST /api/v1/checkpoints/import HTTP/1.1\r\nhost: x\r\nx-api-key: sk-sandbox-no\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    timeout(SOON, stream.write_all(&body)).await.unwrap().unwrap();
    read_until(&mut stream, "401 Unauthorized").await;
    stream.write_all(running.post("/api/v1/sandbox", "{}").as_bytes()).await.unwrap();
    read_until(&mut stream, "201 Created").await;
    drop(running.stop);
    drop(stream);
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_nothing_gives_its_place_back() {
    let options =
        ConnectionOptions { max_connections: 1, write_timeout: Duration::from_millis(300), ..Default::default() };
    let running = running(options).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(running.address).await.unwrap();
    // More than all buffers on the way can hold.
    let requests = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(60);
    greedy.write_all(&requests).await.unwrap();
    let mut next = running.connect().await;
    next.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut next, "ok").await;
    drop(greedy);
}

#[tokio::test]
async fn a_peer_that_takes_its_time_gets_all_of_it() {
    let options = ConnectionOptions { write_timeout: Duration::from_millis(500), ..Default::default() };
    let running = running(options).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(running.address).await.unwrap();
    slow.write_all(&b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(30)).await.unwrap();
    let (mut buffer, mut seen) = (vec![0; 256 << 10], 0);
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        seen += timeout(SOON, slow.read(&mut buffer)).await.expect("in time").unwrap();
    }
    assert!(seen > 0);
    assert_ne!(timeout(SOON, slow.read(&mut buffer)).await.expect("in time").unwrap(), 0, "cut after {seen} bytes");
}
