//! Forking many at once: all or none, or as many as there is room for.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::process::Command;
use support::Server;

async fn ids(server: &Server, path: &str, list: &str) -> Vec<String> {
    let answer = server.get(path).await.ok();
    answer[list].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_forks_are_made_by_one_request_and_listed_in_one_answer() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "memory": "64Mi" })).await;
    server.sh(&sb, "echo same > f").await;
    let forked = server.post(&format!("/sandbox/{sb}/fork"), json!({ "count": 20 })).await.ok();
    let forks = forked["forks"].as_array().unwrap();
    let distinct: std::collections::BTreeSet<_> = forks.iter().map(|one| one["forked_id"].as_str().unwrap()).collect();
    assert_eq!((forks.len(), distinct.len(), &forked["failed"]), (20, 20, &Value::Null));
    for id in distinct {
        assert_eq!(server.sh(id, "cat f").await, "same\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_room_runs_out_nothing_is_made_or_as_much_as_fits() {
    let server = Server::start_with(&[("max_sandboxes", "4")]).await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo same > f").await;
    let path = format!("/sandbox/{sb}/fork");
    let refused = server.post(&path, json!({ "count": 5 })).await.refused(503, "unavailable");
    assert!(refused["message"].as_str().unwrap().contains("room for 3 more running sandboxes, and 5 are asked for"));
    assert_eq!(ids(&server, "/sandboxes", "sandboxes").await, std::slice::from_ref(&sb));
    assert!(ids(&server, "/checkpoints", "checkpoints").await.is_empty());
    server.owns(&[("cgroups", 1), ("layers", 1)]).await;

    let forked = server.post(&path, json!({ "count": 5, "partial": true })).await.ok();
    let (forks, failed) = (forked["forks"].as_array().unwrap(), forked["failed"].as_array().unwrap());
    assert_eq!((forks.len(), failed.len()), (3, 2), "{forked}");
    for one in failed {
        assert_eq!(one["error"]["code"], "unavailable", "{one}");
        assert!(one["index"].as_u64().unwrap() < 5);
    }
    for one in forks {
        assert_eq!(server.sh(one["forked_id"].as_str().unwrap(), "cat f").await, "same\n");
    }
    server.owns(&[("cgroups", 4), ("layers", 5)]).await;
    // None at all is a refusal, and leaves no checkpoint.
    server.post(&path, json!({ "count": 2, "partial": true })).await.refused(503, "unavailable");
    assert_eq!(ids(&server, "/checkpoints", "checkpoints").await.len(), 1);
    server.owns(&[("cgroups", 4), ("layers", 5)]).await;

    server.delete(&format!("/sandbox/{}", forks[0]["forked_id"].as_str().unwrap())).await.ok();
    let output = Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(["fork", &sb, "--count", "2", "--partial"])
        .env("FORKPOINT_URL", &server.url)
        .env("FORKPOINT_KEY", &server.key)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("was not made: this host has room for 0 more"));
    for body in [json!({ "count": 0 }), json!({ "count": 101 }), json!({ "count": 2, "partial": 1 })] {
        server.post(&path, body).await.refused(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_fork_that_is_sent_again_makes_what_is_missing() {
    let server = Server::start_with(&[("max_sandboxes", "3")]).await;
    let sb = server.sandbox().await;
    let send = async || {
        let request = server.client.post(format!("{}/api/v1/sandbox/{sb}/fork", server.url));
        let request = request.header("Authorization", format!("ApiKey {}", server.key)).header("Idempotency-Key", "k");
        let answer = request.json(&json!({ "count": 3, "partial": true })).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let first = send().await;
    assert_eq!(
        (first["forks"].as_array().unwrap().len(), first["failed"].as_array().unwrap().len()),
        (2, 1),
        "{first}"
    );
    let second = send().await;
    let fork_ids = |answer: &Value| {
        let mut ids: Vec<_> =
            answer["forks"].as_array().unwrap().iter().map(|one| one["forked_id"].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(fork_ids(&second), fork_ids(&first), "what was made is not made again");
    assert_eq!(second["checkpoint_id"], first["checkpoint_id"]);
}
