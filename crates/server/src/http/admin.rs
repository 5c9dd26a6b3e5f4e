//! For whoever operates the server: health, readiness, metrics, and the API's description. No key is needed.

use super::{
    App,
    error::{ApiError, Code},
    patience::json,
};
use crate::options::Readiness;
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::time::Duration;
use utoipa::{ToSchema, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes, added to the description that has the others already.
pub(crate) fn routes(document: OpenApi) -> (Router<App>, OpenApi) {
    OpenApiRouter::with_openapi(document)
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi_json))
        .routes(routes!(docs))
        .routes(routes!(docs_script))
        .routes(routes!(docs_style))
        .split_for_parts()
}

/// The server's condition.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`, `ready` or `not_ready`.
    #[schema(value_type = String)]
    status: &'static str,
    /// Why it is not ready, for programs, e.g. `preparing_template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How far it is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
}

/// Tells that the server answers
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, description = "The server answers", body = Health)))]
async fn healthz() -> Response {
    json(StatusCode::OK, &Health { status: "ok", reason: None, progress: None })
}

/// Tells whether sandboxes can be created
///
/// While the server is not ready, API routes answer 503 `not_ready` before any effect.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()),
    responses((status = 200, description = "Sandboxes can be created", body = Health),
              (status = 503, description = "Not yet; says why and how far it is", body = Health)))]
async fn readyz(State(app): State<App>) -> Response {
    let not_yet = |reason: &str, progress: String| {
        let health = Health { status: "not_ready", reason: Some(reason.to_owned()), progress: Some(progress) };
        let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &health);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        response
    };
    let readiness = app.options.ready.borrow().clone();
    if let Readiness::NotYet { reason, progress } = readiness {
        return not_yet(reason, progress);
    }
    match tokio::time::timeout(Duration::from_secs(2), app.platform.ping()).await {
        Ok(Ok(())) => json(StatusCode::OK, &Health { status: "ready", reason: None, progress: None }),
        _ => not_yet("database_unavailable", "the database does not answer".into()),
    }
}

/// Gives metrics in the OpenMetrics text format
///
/// Served only where the operator has left metrics on.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()),
    responses((status = 200, description = "Counters, gauges and histograms", body = String, content_type = "application/openmetrics-text"),
              (status = 404, description = "Metrics are switched off", body = super::error::ErrorEnvelope)))]
async fn metrics(State(app): State<App>) -> Response {
    if !app.options.metrics {
        return ApiError::new(Code::NotFound, "metrics are switched off on this server").into_response();
    }
    let vault = app.platform.vault_figures().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the vault's figures could not be read");
        None
    });
    match app.metrics.render(app.options.sandbox_counts.as_ref(), vault).await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            ApiError::new(Code::Internal, "metrics could not be written").into_response()
        }
    }
}

/// Gives this description
#[utoipa::path(get, path = "/openapi.json", tag = "operation", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi_json(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}

/// Shows this description as a page to read and to try
#[utoipa::path(get, path = "/docs", tag = "operation", security(()),
    responses((status = 200, description = "A page that needs nothing but this server", body = String, content_type = "text/html")))]
async fn docs() -> Response {
    asset("text/html; charset=utf-8", include_str!("admin/docs.html"))
}

/// Gives the script of the page at /docs
#[utoipa::path(get, path = "/docs/docs.js", tag = "operation", security(()),
    responses((status = 200, description = "Script", body = String, content_type = "text/javascript")))]
async fn docs_script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("admin/docs.js"))
}

/// Gives the style sheet of the page at /docs
#[utoipa::path(get, path = "/docs/docs.css", tag = "operation", security(()),
    responses((status = 200, description = "Style sheet", body = String, content_type = "text/css")))]
async fn docs_style() -> Response {
    asset("text/css; charset=utf-8", include_str!("admin/docs.css"))
}

/// Part of the page: nothing of it may load from elsewhere or be framed, since a key is typed into it.
fn asset(content_type: &'static str, content: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
