//! Around every request: its id, one log line, its metrics, errors put into the envelope, panics caught.

use super::{
    App,
    error::{ApiError, Code},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::Response,
};
use forkpoint_domain::ids::OrgId;
use futures::FutureExt as _;
use std::{panic::AssertUnwindSafe, time::Instant};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who a request was made by, for its log line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeBy(pub(crate) OrgId);

pub(crate) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = app.metrics.begin_request();
    let (id, id_header) = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let path: String = request.uri().path().chars().take(256).collect();

    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let what =
                panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(request.id = %id, path, panic = what.unwrap_or("(no message)"), "handler panicked");
            let message = format!("something went wrong inside the server; its log has more under request {id}");
            ApiError::new(Code::Internal, message).render(&id)
        }
    };
    let made_by = response.extensions_mut().remove::<MadeBy>();
    let refusal = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &refusal {
        // What layers between have added, e.g. Allow or X-RateLimit-…, stays.
        let rendered = error.render(&id);
        let (parts, body) = rendered.into_parts();
        *response.body_mut() = body;
        *response.status_mut() = parts.status;
        response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
        for (name, value) in &parts.headers {
            // WWW-Authenticate comes twice.
            if name == axum::http::header::WWW_AUTHENTICATE {
                response.headers_mut().append(name, value.clone());
            } else {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    response.headers_mut().insert(REQUEST_ID, id_header);

    let (status, took) = (response.status(), started.elapsed());
    drop(in_flight);
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    app.metrics.end_request(route, &method, status, took);
    log(&id, method.as_str(), &path, status, took.as_secs_f64() * 1000.0, made_by, refusal.as_ref());
    response
}

fn log(
    id: &str,
    method: &str,
    path: &str,
    status: StatusCode,
    duration_ms: f64,
    by: Option<MadeBy>,
    refusal: Option<&ApiError>,
) {
    let org = by.map(|by| tracing::field::display(by.0));
    let status = status.as_u16();
    let error = refusal.map(|refusal| refusal.code.parts().1);
    if status >= 500 {
        tracing::warn!(request.id = id, method, path, status, duration_ms, org.id = org, error, "request");
    } else if matches!(path, "/healthz" | "/readyz" | "/metrics") {
        tracing::debug!(request.id = id, method, path, status, duration_ms, "request");
    } else {
        tracing::info!(request.id = id, method, path, status, duration_ms, org.id = org, error, "request");
    }
}

/// The client's own id if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> (String, HeaderValue) {
    let given = headers.get(REQUEST_ID).and_then(|value| {
        let text = value.to_str().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
        ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then(|| (text.to_owned(), value.clone()))
    });
    given.unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        let header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("unknown"));
        (id, header)
    })
}
