//! A server without a socket, and its answers taken apart.

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use forkpoint_engine::Settings;
use forkpoint_server::{Readiness, ServerOptions, router};
use forkpoint_testkit::TestPlatform;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

/// A server with one registered organisation.
pub(crate) struct Server {
    pub(crate) test: TestPlatform,
    pub(crate) router: Router,
    pub(crate) key: String,
    pub(crate) ready: watch::Sender<Readiness>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), |_| {}).await
    }

    pub(crate) async fn with(settings: Settings, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let test = TestPlatform::with(settings);
        let (ready, readiness) = watch::channel(Readiness::Ready);
        let mut options = ServerOptions::new(readiness);
        change(&mut options);
        let router = router(test.platform.clone(), options);
        let (key, _) = test.register("Acme Corp").await;
        Self { test, router, key, ready }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.expect("a router does not fail")
    }

    /// Sends a request with the organisation's key; reads the whole answer.
    pub(crate) async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.call_with(method, path, &[], body).await
    }

    /// The same with more headers.
    pub(crate) async fn call_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("ApiKey {}", self.key));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(self.send(request.body(body.into()).unwrap()).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Body::empty()).await
    }

    /// Makes a sandbox; gives its id.
    pub(crate) async fn sandbox(&self) -> String {
        let made = self.post("/api/v1/sandbox/create", json!({})).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.text_at("/id")
    }

    /// Makes a checkpoint of a sandbox; gives its id.
    pub(crate) async fn checkpoint(&self, sandbox: &str, name: &str) -> String {
        let made = self.post(&format!("/api/v1/sandbox/{sandbox}/checkpoints"), json!({ "name": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.text_at("/id")
    }

    /// Writes a text file in a sandbox.
    pub(crate) async fn write(&self, sandbox: &str, path: &str, content: &str) {
        let file = json!({ "files": [{ "path": path, "content": content, "encoding": "utf-8" }] });
        let written = self.post(&format!("/api/v1/sandbox/{sandbox}/files"), file).await;
        assert_eq!(written.status, 200, "{written:?}");
    }

    /// Reads a text file of a sandbox; `None` if there is none.
    pub(crate) async fn read(&self, sandbox: &str, path: &str) -> Option<String> {
        let answer = self.get(&format!("/api/v1/sandbox/{sandbox}/files/raw?path={path}")).await;
        match answer.status {
            404 => None,
            200 => Some(String::from_utf8(answer.body.to_vec()).unwrap()),
            _ => panic!("{answer:?}"),
        }
    }

    /// The same server for another organisation.
    pub(crate) async fn other_organisation(&self) -> Self {
        let (key, _) = self.test.register("Globex").await;
        Self { test: self.test.clone(), router: self.router.clone(), key, ready: self.ready.clone() }
    }
}

impl Answer {
    pub(crate) async fn read(response: axum::response::Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the body is whole").to_bytes();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {self:?}")).to_str().unwrap()
    }

    pub(crate) fn text_at(&self, pointer: &str) -> String {
        let json = self.json();
        json.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no text at {pointer}: {json}"))
            .to_owned()
    }

    /// Asserts that this is a refusal in the envelope, with this status and code; gives its message.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        let json = self.json();
        assert_eq!((self.status, json["error"]["code"].as_str()), (status, Some(code)), "{json}");
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(json["error"]["request_id"].as_str(), Some(self.header("x-request-id")));
        let message = json["error"]["message"].as_str().expect("a message");
        assert!(!message.is_empty());
        message.to_owned()
    }

    /// Asserts that this is a 400 which names `field`; gives its message.
    #[track_caller]
    pub(crate) fn refuses_field(&self, field: &str) -> String {
        let message = self.refused(400, "invalid_request");
        assert_eq!(self.json()["error"]["details"]["field"].as_str(), Some(field), "{message}");
        message
    }
}

/// Asserts that a value is a time with exactly milliseconds.
#[track_caller]
pub(crate) fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    assert!(
        text.len() == "2026-01-21T12:00:00.000Z".len() && text.ends_with('Z') && text.as_bytes()[19] == b'.',
        "{text}"
    );
}

/// A well-formed id of nothing.
pub(crate) fn unknown(prefix: &str) -> String {
    format!("{prefix}01890a5d-ac96-774b-bcce-b302099a8057")
}

pub(crate) fn bare(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

pub(crate) const OK: StatusCode = StatusCode::OK;
