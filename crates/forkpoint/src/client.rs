//! Speaks to a server over the native dialect, `/api/v1`.

mod archives;
mod connection;
mod error;
mod events;
mod exec;
mod files;
mod key;
mod sse;
mod terminal;

pub(crate) use connection::{Connection, Target, parse_url};
pub(crate) use error::{ApiError, ClientError};
pub(crate) use exec::ExecEvent;
pub(crate) use files::{Entry, EntryKind, Listing, MAX_ENTRIES};
pub(crate) use key::ApiKey;
pub(crate) use terminal::TerminalSocket;

use error::causes;
use reqwest::{
    Body, Method, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde_json::Value;
use std::time::Duration;

/// The largest JSON answer that is read: two full outputs of 8 MiB, where JSON can make each byte six.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// The largest error answer that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A connection pool to one server, with the key for it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<ApiKey>,
}

impl Client {
    /// Prepares to speak to a server; connects nothing yet.
    pub(crate) fn new(target: Target) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &target.key {
            // A bad value is not quoted by this error: it is the key.
            let mut value = HeaderValue::from_str(&format!("ApiKey {}", key.expose()))
                .map_err(|_| ClientError::Settings("the API key holds characters that no key has".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("forkpoint/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // No time limit on answers: commands may be silent for hours. A vanished peer shows by keep-alive.
            .tcp_keepalive(Duration::from_secs(20))
            .tcp_nodelay(true)
            // The API never redirects; following one could carry the key elsewhere.
            .redirect(redirect::Policy::none());
        if is_loopback(&target.url) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::Settings(format!("set up the HTTP client: {}", causes(&error))))?;
        Ok(Self { http, base: target.url, key: target.key })
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// The same client with another key.
    pub(crate) fn with_key(&self, key: ApiKey) -> Result<Self, ClientError> {
        Self::new(Target { url: self.base.clone(), key: Some(key) })
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        is_loopback(&self.base)
    }

    /// Refuses early when there is no key, saying how to get one.
    pub(crate) fn require_key(&self) -> Result<(), ClientError> {
        if self.key.is_some() {
            return Ok(());
        }
        Err(ClientError::Settings(
            "no API key: give --key, set FORKPOINT_KEY, or choose a profile (`forkpoint register` gets a first key)"
                .to_owned(),
        ))
    }

    /// `GET`, with a query.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    /// `POST` with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// `PATCH` with a JSON body.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(self.request(Method::PATCH, path).json(body)).await
    }

    /// `DELETE`, with a JSON body where the route wants one.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// `POST` that makes something: carries a key by which the server knows a repetition, so it is tried
    /// once more when the connection breaks before the answer.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let idempotency_key = uuid::Uuid::new_v4().to_string();
        let request = || self.request(Method::POST, path).header(IDEMPOTENCY_KEY, &idempotency_key).json(body);
        match self.send(request()).await {
            Ok(response) => match self.read_json(response).await {
                Err(ClientError::Unreachable { .. }) => self.json(request()).await,
                answer => answer,
            },
            Err(Failed::Broken(_)) => self.json(request()).await,
            Err(failed) => Err(failed.into()),
        }
    }

    /// A page outside the versioned API, as text.
    pub(crate) async fn page(&self, path: &str) -> Result<String, ClientError> {
        let response = self.send(self.http.get(self.address(path))).await?;
        let body = self.read_body(response, MAX_ANSWER_BYTES).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.address(&format!("/api/v1{path}")))
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        self.read_json(response).await
    }

    async fn stream_body(&self, request: RequestBuilder, body: Body) -> Result<Value, ClientError> {
        self.json(request.body(body)).await
    }

    /// Sends and turns every answer but 2xx into an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failed> {
        let response = request.send().await.map_err(|error| {
            let broken = error.is_request() && !error.is_connect() && !error.is_timeout();
            let error = self.unreachable(&error);
            if broken { Failed::Broken(error) } else { Failed::Final(error) }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header_id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        // The status is the news; a body that cannot be read adds nothing.
        let body = self.read_body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let mut error = ApiError::parse(status.as_u16(), header_id.as_deref(), &body);
        if let Some(key) = &self.key {
            error.message = key.redact(error.message);
        }
        Err(Failed::Final(error.into()))
    }

    async fn read_json(&self, response: Response) -> Result<Value, ClientError> {
        let request = response.url().path().to_owned();
        let body = self.read_body(response, MAX_ANSWER_BYTES).await?;
        if body.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        serde_json::from_slice(&body)
            .map_err(|error| ClientError::Unexpected { request, reason: format!("not JSON: {error}") })
    }

    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > limit {
                let reason = format!("has more than {limit} bytes");
                return Err(ClientError::Unexpected { request: response.url().path().to_owned(), reason });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What a connection that broke in the middle of an answer means.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> ClientError {
        self.unreachable(error)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), causes);
        ClientError::Unreachable { url: self.base.as_str().trim_end_matches('/').to_owned(), reason }
    }
}

/// A request that failed, and whether repeating it can help.
enum Failed {
    /// The connection broke after it stood: the server may or may not have acted.
    Broken(ClientError),
    /// Repeating changes nothing.
    Final(ClientError),
}

impl From<Failed> for ClientError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Broken(error) | Failed::Final(error) => error,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}
