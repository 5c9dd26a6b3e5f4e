//! Every way a request can be refused: code, status and message in one place, rendered in one envelope.
//!
//! There is no 500. What must not happen renders as 503 `internal` with an id that the log has too.
//! 503 and 507 are given only before any effect, since clients repeat a request after them.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use forkpoint_domain::{Invalid, recipe::RecipeError};
use forkpoint_engine::{Error, ports::guest::GuestError};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// What kind of refusal. Each has one status and one stable name for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidRequest,
    InvalidJson,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    /// With the engine's own name for what is in the way.
    Conflict(&'static str),
    TooLarge,
    RangeNotSatisfiable,
    RateLimited,
    Unavailable,
    NotReady,
    Internal,
    OutOfSpace,
}

impl Code {
    /// Status and name.
    pub(crate) const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::InvalidJson => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::Conflict(code) => (StatusCode::CONFLICT, code),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
            Self::Internal => (StatusCode::SERVICE_UNAVAILABLE, "internal"),
            Self::OutOfSpace => (StatusCode::INSUFFICIENT_STORAGE, "out_of_space"),
        }
    }
}

/// A refusal on its way to the client. The outermost layer gives it the request's id and its body.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    details: Map<String, Value>,
    retry_after_seconds: Option<u64>,
}

pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after_seconds = match code {
            Code::Unavailable | Code::Internal | Code::OutOfSpace => Some(1),
            Code::NotReady => Some(2),
            _ => None,
        };
        Self { code, message: message.into(), details: Map::new(), retry_after_seconds }
    }

    /// A field breaks a rule; `problem` reads after the field's name.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Invalid::new(field, problem).into()
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Conflict(code), message)
    }

    #[must_use]
    pub(crate) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Where in a recipe.
    fn place(self, at: &RecipeError) -> Self {
        let placed = self.detail("line", at.line).detail("column", at.column);
        match at.step {
            Some(step) => placed.detail("step", step),
            None => placed,
        }
    }

    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The envelope, for an answer whose status has been sent already or as a body.
    pub(crate) fn envelope(&self, request_id: Option<&str>) -> Value {
        let (_, code) = self.code.parts();
        let mut error = json!({ "message": self.message, "code": code });
        if let Some(id) = request_id {
            error["request_id"] = id.into();
        }
        if !self.details.is_empty() {
            error["details"] = Value::Object(self.details.clone());
        }
        json!({ "error": error })
    }

    /// The whole answer, with the id of its request.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let (status, _) = self.code.parts();
        let mut response = Response::new(Body::from(self.envelope(Some(request_id)).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("ApiKey realm=\"forkpoint\""));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"forkpoint\""));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// Carries the error to the outermost layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.code.parts().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::new(Code::InvalidRequest, invalid.to_string()).detail("field", invalid.field)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::Unauthenticated(_) => Self::new(Code::Unauthorized, message),
            Error::Forbidden(scope) => Self::new(Code::Forbidden, message).detail("scope", scope),
            Error::Recipe(at) => Self::new(Code::InvalidRequest, format!("recipe: {message}")).place(&at),
            Error::StepFailed(at) => Self::conflict("step_failed", message).place(&at),
            Error::NotFound { kind, id } => Self::new(Code::NotFound, message).detail("kind", kind).detail("id", id),
            Error::Conflict { code, .. } => Self::conflict(code, message),
            Error::TooLarge(_) => Self::new(Code::TooLarge, message),
            Error::Guest(guest) => guest.into(),
            Error::Unavailable(_) => Self::new(Code::Unavailable, message),
            Error::OutOfSpace(_) => Self::new(Code::OutOfSpace, message),
        }
    }
}

/// What went wrong inside a sandbox is the sandbox's matter: never a 5xx, so nobody repeats the request for it. What
/// never came to it is the server's.
impl From<GuestError> for ApiError {
    fn from(error: GuestError) -> Self {
        let message = error.to_string();
        match error {
            GuestError::NotFound(_) => Self::new(Code::NotFound, message).detail("kind", "file"),
            GuestError::NoSuchUser(_) => Self::invalid("user", message),
            GuestError::NoSuchCommand { .. } => Self::invalid("command", message),
            GuestError::Exists(_) => Self::conflict("already_exists", message),
            GuestError::NoSpace(_) => Self::conflict("sandbox_disk_full", message),
            GuestError::Exhausted(_) => Self::conflict("sandbox_exhausted", message),
            GuestError::Refused(_) => Self::new(Code::InvalidRequest, message),
            GuestError::Unreached(_) => Self::new(Code::Unavailable, message),
            GuestError::Lost(_) => Self::conflict("sandbox_unreachable", message),
        }
    }
}

/// Answers every path that no route has.
pub(crate) async fn no_such_route(uri: axum::http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(Code::NotFound, format!("there is no route {path}; see /docs")).detail("kind", "route")
}

/// Answers a path that has routes, none with this method.
pub(crate) async fn wrong_method(method: Method, uri: axum::http::Uri) -> ApiError {
    let (method, path): (String, String) =
        (method.as_str().chars().take(32).collect(), uri.path().chars().take(200).collect());
    ApiError::new(Code::MethodNotAllowed, format!("{path} does not take {method}; the Allow header says what it takes"))
}

/// The shape of every refusal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
#[allow(dead_code)]
pub(crate) struct ErrorEnvelope {
    error: ErrorBody,
}

/// What was wrong, where, and what would be right.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct ErrorBody {
    /// For people.
    message: String,
    /// For programs: stable, snake case, e.g. `invalid_request`, `not_found`, `sandbox_not_running`.
    #[schema(example = "invalid_request")]
    code: String,
    /// Names this request in the server's log; also in the header `x-request-id`.
    request_id: String,
    /// More for programs, e.g. the `field` that was wrong.
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
}
