//! Sandboxes: what they look like, what can be asked for, and the rest of their life.

use crate::harness::{Server, assert_time};
use axum::http::Method;
use forkpoint_domain::sandbox::StopReason;
use forkpoint_engine::ports::runtime::RuntimeError;
use serde_json::{Value, json};

#[tokio::test]
async fn a_new_sandbox_has_every_field_that_clients_read() {
    let server = Server::new().await;
    let body = json!({"cpus": "500m", "memory": "512Mi", "timeout_seconds": 300, "env": {"A": "b"}, "metadata": {"k": "v"},
                      "isolation": "container", "org_id": "org_1", "session_id": "s", "name": "n"});
    let answer = server.post("/api/v1/sandbox/create", body).await;
    assert_eq!(answer.status, 201);
    let made = answer.json();
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("sb-"));
    assert_eq!(made["sandbox_id"], made["id"]);
    assert_eq!(made["session_id"].as_str().unwrap(), format!("sess-{}", &id[3..]));
    assert!(made["org_id"].as_str().unwrap().starts_with("org_"));
    for (field, expected) in [
        ("status", json!("running")),
        ("state", json!("running")),
        ("template", json!("default")),
        ("template_digest", json!("0123abcd")),
        ("cpus", json!("500m")),
        ("memory", json!("512Mi")),
        ("disk_bytes", json!(10_737_418_240_u64)),
        ("pids", json!(1024)),
        ("metadata", json!({"k": "v"})),
        ("forked_from", Value::Null),
        ("based_on", Value::Null),
        ("stop_reason", Value::Null),
        ("failure", Value::Null),
    ] {
        assert_eq!(made[field], expected, "{field}");
    }
    for field in ["created_at", "ready_at", "expires_at"] {
        assert_time(&made[field]);
    }
    assert!(made["startup_ms"].is_u64() && made["pod_ip"].is_string());
    assert!(made.get("sandboxes").is_none());
    assert_eq!(server.get(&format!("/api/v1/sandbox/{id}")).await.json(), made);
}

