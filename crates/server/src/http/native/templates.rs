//! Templates: looking at them, starting from one, making one of a checkpoint, removing one.

use super::{
    create::{CreatedSandbox, Wanted, make},
    quantity::Quantity,
    sandboxes::Done,
};
use crate::http::{
    App,
    body::{Json, Submitted},
    error::{ApiError, ApiResult},
    extract::{Id, Query},
    patience::{json, patiently},
    time::Time,
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{ids::CheckpointId, recipe::Service, sandbox::DEFAULT_TIMEOUT_SECONDS, template::TemplateName};
use forkpoint_engine::{
    Caller, Settings,
    operations::{create::CreateSandbox, templates::PublishCheckpoint},
    ports::templates::{TemplateAbout, TemplateInfo},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A template.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Template)]
pub(super) struct TemplateView {
    /// What sandboxes are made from it by; the same as `name`.
    #[schema(example = "default")]
    id: String,
    /// Its name.
    name: String,
    /// What it is for.
    description: String,
    /// A word to look for it by.
    category: String,
    /// More words.
    tags: Vec<String>,
    /// What sandboxes of it get that ask for nothing else.
    config: TemplateConfig,
    /// Which version: names the very files for ever.
    digest: String,
    /// `operator`: everybody has it; `organization`: only this organisation.
    #[schema(value_type = String)]
    owner: &'static str,
    /// Where it came from.
    origin: String,
    /// Who commands in its sandboxes run as.
    user: String,
    /// What runs in its sandboxes from their start.
    services: Vec<ServiceView>,
    /// Distribution release, such as `bookworm`; empty if unknown.
    release: String,
    /// Entries that are not directories.
    file_count: u64,
    /// Bytes of its regular files.
    size_bytes: u64,
    /// When this version was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
}

/// What sandboxes of a template get that ask for nothing else.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TemplateConfig {
    /// Processor share.
    #[schema(example = "1")]
    cpus: String,
    /// Memory limit.
    #[schema(example = "1Gi")]
    memory: String,
    /// Lifetime.
    timeout_seconds: i64,
    /// Environment variables; those that came from a checkpoint are not shown.
    env: BTreeMap<String, String>,
}

/// What runs in a template's sandboxes from their start; its environment is not shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateService)]
pub(super) struct ServiceView {
    /// Its name.
    name: String,
    /// Program and arguments.
    command: Vec<String>,
    /// Who it runs as, if not who commands run as.
    user: Option<String>,
    /// Where it starts, if not where commands do.
    working_dir: Option<String>,
}

impl From<Service> for ServiceView {
    fn from(service: Service) -> Self {
        let Service { name, command, user, working_dir, .. } = service;
        Self { name, command, user, working_dir }
    }
}

/// Templates.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TemplateList {
    templates: Vec<TemplateView>,
}

impl TemplateView {
    pub(super) fn new(info: TemplateInfo, settings: &Settings) -> Self {
        let (cpus, memory) = settings.default_limits.display();
        let name = info.template.name.to_string();
        Self {
            id: name.clone(),
            name,
            description: info.about.description,
            category: info.about.category,
            tags: info.about.tags,
            config: TemplateConfig {
                cpus,
                memory,
                timeout_seconds: DEFAULT_TIMEOUT_SECONDS,
                env: info.env.as_map().clone(),
            },
            digest: info.template.digest,
            owner: if info.owner.is_some() { "organization" } else { "operator" },
            origin: info.origin,
            user: info.user.unwrap_or_else(|| "sandbox".to_owned()),
            services: info.services.into_iter().map(ServiceView::from).collect(),
            release: info.release,
            file_count: info.file_count,
            size_bytes: info.size_bytes,
            created_at: Time(info.created_at),
        }
    }

    /// Whether this text is in its name, description or tags, ignoring case.
    fn has(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let words = [&self.name, &self.description];
        words.into_iter().chain(&self.tags).any(|words| words.to_lowercase().contains(&text))
    }
}

/// From which template, and what else is to be other than usual.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateFromTemplate)]
#[allow(dead_code)]
pub(super) struct FromTemplateBody {
    /// Which (alias `template`).
    #[serde(alias = "templateId", alias = "template")]
    template_id: String,
    /// Lifetime in seconds, at most 2592000; default 3600.
    #[serde(alias = "timeoutSeconds")]
    #[schema(default = 3600, minimum = 1, maximum = 2592000)]
    timeout_seconds: Option<i64>,
    /// Environment variables of every command, laid over those of the template.
    env: Option<BTreeMap<String, String>>,
    /// Processor share (alias `cpus`); default the template's.
    #[serde(alias = "overrideCpus", alias = "cpus")]
    override_cpus: Option<Quantity>,
    /// Memory limit (alias `memory`); default the template's.
    #[serde(alias = "overrideMemory", alias = "memory")]
    override_memory: Option<Quantity>,
    /// The caller's own labels, at most 10 KB as compact JSON.
    metadata: Option<BTreeMap<String, String>>,
    /// Ignored: the key says it.
    #[serde(alias = "orgId")]
    #[schema(ignore)]
    org_id: Option<String>,
    /// Ignored: each sandbox has its own.
    #[serde(alias = "sessionId")]
    #[schema(ignore)]
    session_id: Option<String>,
}

