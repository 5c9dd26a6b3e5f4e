//! Registration and API keys.

use super::sandboxes::Done;
use crate::http::{App, body::Json, error::ApiResult, extract::Id, patience::json, time::Time};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{
    ids::{ApiKeyId, OrgId, UserId},
    organization::ApiKey,
};
use forkpoint_engine::{Caller, operations::accounts::Registration};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who registers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Register)]
#[allow(dead_code)]
pub(super) struct RegisterBody {
    /// E-mail address of the organisation's owner.
    email: String,
    /// Name of the new organisation.
    #[serde(alias = "organizationName")]
    organization_name: String,
    /// Given name.
    #[serde(alias = "firstName")]
    first_name: Option<String>,
    /// Family name.
    #[serde(alias = "lastName")]
    last_name: Option<String>,
    /// What for; not kept.
    #[serde(alias = "useCase")]
    use_case: Option<String>,
}

/// What a registration made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Registered {
    organization: OrganizationView,
    user: UserView,
    api_key: FirstKey,
}

/// An organisation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Organization)]
pub(super) struct OrganizationView {
    #[schema(value_type = String)]
    id: OrgId,
    name: String,
    /// The name in kebab case, unique on this server.
    slug: String,
    plan: String,
}

/// A person of an organisation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserView {
    #[schema(value_type = String)]
    id: UserId,
    email: String,
    role: String,
}

/// The organisation's first key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FirstKey {
    /// The key itself, shown this once.
    key: String,
    /// How it begins, to recognise it by.
    key_prefix: String,
    name: String,
    /// Its id, to revoke it by.
    #[schema(value_type = String)]
    id: ApiKeyId,
}

/// An API key, without its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct KeyView {
    #[schema(value_type = String)]
    id: ApiKeyId,
    name: String,
    /// How it begins, to recognise it by.
    key_prefix: String,
    /// What it may do: `read`, `write`, `admin`; empty: everything.
    scopes: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// To about a minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Time>,
    /// When it stops working.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            key_prefix: key.prefix,
            scopes: key.scopes,
            created_at: Time(key.created_at),
            last_used_at: key.last_used_at.map(Time),
            expires_at: key.expires_at.map(Time),
        }
    }
}

/// The organisation's keys that are not revoked, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyList {
    api_keys: Vec<KeyView>,
}

/// A further key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateApiKey)]
pub(super) struct CreateKeyBody {
    /// What it is called.
    name: String,
    /// When it stops working, in days from now, at most 3650; default: never.
    #[serde(alias = "expiresInDays")]
    expires_in_days: Option<i64>,
    /// What it may do: `read`, `write`, `admin`, `*`; default: everything.
    scopes: Option<Vec<String>>,
}

/// A new key and its text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedKey {
    api_key: KeyView,
    /// The key itself, shown this once.
    key: String,
}

/// The largest body of a registration, in bytes: it comes from anybody.
const MAX_REGISTRATION_BYTES: usize = 16 << 10;

/// Registers an organisation
///
/// Makes the organisation, its owner and a first API key. Needs no key.
#[utoipa::path(post, path = "/register", tag = "accounts", security(()), request_body = RegisterBody,
    responses((status = 201, description = "The key is shown this once", body = Registered)))]
pub(super) async fn register(
    State(app): State<App>,
    Json(body): Json<RegisterBody, MAX_REGISTRATION_BYTES>,
) -> ApiResult {
    let registration = Registration {
        organization_name: body.organization_name,
        email: body.email,
        first_name: body.first_name,
        last_name: body.last_name,
    };
    let made = app.platform.register(registration).await?;
    let registered = Registered {
        organization: OrganizationView {
            id: made.organization.id,
            name: made.organization.name,
            slug: made.organization.slug,
            plan: made.organization.plan,
        },
        user: UserView { id: made.user.id, email: made.user.email, role: made.user.role },
        api_key: FirstKey {
            key: made.key.text.to_string(),
            key_prefix: made.key.key.prefix,
            name: made.key.key.name,
            id: made.key.key.id,
        },
    };
    Ok(json(StatusCode::CREATED, &registered))
}

/// Lists API keys
#[utoipa::path(get, path = "/api-keys", tag = "accounts",
    responses((status = 200, description = "Never their text", body = KeyList)))]
pub(super) async fn list_api_keys(State(app): State<App>, Extension(caller): Extension<Caller>) -> ApiResult {
    let api_keys = app.platform.api_keys(&caller).await?.into_iter().map(KeyView::from).collect();
    Ok(json(StatusCode::OK, &KeyList { api_keys }))
}

/// Makes an API key
///
/// It can do no more than the key that makes it.
#[utoipa::path(post, path = "/api-keys", tag = "accounts", request_body = CreateKeyBody,
    responses((status = 201, description = "The key is shown this once", body = CreatedKey)))]
pub(super) async fn create_api_key(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<CreateKeyBody>,
) -> ApiResult {
    let scopes = body.scopes.unwrap_or_default();
    let made = app.platform.create_api_key(&caller, body.name, scopes, body.expires_in_days).await?;
    Ok(json(StatusCode::CREATED, &CreatedKey { api_key: made.key.into(), key: made.text.to_string() }))
}

/// Revokes an API key
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "accounts", params(("id" = String, Path, description = "API key id")),
    responses((status = 200, description = "The next call with it is refused", body = Done)))]
pub(super) async fn revoke_api_key(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<ApiKeyId>,
) -> ApiResult {
    app.platform.revoke_api_key(&caller, id).await?;
    Ok(json(StatusCode::OK, &Done::DONE))
}