#[tokio::test]
async fn nothing_asked_for_gives_the_defaults_on_both_paths() {
    let server = Server::new().await;
    for (path, body) in [("/api/v1/sandbox", "{}"), ("/api/v1/sandbox", ""), ("/api/v1/sandbox/create", "  {}\n")] {
        let answer = server.call(Method::POST, path, body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = answer.json();
        assert_eq!((&made["cpus"], &made["memory"]), (&json!("1"), &json!("1Gi")));
    }
    assert_eq!(server.get("/api/v1/sandboxes").await.json()["sandboxes"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn numbers_and_camel_case_are_taken_too() {
    let server = Server::new().await;
    let made = server
        .post(
            "/api/v1/sandbox",
            json!({"cpus": 0.5, "memory": 536_870_912, "timeoutSeconds": 60, "templateId": "base"}),
        )
        .await
        .json();
    assert_eq!(
        (&made["cpus"], &made["memory"], &made["template"]),
        (&json!("500m"), &json!("512Mi"), &json!("default"))
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_naming_the_field() {
    let server = Server::new().await;
    for (body, field) in [
        (json!({"cpus": "lots"}), "cpus"),
        (json!({"cpus": 0}), "cpus"),
        (json!({"cpus": true}), "cpus"),
        (json!({"memory": "1Xi"}), "memory"),
        (json!({"memory": 5}), "memory"),
        (json!({"memory": []}), "memory"),
        (json!({"timeout_seconds": 0}), "timeout_seconds"),
        (json!({"timeout_seconds": 1e300}), "timeout_seconds"),
        (json!({"timeout_seconds": "60"}), "timeout_seconds"),
        (json!({"timeout_seconds": 60, "timeoutSeconds": 60}), "timeout_seconds"),
        (json!({"env": {"A": 1}}), "env.A"),
        (json!({"env": {"": "x"}}), "env"),
        (json!({"env": {"A=B": "x"}}), "env"),
        (json!({"env": "A=B"}), "env"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"metadata": {"a": "x".repeat(10_300)}}), "metadata"),
        (json!({"template": "nothing"}), "template"),
        (json!({"template": "../x"}), "template"),
        (json!({"checkpoint_id": "nope"}), "checkpoint_id"),
        (json!({"count": 0}), "count"),
        (json!({"count": -1}), "count"),
        (json!({"count": 101}), "count"),
        (json!({"image": "ubuntu"}), "image"),
        (json!({"desktop_os": "linux"}), "desktop_os"),
        (json!({"tempalte": "x"}), "tempalte"),
    ] {
        let answer = server.post("/api/v1/sandbox", body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        answer.refuses_field(field);
    }
    let message = server.post("/api/v1/sandbox", json!({"memory": true})).await.refuses_field("memory");
    assert!(message.contains("expected a string like \"1Gi\""), "{message}");
    assert_eq!(server.test.runtime.running_count(), 0);
    assert_eq!(server.get("/api/v1/sandboxes").await.json(), json!({"sandboxes": []}));
}

#[tokio::test]
async fn other_isolations_are_refused_naming_what_there_is() {
    let server = Server::new().await;
    let answer = server.post("/api/v1/sandbox", json!({"isolation": "microvm"})).await;
    answer.refused(409, "isolation_unavailable");
    assert_eq!(answer.json()["error"]["details"]["available"], json!(["container"]));
}

#[tokio::test]
async fn several_are_made_at_once() {
    let server = Server::new().await;
    let made = server.post("/api/v1/sandbox", json!({"count": 3})).await;
    assert_eq!(made.status, 201);
    let made = made.json();
    let all = made["sandboxes"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(made["id"], all[0]["id"]);
    assert_ne!(all[1]["id"], all[2]["id"]);
}

#[tokio::test]
async fn a_life_from_running_to_gone() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let at = |rest: &str| format!("/api/v1/sandbox/{id}{rest}");
    server.write(&id, "/workspace/a", "kept").await;

    let stopped = server.call(Method::POST, &at("/stop"), "").await.json();
    assert_eq!(
        (&stopped["success"], &stopped["status"], &stopped["state"], &stopped["stop_reason"]),
        (&json!(true), &json!("terminated"), &json!("stopped"), &json!("requested"))
    );
    assert_eq!(stopped["pod_ip"], Value::Null);
    assert_eq!(server.call(Method::POST, &at("/stop"), "").await.status, 200);
    for (path, body) in [
        ("/execute", json!({"command": "true"})),
        ("/checkpoints", json!({"name": "x"})),
        ("/extend", json!({"additional_seconds": 1})),
        ("/fork", json!({})),
    ] {
        server.post(&at(path), body).await.refused(409, "sandbox_not_running");
    }
    server.get(&at("/files?path=/workspace/a")).await.refused(409, "sandbox_not_running");

    let started = server.call(Method::POST, &at("/start"), "").await;
    assert_eq!((started.status, started.json()["status"].clone()), (200, json!("running")));
    assert_eq!(server.read(&id, "/workspace/a").await.as_deref(), Some("kept"));

    assert_eq!(server.delete(&at("")).await.json(), json!({"success": true}));
    server.get(&at("")).await.refused(404, "not_found");
    server.delete(&at("")).await.refused(404, "not_found");
    server.post(&at("/execute"), json!({"command": "true"})).await.refused(404, "not_found");
}

#[tokio::test]
async fn status_tells_how_long_it_may_live() {
    let server = Server::new().await;
    let id = server.post("/api/v1/sandbox", json!({"timeout_seconds": 600})).await.text_at("/id");
    let status = server.get(&format!("/api/v1/sandbox/{id}/status")).await.json();
    assert_eq!(
        (&status["sandbox_id"], &status["status"], &status["state"]),
        (&json!(id), &json!("running"), &json!("running"))
    );
    assert_time(&status["expires_at"]);
    assert_time(&status["max_expires_at"]);
    assert_eq!(status["max_lifetime_seconds"], 2_592_000);
    let remaining = status["remaining_extend_seconds"].as_i64().unwrap();
    assert!((2_591_300..=2_591_460).contains(&remaining), "{remaining}");
    assert!(status["lifetime_used_seconds"].as_i64().unwrap() < 60);
    assert!((0.0..=10.0).contains(&status["lifetime_used_percent"].as_f64().unwrap()));

    let extended = server.post(&format!("/api/v1/sandbox/{id}/extend"), json!({"additional_seconds": 60})).await;
    assert_eq!(extended.status, 200);
    let end = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let (before, after) = (end(status["expires_at"].as_str().unwrap()), end(&extended.text_at("/expires_at")));
    assert_eq!(after.duration_since(before).as_secs(), 60);
    // The latest end is a fact of the sandbox: neither time nor extending moves it, and it can be reached.
    server.test.clock.advance(jiff::SignedDuration::from_secs(100));
    let later = server.get(&format!("/api/v1/sandbox/{id}/status")).await.json();
    assert_eq!(later["max_expires_at"], status["max_expires_at"]);
    let rest = later["remaining_extend_seconds"].as_i64().unwrap();
    let extend = |seconds: i64| {
        server.post(&*format!("/api/v1/sandbox/{id}/extend").leak(), json!({"additional_seconds": seconds}))
    };
    extend(rest + 1).await.refuses_field("additional_seconds");
    assert_eq!(extend(rest).await.status, 200);
    let last = server.get(&format!("/api/v1/sandbox/{id}/status")).await.json();
    let seconds = |status: &Value, field: &str| end(status[field].as_str().unwrap()).as_second();
    assert_eq!(last["max_expires_at"], status["max_expires_at"]);
    assert!(seconds(&last, "max_expires_at") - seconds(&last, "expires_at") <= 1, "{last}");
    for (body, field) in [
        (json!({}), "additional_seconds"),
        (json!({"additional_seconds": 0}), "additional_seconds"),
        (json!({"additional_seconds": "5"}), "additional_seconds"),
    ] {
        server.post(&format!("/api/v1/sandbox/{id}/extend"), body).await.refuses_field(field);
    }
}

#[tokio::test]
async fn a_sandbox_that_ended_by_itself_says_why() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let reconcilers = server.test.platform.start_reconcilers("host".into(), "127.0.0.1:1".into());
    server.test.runtime.kill(id.parse().unwrap(), StopReason::OutOfMemory);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let seen = loop {
        let seen = server.get(&format!("/api/v1/sandbox/{id}")).await.json();
        if seen["state"] == "stopped" || tokio::time::Instant::now() > deadline {
            break seen;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&seen["status"], &seen["stop_reason"]), (&json!("terminated"), &json!("out_of_memory")));
    drop(reconcilers);
}

#[tokio::test]
async fn forks_are_new_sandboxes_with_the_same_files() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    server.write(&id, "/workspace/a", "one").await;
    let answer = server
        .post(
            &format!("/api/v1/sandbox/{id}/fork"),
            json!({"count": 2, "timeout_seconds": 60, "checkpoint_name": "between"}),
        )
        .await;
    assert_eq!(answer.status, 201);
    let made = answer.json();
    assert_eq!(made["parent_id"], json!(id));
    assert_eq!(made["forks"].as_array().unwrap().len(), 2);
    assert_eq!(made["forked_id"], made["forks"][0]["forked_id"]);
    assert_eq!(made["forks"][0]["forked_from"], made["checkpoint_id"]);
    let fork = made["forks"][1]["forked_id"].as_str().unwrap();
    assert_eq!(server.read(fork, "/workspace/a").await.as_deref(), Some("one"));
    server.write(fork, "/workspace/a", "two").await;
    assert_eq!(server.read(&id, "/workspace/a").await.as_deref(), Some("one"));
    let checkpoint = made["checkpoint_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/checkpoints/{checkpoint}")).await.json()["name"], "between");
    server.post(&format!("/api/v1/sandbox/{id}/fork"), json!({"count": 0})).await.refuses_field("count");
    assert_eq!(server.call(Method::POST, &format!("/api/v1/sandbox/{id}/fork"), "").await.status, 201);
}

#[tokio::test]
async fn a_host_that_cannot_is_503_or_507_and_nothing_is_left() {
    let server = Server::new().await;
    for (error, status, code) in [
        (RuntimeError::NoCapacity("no slot is free".into()), 503, "unavailable"),
        (RuntimeError::NoSpace("layers".into()), 507, "out_of_space"),
        (RuntimeError::Failed { step: "mount overlay", problem: "/secret/path: broken".into() }, 503, "unavailable"),
    ] {
        server.test.runtime.fail_next([error]);
        let answer = server.post("/api/v1/sandbox", json!({})).await;
        let message = answer.refused(status, code);
        assert!(!message.contains("/secret/path"), "{message}");
        assert_eq!(answer.header("retry-after"), "1");
    }
    server.test.platform.drain().await;
    assert_eq!((server.test.runtime.running_count(), server.test.runtime.layer_count()), (0, 0));
    assert_eq!(server.get("/api/v1/sandboxes").await.json(), json!({"sandboxes": []}));
}

#[tokio::test]
async fn a_fork_that_is_sent_again_and_fails_takes_nothing_from_the_first_one() {
    let server = Server::new().await;
    let id = server.sandbox().await;
    let send = || {
        let (path, key) = (format!("/api/v1/sandbox/{id}/fork"), [("idempotency-key", "again")]);
        async move { (path, key) }
    };
    let fork = async || {
        let (path, key) = send().await;
        server.call_with(Method::POST, &path, &key, json!({ "count": 1 }).to_string()).await
    };
    let first = fork().await;
    assert_eq!(first.status, 201, "{first:?}");
    let (checkpoint, forked) = (first.text_at("/checkpoint_id"), first.text_at("/forked_id"));
    assert_eq!(server.delete(&format!("/api/v1/sandbox/{forked}")).await.status, 200);
    // The fork is gone, so another is to be made, and there is no room for it.
    server.test.runtime.fail_next([RuntimeError::NoSpace("layers".into())]);
    assert_eq!(fork().await.status, 507);
    let still = server.get(&format!("/api/v1/checkpoints/{checkpoint}")).await;
    assert_eq!((still.status, still.text_at("/status")), (200, "ready".into()));
    let last = fork().await;
    assert_eq!((last.status, last.text_at("/checkpoint_id")), (201, checkpoint));
}