/// What a checkpoint is to become.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PublishCheckpoint)]
pub(super) struct PublishBody {
    /// What the template is called: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    name: String,
    /// What it is for.
    description: Option<String>,
    /// A word to look for it by.
    category: Option<String>,
    /// More words, at most 20.
    tags: Option<Vec<String>>,
    /// Whether its sandboxes begin with the checkpoint's environment. Default true.
    #[serde(alias = "includeEnv")]
    #[schema(default = true)]
    include_env: Option<bool>,
}

/// Lists templates
///
/// The operator's, which everybody has, and those that the organisation published; of each the current version.
#[utoipa::path(get, path = "/templates", tag = "templates",
    params(("category" = Option<String>, Query, description = "Only of this category"),
           ("search" = Option<String>, Query, description = "Only with this text in name, description or tags, ignoring case")),
    responses((status = 200, description = "By name", body = TemplateList)))]
pub(super) async fn list_templates(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    query: Query,
) -> ApiResult {
    let found = app.platform.list_templates(&caller).await?;
    let views = found.into_iter().map(|info| TemplateView::new(info, app.platform.settings()));
    let (category, search) = (query.get(&["category"]), query.get(&["search"]));
    let templates = views
        .filter(|view| category.is_none_or(|category| view.category == category))
        .filter(|view| search.is_none_or(|search| view.has(search)))
        .collect();
    Ok(json(StatusCode::OK, &TemplateList { templates }))
}

/// Shows a template
#[utoipa::path(get, path = "/templates/{id}", tag = "templates", params(("id" = String, Path, description = "Template name")),
    responses((status = 200, description = "Its current version", body = TemplateView)))]
pub(super) async fn get_template(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<TemplateName>,
) -> ApiResult {
    let found = app.platform.get_template(&caller, &name).await?;
    Ok(json(StatusCode::OK, &TemplateView::new(found, app.platform.settings())))
}

/// Deletes a template
///
/// All versions of one that the organisation published. Refused while sandboxes or checkpoints lie on it.
#[utoipa::path(delete, path = "/templates/{id}", tag = "templates", params(("id" = String, Path, description = "Template name")),
    responses((status = 200, description = "It is gone", body = Done)))]
pub(super) async fn delete_template(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(name): Id<TemplateName>,
) -> ApiResult {
    app.platform.delete_template(&caller, &name).await?;
    Ok(json(StatusCode::OK, &Done::DONE))
}

/// Makes a sandbox from a template
///
/// The same as `POST /sandbox/create` with `template`.
#[utoipa::path(post, path = "/sandbox/create-from-template", tag = "sandboxes",
    request_body(content = FromTemplateBody, description = "What to make"),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    responses((status = 201, description = "It runs", body = CreatedSandbox)))]
pub(super) async fn create_from_template(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Submitted { value, key }: Submitted<FromTemplateBody>,
) -> ApiResult {
    let template =
        TemplateName::parse(&value.template_id).map_err(|invalid| ApiError::invalid("template_id", invalid.problem))?;
    let wanted = Wanted {
        cpus: value.override_cpus,
        memory: value.override_memory,
        timeout_seconds: value.timeout_seconds,
        env: value.env,
        metadata: value.metadata,
        isolation: None,
    };
    let request = CreateSandbox { template: Some(template), ..wanted.read()? };
    make(&app, caller, request, 1, key).await
}

/// Makes a template of a checkpoint
///
/// Its template and what was captured, as a whole of its own: both can be deleted without the other. The same name
/// again makes a new version; what exists stays on the one that it was made from.
#[utoipa::path(post, path = "/checkpoints/{id}/publish", tag = "checkpoints", params(("id" = String, Path, description = "Checkpoint id")),
    request_body = PublishBody,
    responses((status = 201, description = "Sandboxes can be made from it", body = TemplateView)))]
pub(super) async fn publish_checkpoint(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<CheckpointId>,
    Json(body): Json<PublishBody>,
) -> ApiResult {
    let name = TemplateName::parse(&body.name).map_err(|invalid| ApiError::invalid("name", invalid.problem))?;
    let request = PublishCheckpoint {
        name,
        about: TemplateAbout {
            description: body.description.unwrap_or_default(),
            category: body.category.unwrap_or_default(),
            tags: body.tags.unwrap_or_default(),
        },
        include_env: body.include_env.unwrap_or(true),
    };
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::CREATED, async move {
        let published = platform.publish_checkpoint(&caller, id, request).await?;
        Ok(TemplateView::new(published, platform.settings()))
    })
    .await
}
