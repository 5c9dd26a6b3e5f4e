//! HTTP: the native dialect, health, metrics and the API's own description. Handlers parse, call the engine, render.

mod http;
mod metrics;
mod options;
mod serve;

pub use http::{native::openapi, router};
pub use options::{Readiness, SandboxCounts, ServerOptions};
pub use serve::{ConnectionOptions, serve};
