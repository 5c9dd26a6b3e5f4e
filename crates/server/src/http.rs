//! All routes. One folder a caller: `native` for clients with a key, `admin` for whoever operates the server.
//!
//! Room for other dialects: each is a module beside `native` that gives a `Router<App>` of its own paths and is
//! merged in [`router`]. The native dialect owns `/api/v1/…` and, without version, `/api/sandbox…` and
//! `/api/checkpoints…` only: the rest of `/api/` and the root belong to others.

mod admin;
mod auth;
mod body;
mod error;
mod extract;
mod hold;
mod limit;
mod memory;
pub(crate) mod native;
mod observe;
mod patience;
mod time;
mod unread;

use crate::{metrics::Metrics, options::ServerOptions};
use axum::{Router, middleware};
use forkpoint_engine::Platform;
pub(crate) use hold::Hold;
use limit::Limits;
use std::{sync::Arc, time::Duration};

/// What every handler can reach. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct App(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) platform: Platform,
    pub(crate) options: ServerOptions,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    /// The API's description as served.
    pub(crate) openapi: axum::body::Bytes,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// How long an operation may be silent before its response begins: longer than it waits for another one,
    /// so that this refusal keeps its status, and shorter than clients wait.
    pub(crate) fn patience(&self) -> Duration {
        (self.platform.settings().lock_wait + Duration::from_secs(5))
            .clamp(Duration::from_secs(10), Duration::from_secs(20))
    }
}

/// The whole HTTP side, to be served by [`crate::serve`].
pub fn router(platform: Platform, options: ServerOptions) -> Router {
    let (native, document) = native::routes();
    let (admin, document) = admin::routes(document);
    let openapi = native::document_json(&document).into();
    let limits = Limits::new(&options);
    let app = App(Arc::new(Shared { platform, options, metrics: Metrics::new(), limits, openapi }));
    Router::new()
        .merge(native.guarded(&app))
        .merge(admin)
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), observe::observe))
        .layer(middleware::from_fn_with_state(memory::Memory::default(), memory::share))
        .layer(middleware::from_fn(unread::take_up))
        .with_state(app)
}
