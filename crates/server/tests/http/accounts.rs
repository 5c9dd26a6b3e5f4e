//! Registration and keys.

use crate::harness::{Answer, Server, assert_time, unknown};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, num::NonZeroU32};

async fn register(server: &Server, body: Value, from: &str) -> Answer {
    let mut request =
        Request::builder().method(Method::POST).uri("/api/v1/register").body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(ConnectInfo(from.parse::<SocketAddr>().unwrap()));
    Answer::read(server.send(request).await).await
}

#[tokio::test]
async fn registering_gives_organisation_user_and_a_key_that_works() {
    let server = Server::new().await;
    let body = json!({"first_name": "Ada", "last_name": "Lovelace", "email": "dev@company.com", "organization_name": "Umbrella & Co", "use_case": "CI"});
    let answer = register(&server, body, "192.0.2.1:5").await;
    assert_eq!(answer.status, 201);
    let made = answer.json();
    assert!(made["organization"]["id"].as_str().unwrap().starts_with("org_"));
    assert_eq!(made["organization"]["name"], "Umbrella & Co");
    assert_eq!(made["organization"]["slug"], "umbrella-co");
    assert_eq!(made["organization"]["plan"], "hobby");
    assert_eq!(made["user"]["email"], "dev@company.com");
    assert_eq!(made["user"]["role"], "owner");
    assert_eq!(made["api_key"]["name"], "Default API Key");
    let key = made["api_key"]["key"].as_str().unwrap();
    assert!(key.starts_with("sk-sandbox-") && key.starts_with(made["api_key"]["key_prefix"].as_str().unwrap()));
    let own = Server { key: key.into(), ..server };
    assert_eq!(own.get("/api/v1/sandboxes").await.status, 200);
}

#[tokio::test]
async fn registration_names_what_is_missing_or_wrong() {
    let server = Server::new().await;
    for (body, field) in [
        (json!({"organization_name": "A"}), "email"),
        (json!({"email": "a@b.c"}), "organization_name"),
        (json!({"email": "nobody", "organization_name": "A"}), "email"),
        (json!({"email": "a@b.c", "organization_name": " "}), "organization_name"),
        (json!({"email": 5, "organization_name": "A"}), "email"),
        (json!({"email": "a@b.c", "organization_name": "A", "first_name": "a\nb"}), "first_name"),
        (json!({"email": "a@b.c", "organization_name": "A", "plan": "pro"}), "plan"),
    ] {
        register(&server, body, "192.0.2.1:5").await.refuses_field(field);
    }
}

#[tokio::test]
async fn registrations_are_limited_by_address() {
    let server =
        Server::with(Default::default(), |options| options.register_limit_per_minute = NonZeroU32::new(1)).await;
    let body = || json!({"email": "a@b.c", "organization_name": "A"});
    assert_eq!(register(&server, body(), "192.0.2.1:5").await.status, 201);
    register(&server, body(), "192.0.2.1:6").await.refused(429, "rate_limited");
    assert_eq!(register(&server, body(), "192.0.2.2:5").await.status, 201);
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let server = Server::new().await;
    let made =
        server.post("/api/v1/api-keys", json!({"name": "ci", "expiresInDays": 7, "scopes": ["read", "write"]})).await;
    assert_eq!(made.status, 201);
    let (id, key) = (made.text_at("/api_key/id"), made.text_at("/key"));
    assert!(made.json()["api_key"].get("key").is_none());
    let listed = server.get("/api/v1/api-keys").await;
    assert!(!String::from_utf8_lossy(&listed.body).contains(&key));
    let keys = listed.json()["api_keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2);
    assert_eq!((&keys[1]["name"], &keys[1]["scopes"]), (&json!("ci"), &json!(["read", "write"])));
    assert_time(&keys[1]["created_at"]);
    assert_time(&keys[1]["expires_at"]);

    let with_it = Server { key, ..server.other_organisation().await };
    assert_eq!(with_it.get("/api/v1/sandboxes").await.status, 200);
    assert_eq!(server.delete(&format!("/api/v1/api-keys/{id}")).await.json(), json!({"success": true}));
    with_it.get("/api/v1/sandboxes").await.refused(401, "unauthorized");
    server.delete(&format!("/api/v1/api-keys/{id}")).await.refused(404, "not_found");
    server.delete(&format!("/api/v1/api-keys/{}", unknown("key_"))).await.refused(404, "not_found");
    server.delete("/api/v1/api-keys/nope").await.refuses_field("api_key_id");
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused() {
    let server = Server::new().await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a", "scopes": ["root"]}), "scopes[0]"),
        (json!({"name": "a", "scopes": "read"}), "scopes"),
        (json!({"name": "a", "expires_in_days": 0}), "expires_in_days"),
        (json!({"name": "a", "expires_in_days": 1.5}), "expires_in_days"),
    ] {
        server.post("/api/v1/api-keys", body).await.refuses_field(field);
    }
}

#[tokio::test]
async fn a_registration_is_small() {
    let server = Server::new().await;
    let body = json!({ "organization_name": "x".repeat(20_000), "email": "a@example.com" });
    register(&server, body, "192.0.2.9:5").await.refused(413, "too_large");
}
