//! What the API's description says beyond single routes: keys, tags, and the errors that all routes share.

use super::{UNVERSIONED, VERSIONED};
use crate::http::error::{ErrorBody, ErrorEnvelope};
use serde_json::json;
use std::collections::BTreeSet;
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        Content, Info, License, OpenApi, Ref, RefOr, Required, Response,
        extensions::Extensions,
        header::HeaderBuilder,
        path::{Operation, PathItem},
        schema::{Object, Schema, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(ErrorEnvelope, ErrorBody)))]
struct Shared;

const DESCRIPTION: &str = "\
Runs code for AI agents in isolated Linux sandboxes that can be checkpointed, forked and restored.

**Sizes.** A sandbox has `cpus` \"1\", `memory` \"1Gi\" and lives `timeout_seconds` 3600 unless asked for otherwise.

**Paths.** Routes whose `x-aliases` names a second path are served there too.

**Input.** Bodies are JSON objects up to 64 MiB; an empty body is `{}`; the content type does not matter. Fields may be \
written in snake_case or camelCase. Unknown fields are refused, but for `org_id`, `session_id` and `name` where a \
sandbox is made: these are taken and ignored, since the key says whose the sandbox is.

**Long answers.** When an operation takes long, its response begins after 10 to 20 seconds with a 2xx status and blanks \
before the JSON. An error that comes so late is in the body: `{\"success\": false, \"error\": {…}}`.

**Errors.** Never 500. 503 and 507 come only before any effect, so the request can be repeated.";

/// The description before there are routes.
pub(super) fn base() -> OpenApi {
    let mut document = Shared::openapi();
    let mut info = Info::new("Forkpoint", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    document.info = info;
    document.tags = Some(
        [
            ("sandboxes", "Making sandboxes, and the rest of their life"),
            ("commands", "Running commands in a sandbox"),
            ("terminals", "Terminals and background commands, which go on while nobody looks on"),
            ("files", "Files in a running sandbox"),
            ("checkpoints", "Saved points of sandboxes"),
            ("templates", "What sandboxes start from"),
            ("accounts", "Organisations and their API keys"),
            ("operation", "For whoever operates the server"),
        ]
        .map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build())
        .to_vec(),
    );
    let header = |name: &str, description: &str| {
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, description)))
    };
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("`Authorization: Bearer <key>`")).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("ApiKey", header("Authorization", "`Authorization: ApiKey <key>`"));
    components.add_security_scheme("Bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("XApiKey", header("x-api-key", "`x-api-key: <key>`"));
    let none: [&str; 0] = [];
    document.security =
        Some(["ApiKey", "Bearer", "XApiKey"].map(|scheme| SecurityRequirement::new(scheme, none)).to_vec());
    for (status, name, description) in REFUSALS {
        let mut response = Response::new(*description);
        response.content.insert(
            "application/json".to_owned(),
            RefOr::T(Content::new(Some(Ref::from_schema_name(ErrorEnvelope::name())))),
        );
        if matches!(*status, "429" | "503" | "507") {
            let seconds = HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::Integer)))
                .description(Some("Seconds after which to try again"))
                .build();
            response.headers.insert("Retry-After".to_owned(), RefOr::T(seconds));
        }
        components.responses.insert((*name).to_owned(), RefOr::T(response));
    }
    document
}

/// The errors that routes share.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("400", "BadRequest", "The request breaks a rule; `details.field` names where"),
    ("401", "Unauthorized", "No key, or one that is unknown, revoked or expired"),
    ("403", "Forbidden", "The key lacks a scope"),
    ("404", "NotFound", "There is no such object for this key"),
    ("409", "Conflict", "It does not fit the present state, e.g. `sandbox_not_running`; `code` says how"),
    ("413", "TooLarge", "The body, the file or the captured set is larger than allowed"),
    ("429", "RateLimited", "Too many requests with this key or registrations from this address"),
    ("503", "Unavailable", "Not now; nothing was done"),
    ("507", "OutOfSpace", "The host's disk is full; nothing was done"),
];

/// Adds to each API route the errors it shares with others, and the other paths it is served at.
pub(super) fn complete(document: &mut OpenApi, unversioned: &OpenApi) {
    let schemas = document.components.iter().flat_map(|components| &components.schemas);
    // A body without required fields may be left out.
    let optional: BTreeSet<String> = schemas
        .filter(|(_, schema)| matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty()))
        .map(|(name, _)| Ref::from_schema_name(name.as_str()).ref_location)
        .collect();
    for (path, item) in &mut document.paths.paths {
        let Some(rest) = path.strip_prefix(VERSIONED) else { continue };
        let alias = format!("{UNVERSIONED}{rest}");
        let aliased = unversioned.paths.paths.contains_key(&alias);
        let registers = rest == "/register";
        for (changes, operation) in operations(item) {
            for (status, name, _) in REFUSALS {
                let fits = match *status {
                    "401" | "403" => !registers,
                    "404" => path.contains('{'),
                    "409" | "507" => changes || path.contains('{'),
                    "413" => operation.request_body.is_some() || rest.ends_with("/files"),
                    _ => true,
                };
                if fits {
                    let reference = RefOr::Ref(Ref::from_response_name(*name));
                    operation.responses.responses.entry((*status).to_owned()).or_insert(reference);
                }
            }
            if let Some(RefOr::T(body)) = &mut operation.request_body
                && let Some(RefOr::T(content)) = body.content.get("application/json")
                && matches!(&content.schema, Some(RefOr::Ref(schema)) if optional.contains(&schema.ref_location))
            {
                body.required = Some(Required::False);
            }
            if aliased {
                operation
                    .extensions
                    .get_or_insert_default()
                    .merge(Extensions::builder().add("x-aliases", json!([alias])).build());
            }
        }
    }
}

/// The operations of a path, and whether each changes something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let changing = [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
    let all = std::iter::once((false, &mut item.get)).chain(changing.map(|operation| (true, operation)));
    all.filter_map(|(changes, operation)| Some((changes, operation.as_mut()?)))
}

/// The description as text: indented, with a line feed at its end.
pub(crate) fn document_json(document: &OpenApi) -> String {
    let mut text = document.to_pretty_json().unwrap_or_else(|error| {
        tracing::error!(%error, "the API's description did not serialise");
        "{}".to_owned()
    });
    text.push('\n');
    text
}
