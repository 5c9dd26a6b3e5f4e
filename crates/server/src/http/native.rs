//! The native dialect, StateSet's: `/api/v1/…`, and `/api/sandbox…` and `/api/checkpoints…` without version.

mod accounts;
mod builds;
mod checkpoint;
mod checkpoints;
mod compare;
mod create;
mod description;
mod execute;
mod files;
mod fork;
mod portable;
mod quantity;
mod restore;
mod sandbox;
mod sandboxes;
mod templates;
mod terminals;

use super::{App, auth};
use axum::{Router, middleware};
pub(crate) use description::document_json;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

const VERSIONED: &str = "/api/v1";
const UNVERSIONED: &str = "/api";

/// The dialect's routes, by what they need of a caller.
#[derive(Debug)]
pub(crate) struct Native {
    with_key: Router<App>,
    without_key: Router<App>,
}

impl Native {
    /// The routes, each behind its guard.
    pub(crate) fn guarded(self, app: &App) -> Router<App> {
        let guard = middleware::from_fn_with_state(app.clone(), auth::guard);
        let guard_registration = middleware::from_fn_with_state(app.clone(), auth::guard_registration);
        self.with_key.route_layer(guard).merge(self.without_key.route_layer(guard_registration))
    }
}

/// Sandboxes and checkpoints: served with and without version.
fn both() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create_sandbox))
        .routes(routes!(create::create_sandbox_short))
        .routes(routes!(templates::create_from_template))
        .routes(routes!(sandboxes::get_sandbox, sandboxes::delete_sandbox))
        .routes(routes!(sandboxes::get_sandbox_status))
        .routes(routes!(sandboxes::stop_sandbox))
        .routes(routes!(sandboxes::start_sandbox))
        .routes(routes!(sandboxes::extend_sandbox))
        .routes(routes!(fork::fork_sandbox))
        .routes(routes!(execute::execute_command))
        .routes(routes!(terminals::create_terminal, terminals::list_terminals))
        .routes(routes!(terminals::get_terminal, terminals::close_terminal))
        .routes(routes!(terminals::signal_terminal))
        .routes(routes!(terminals::wait_for_terminal))
        .routes(routes!(terminals::attach_terminal))
        .routes(routes!(files::json::write_files, files::json::read_file, files::tree::remove_file))
        .routes(routes!(files::raw::download_file, files::raw::upload_file))
        .routes(routes!(files::tree::list_files))
        .routes(routes!(files::watch::watch_files))
        .routes(routes!(files::tree::glob_files))
        .routes(routes!(files::tree::make_directory))
        .routes(routes!(files::tree::move_file))
        .routes(routes!(files::tree::copy_file))
        .routes(routes!(checkpoints::create_checkpoint))
        .routes(routes!(restore::restore_checkpoint))
        .routes(routes!(checkpoints::list_checkpoints))
        .routes(routes!(compare::compare_checkpoints))
        .routes(routes!(checkpoints::get_checkpoint, checkpoints::delete_checkpoint, checkpoints::retain_checkpoint))
        .routes(routes!(checkpoints::clone_checkpoint))
        .routes(routes!(templates::publish_checkpoint))
        .routes(routes!(checkpoints::evict_checkpoint))
        .routes(routes!(checkpoints::retry_checkpoint))
        .routes(routes!(portable::export_checkpoint))
        .routes(routes!(portable::import_checkpoint))
        .routes(routes!(portable::verify_checkpoint))
        .routes(routes!(portable::prove_file))
}

/// Served with version only: without it, these paths are other dialects'.
fn versioned() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::list_sandboxes))
        .routes(routes!(templates::list_templates, builds::build_template))
        .routes(routes!(templates::get_template, templates::delete_template))
        .routes(routes!(accounts::list_api_keys, accounts::create_api_key))
        .routes(routes!(accounts::revoke_api_key))
}

/// All routes, and the description of them.
pub(crate) fn routes() -> (Native, OpenApi) {
    let registration = OpenApiRouter::new().routes(routes!(accounts::register));
    let (without_key, of_registration) = OpenApiRouter::new().nest(VERSIONED, registration).split_for_parts();
    let (with_key, mut document) =
        OpenApiRouter::with_openapi(description::base()).nest(VERSIONED, both().merge(versioned())).split_for_parts();
    document.merge(of_registration);
    let (unversioned, of_unversioned) = OpenApiRouter::new().nest(UNVERSIONED, both()).split_for_parts();
    description::complete(&mut document, &of_unversioned);
    (Native { with_key: with_key.merge(unversioned), without_key }, document)
}

/// The description of everything that the server serves, as `/openapi.json` gives it.
pub fn openapi() -> OpenApi {
    super::admin::routes(routes().1).1
}
