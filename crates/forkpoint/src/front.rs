//! What answers before the server is open: health at once, everything else "not yet", then the real routes.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use forkpoint_server::Readiness;
use serde_json::json;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use tower::ServiceExt;

/// Hands requests to the real routes once those are there.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    routes: Arc<OnceLock<Router>>,
    readiness: watch::Receiver<Readiness>,
}

impl Front {
    pub(crate) fn new(readiness: watch::Receiver<Readiness>) -> Self {
        Self { routes: Arc::default(), readiness }
    }

    /// From now on these routes answer.
    pub(crate) fn open(&self, routes: Router) {
        // Opened once, by the one start of a process.
        let _ = self.routes.set(routes);
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(forward).with_state(self.clone())
    }
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    if let Some(routes) = front.routes.get() {
        return match routes.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
    }
    match request.uri().path() {
        "/healthz" => Json(json!({ "status": "ok" })).into_response(),
        "/readyz" => {
            let readiness = front.readiness.borrow().clone();
            let (reason, progress) = match readiness {
                Readiness::NotYet { reason, progress } => (reason, progress),
                Readiness::Ready => ("opening", String::new()),
            };
            let body = json!({ "status": "starting", "reason": reason, "progress": progress });
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], Json(body)).into_response()
        }
        _ => {
            let error = json!({ "error": { "code": "starting", "message": "the server is starting; try again" } });
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], Json(error)).into_response()
        }
    }
}
