//! Which paths are served, and that the description tells all of them.

use crate::harness::{Answer, Server, bare, unknown};
use axum::http::Method;
use forkpoint_server::openapi;
use serde_json::Value;
use std::collections::BTreeSet;

/// Served under /api/v1 and under /api.
const BOTH: &[(&str, &str)] = &[
    ("POST", "/sandbox"),
    ("POST", "/sandbox/create"),
    ("POST", "/sandbox/create-from-template"),
    ("GET", "/sandbox/{id}"),
    ("DELETE", "/sandbox/{id}"),
    ("GET", "/sandbox/{id}/status"),
    ("POST", "/sandbox/{id}/stop"),
    ("POST", "/sandbox/{id}/start"),
    ("POST", "/sandbox/{id}/extend"),
    ("POST", "/sandbox/{id}/fork"),
    ("POST", "/sandbox/{id}/execute"),
    ("POST", "/sandbox/{id}/terminals"),
    ("GET", "/sandbox/{id}/terminals"),
    ("GET", "/sandbox/{id}/terminals/{terminal_id}"),
    ("DELETE", "/sandbox/{id}/terminals/{terminal_id}"),
    ("GET", "/sandbox/{id}/terminals/{terminal_id}/wait"),
    ("POST", "/sandbox/{id}/terminals/{terminal_id}/signal"),
    ("GET", "/sandbox/{id}/terminals/{terminal_id}/ws"),
    ("POST", "/sandbox/{id}/files"),
    ("GET", "/sandbox/{id}/files"),
    ("DELETE", "/sandbox/{id}/files"),
    ("GET", "/sandbox/{id}/files/raw"),
    ("PUT", "/sandbox/{id}/files/raw"),
    ("GET", "/sandbox/{id}/files/list"),
    ("GET", "/sandbox/{id}/files/watch"),
    ("POST", "/sandbox/{id}/files/glob"),
    ("POST", "/sandbox/{id}/files/mkdir"),
    ("POST", "/sandbox/{id}/files/move"),
    ("POST", "/sandbox/{id}/files/copy"),
    ("POST", "/sandbox/{id}/checkpoints"),
    ("POST", "/sandbox/{id}/checkpoints/restore"),
    ("GET", "/checkpoints"),
    ("GET", "/checkpoints/{id}"),
    ("DELETE", "/checkpoints/{id}"),
    ("PATCH", "/checkpoints/{id}"),
    ("POST", "/checkpoints/{id}/clone"),
    ("POST", "/checkpoints/{id}/evict"),
    ("POST", "/checkpoints/{id}/retry"),
    ("GET", "/checkpoints/{id}/export"),
    ("POST", "/checkpoints/{id}/verify"),
    ("GET", "/checkpoints/{id}/proof"),
    ("POST", "/checkpoints/{id}/publish"),
    ("POST", "/checkpoints/import"),
    ("POST", "/checkpoints/compare"),
];

/// Served under /api/v1 only.
const VERSIONED: &[(&str, &str)] = &[
    ("GET", "/sandboxes"),
    ("GET", "/templates"),
    ("POST", "/templates"),
    ("GET", "/templates/{id}"),
    ("DELETE", "/templates/{id}"),
    ("GET", "/api-keys"),
    ("POST", "/api-keys"),
    ("DELETE", "/api-keys/{id}"),
];

const OPEN: &[(&str, &str)] = &[
    ("POST", "/api/v1/register"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/docs.js"),
    ("GET", "/docs/docs.css"),
];

fn described() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

fn concrete(path: &str) -> String {
    path.replace("{id}", &unknown("sb-")).replace("{terminal_id}", &unknown("term-"))
}

#[tokio::test]
async fn every_route_asks_for_a_key_before_anything_else() {
    let server = Server::new().await;
    let versioned = BOTH.iter().chain(VERSIONED).map(|(method, path)| (method, format!("/api/v1{path}")));
    let unversioned = BOTH.iter().map(|(method, path)| (method, format!("/api{path}")));
    for (method, path) in versioned.chain(unversioned) {
        let request = bare(method.parse().unwrap(), &concrete(&path));
        let answer = Answer::read(server.send(request).await).await;
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        answer.refused(401, "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("ApiKey"));
    }
}

#[tokio::test]
async fn open_routes_ask_for_no_key() {
    let server = Server::new().await;
    for (method, path) in OPEN.iter().skip(1) {
        let answer = Answer::read(server.send(bare(method.parse().unwrap(), path)).await).await;
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
    }
}

#[test]
fn the_description_tells_exactly_the_routes_that_are_served() {
    let document = described();
    let mut told = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            told.insert((method.to_uppercase(), path.clone()));
            for alias in operation["x-aliases"].as_array().into_iter().flatten() {
                told.insert((method.to_uppercase(), alias.as_str().unwrap().to_owned()));
            }
        }
    }
    let owned = |method: &str, path: String| (method.to_owned(), path);
    let served: BTreeSet<_> = BOTH
        .iter()
        .flat_map(|(method, path)| [owned(method, format!("/api/v1{path}")), owned(method, format!("/api{path}"))])
        .chain(VERSIONED.iter().map(|(method, path)| owned(method, format!("/api/v1{path}"))))
        .chain(OPEN.iter().map(|(method, path)| owned(method, (*path).to_owned())))
        .collect();
    assert_eq!(told, served);
}

