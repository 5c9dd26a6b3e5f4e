//! Terminals: what is asked for and answered, and what their WebSockets hold of the server.

use crate::harness::{Server, assert_time, unknown};
use forkpoint_server::{ConnectionOptions, serve};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::{future::Future, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

const SOON: Duration = Duration::from_secs(10);

struct Running {
    server: Server,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    sandbox: String,
    terminal: String,
}

/// A server on a socket with one terminal.
async fn running(options: ConnectionOptions) -> Running {
    let server = Server::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, server.router.clone(), options, async move { drop(stopped.await) }));
    let sandbox = server.sandbox().await;
    let terminal = server.post(&format!("/api/v1/sandbox/{sandbox}/terminals"), json!({})).await.text_at("/id");
    Running { server, address, stop, task, sandbox, terminal }
}

impl Running {
    /// A WebSocket, once the server takes it; and its first message.
    async fn attach(&self) -> (WebSocketStream<TcpStream>, Value) {
        let (sandbox, terminal, key) = (&self.sandbox, &self.terminal, &self.server.key);
        let path = format!("/api/sandbox/{sandbox}/terminals/{terminal}/ws?token={key}");
        let request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut socket, _) = client_async(request, stream).await.unwrap();
        let first = next(&mut socket).await;
        (socket, serde_json::from_str(first.to_text().unwrap()).unwrap())
    }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    in_time(socket.next()).await.expect("a message").unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

#[tokio::test]
async fn a_terminal_is_described_as_it_was_asked_for() {
    let server = Server::new().await;
    let sandbox = server.sandbox().await;
    let path = format!("/api/v1/sandbox/{sandbox}/terminals");
    let made = server.post(&path, json!({"command": ["top", "-b"], "cols": 120, "rows": 40})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut expected = made.json();
    assert_time(&expected["created_at"]);
    let id = made.text_at("/id");
    assert!(id.starts_with("term-"));
    assert_eq!((&expected["tty"], &expected["cols"], &expected["rows"]), (&json!(true), &json!(120), &json!(40)));
    assert_eq!((&expected["command"], &expected["sandbox_id"]), (&json!("top -b"), &json!(sandbox)));
    assert_eq!((&expected["running"], &expected["exit_code"]), (&json!(true), &Value::Null));
    let background = server.post(&path, json!({"command": "make", "tty": false})).await.json();
    assert_eq!((&background["tty"], &background["cols"]), (&json!(false), &Value::Null));
    assert_eq!(server.get(&path).await.json(), json!({"terminals": [expected, background]}));
    assert_eq!(
        server.post(&format!("{path}/{id}/signal"), json!({"signal": 2})).await.json(),
        json!({"success": true})
    );
    let ended = server.get(&format!("{path}/{id}/wait")).await;
    assert_eq!(ended.json(), json!({"exit_code": 130, "timed_out": false}));
    (expected["running"], expected["exit_code"]) = (json!(false), json!(130));
    assert_eq!(server.get(&format!("{path}/{id}")).await.json(), expected);
    let closed = server.delete(&format!("{path}/{id}")).await;
    assert_eq!(closed.json(), json!({"success": true, "terminal_id": id}));
    server.get(&format!("{path}/{}", unknown("term-"))).await.refused(404, "not_found");
    server.get(&format!("{path}/sb-x")).await.refuses_field("terminal_id");
}

#[tokio::test]
async fn a_reader_may_look_but_not_attach() {
    let server = Server::new().await;
    let sandbox = server.sandbox().await;
    let path = format!("/api/v1/sandbox/{sandbox}/terminals");
    let id = server.post(&path, json!({})).await.text_at("/id");
    let made = server.post("/api/v1/api-keys", json!({"name": "reader", "scopes": ["read"]})).await;
    let reader = Server {
        key: made.text_at("/key"),
        router: server.router.clone(),
        test: server.test.clone(),
        ready: server.ready.clone(),
    };
    assert_eq!(reader.get(&path).await.status, 200);
    reader.post(&path, json!({})).await.refused(403, "forbidden");
    reader.post(&format!("{path}/{id}/signal"), json!({"signal": 9})).await.refused(403, "forbidden");
    reader.delete(&format!("{path}/{id}")).await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_websocket_keeps_its_place_among_the_connections() {
    let running = running(ConnectionOptions { max_connections: 1, ..Default::default() }).await;
    let (mut socket, first) = running.attach().await;
    assert_eq!((&first["type"], &first["offset"]), (&json!("attached"), &json!(0)));
    socket.send(Message::binary("typed")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::binary("typed"));
    let second = running.attach();
    tokio::pin!(second);
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err(), "served beyond the limit");
    drop(socket);
    let (mut socket, _) = in_time(second).await;
    assert_eq!(next(&mut socket).await, Message::binary("typed"));
}

#[tokio::test]
async fn a_server_that_ends_tells_its_websockets_to_come_again() {
    let running = running(ConnectionOptions::default()).await;
    let (mut socket, _) = running.attach().await;
    running.stop.send(()).unwrap();
    let told: Value = serde_json::from_str(next(&mut socket).await.to_text().unwrap()).unwrap();
    assert_eq!(told["type"], "closed");
    let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 1012);
    drop(socket);
    in_time(running.task).await.unwrap().unwrap();
}