#[test]
fn the_description_is_valid_where_generators_look() {
    let document = described();
    assert_eq!(document["openapi"], "3.1.0");
    for scheme in ["ApiKey", "Bearer", "XApiKey"] {
        assert!(document["components"]["securitySchemes"][scheme].is_object(), "{scheme}");
    }
    let create = &document["components"]["schemas"]["CreateSandbox"]["properties"];
    assert_eq!(create["timeout_seconds"]["default"], 3600);
    for (field, default) in [("cpus", "1"), ("memory", "1Gi")] {
        assert!(
            create[field].to_string().contains(&format!("\"default\":\"{default}\"")),
            "{field}: {}",
            create[field]
        );
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let here = format!("{method} {path}");
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{here}: operationId is not unique"
            );
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{here}: no summary");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let response = follow(&document, response);
                assert!(
                    !response["description"].as_str().unwrap_or_default().is_empty(),
                    "{here} {status}: no description"
                );
            }
            let named: Vec<_> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            assert_eq!(path.contains("{id}"), named.contains(&"id"), "{here}");
            if path.starts_with("/api/") {
                for status in ["400", "429", "503"] {
                    assert!(operation["responses"][status].is_object(), "{here}: no {status}");
                }
            }
        }
    }
    let mut missing = Vec::new();
    find_dangling(&document, &document, &mut missing);
    assert!(missing.is_empty(), "references to nothing: {missing:?}");
}

fn follow<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => node,
    }
}

fn find_dangling(document: &Value, node: &Value, missing: &mut Vec<String>) {
    match node {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str)
                && document.pointer(reference.trim_start_matches('#')).is_none()
            {
                missing.push(reference.to_owned());
            }
            fields.values().for_each(|field| find_dangling(document, field, missing));
        }
        Value::Array(items) => items.iter().for_each(|item| find_dangling(document, item, missing)),
        _ => {}
    }
}

#[tokio::test]
async fn the_checked_in_description_is_the_served_one() {
    let server = Server::new().await;
    let served = server.get("/openapi.json").await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/native.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(file, &served.body).unwrap();
    }
    let checked_in = std::fs::read(file).unwrap_or_default();
    assert!(
        checked_in == served.body,
        "openapi/native.json is not what the code says; regenerate it with UPDATE_OPENAPI=1"
    );
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_in_the_envelope() {
    let server = Server::new().await;
    for path in ["/", "/api", "/api/v1", "/api/v1/nothing", "/api/v1/sandbox/a/b/c", "/api/v2/sandbox", "/sandboxes"] {
        server.get(path).await.refused(404, "not_found");
    }
    for (method, path) in [
        (Method::GET, "/api/v1/sandbox"),
        (Method::PUT, "/api/v1/checkpoints"),
        (Method::POST, "/healthz"),
        (Method::PATCH, "/api/v1/register"),
    ] {
        let answer = server.call(method, path, "").await;
        answer.refused(405, "method_not_allowed");
        assert!(!answer.header("allow").is_empty());
    }
}

#[tokio::test]
async fn paths_of_other_dialects_are_left_to_them() {
    let server = Server::new().await;
    for path in [
        "/api/sandboxes",
        "/api/api-keys",
        "/api/register",
        "/api/webhooks",
        "/api/templates",
        "/api/usage",
        "/api/snapshots",
    ] {
        server.get(path).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn unversioned_aliases_do_the_same() {
    let server = Server::new().await;
    let made = server.post("/api/sandbox/create", serde_json::json!({})).await;
    assert_eq!(made.status, 201);
    let id = made.text_at("/sandbox_id");
    assert_eq!(
        server.get(&format!("/api/sandbox/{id}")).await.json(),
        server.get(&format!("/api/v1/sandbox/{id}")).await.json()
    );
    let cp =
        server.post(&format!("/api/sandbox/{id}/checkpoints"), serde_json::json!({"name": "a"})).await.text_at("/id");
    assert_eq!(server.get("/api/checkpoints").await.json(), server.get("/api/v1/checkpoints").await.json());
    assert_eq!(server.get(&format!("/api/checkpoints/{cp}")).await.status, 200);
}
