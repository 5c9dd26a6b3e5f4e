//! Sandboxes together may take only so much of the host: what is beyond is refused before anything is done.

use crate::{
    host,
    support::{Answer, Server},
    world::SETTLED,
};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// Refused for want of means; gives the message.
#[track_caller]
fn without_means(answer: Answer) -> String {
    answer.refused(503, "unavailable")["message"].as_str().unwrap().to_owned()
}

async fn events(server: &Server) -> usize {
    host::listed(server).await.1.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_budget_is_refused_before_any_effect_and_fits_again_when_there_is_room() {
    let budget = (3 * GIB).to_string();
    let settings = [("memory_budget_bytes", budget.as_str()), ("memory_overcommit", "1"), ("max_sandboxes", "4")];
    let mut server = Server::start_with(&settings).await;
    let create = async |server: &Server, memory: &str, count: u32| -> Answer {
        server.post("/sandbox/create", json!({ "memory": memory, "count": count })).await
    };
    let first = server.sandbox_with(json!({ "memory": "1Gi" })).await;
    let second = server.sandbox_with(json!({ "memory": "1Gi" })).await;

    // Memory.
    let message = without_means(create(&server, "2Gi", 1).await);
    assert!(
        message.contains(&format!("{GIB} bytes of memory left to promise, and {} are asked for", 2 * GIB)),
        "{message}"
    );
    without_means(create(&server, "1Gi", 2).await);
    let forked = server.post(&format!("/sandbox/{first}/fork"), json!({ "count": 2 })).await;
    without_means(forked);
    assert_eq!(events(&server).await, 2);
    host::nothing_leaks(&server, SETTLED).await;

    // Places.
    let third = server.sandbox_with(json!({ "memory": "64Mi" })).await;
    let message = without_means(create(&server, "64Mi", 2).await);
    assert!(message.contains("room for 1 more running sandboxes, and 2 are asked for"), "{message}");
    let fourth = server.sandbox_with(json!({ "memory": "64Mi" })).await;
    without_means(create(&server, "64Mi", 1).await);

    // Another server on the directory counts what it takes over.
    server.kill();
    server.launch().await;
    let message = without_means(create(&server, "64Mi", 1).await);
    assert!(message.contains("4 of at most 4 run"), "{message}");

    // Who is stopped gives back; who starts again asks again.
    server.post(&format!("/sandbox/{third}/stop"), json!({})).await.ok();
    let fifth = server.sandbox_with(json!({ "memory": "64Mi" })).await;
    without_means(server.post(&format!("/sandbox/{third}/start"), json!({})).await);
    assert_eq!(server.get(&format!("/sandbox/{third}")).await.ok()["state"], "stopped");
    for id in [&fourth, &fifth, &second] {
        server.delete(&format!("/sandbox/{id}")).await.ok();
    }
    server.post(&format!("/sandbox/{third}/start"), json!({})).await.ok();
    assert_eq!(server.sh(&third, "echo here").await, "here\n");
    create(&server, "1Gi", 1).await.ok();

    // A restore takes nothing more.
    let checkpoint = server.checkpoint(&first, json!({ "name": "full" })).await;
    server.restore(&first, &checkpoint).await;

    // The host's own memory.
    server.stop();
    server.set("host_memory_reserve_bytes", &(1_u64 << 50).to_string());
    server.launch().await;
    let message = without_means(create(&server, "64Mi", 1).await);
    assert!(message.contains("bytes of memory available") && message.contains("are kept free"), "{message}");
    assert_eq!(server.sh(&first, "echo goes on").await, "goes on\n");
    host::nothing_leaks(&server, SETTLED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_get_more_than_there_is() {
    let server = Server::start_with(&[("max_sandboxes", "5")]).await;
    let body = json!({ "memory": "64Mi" });
    let asked = (0..12).map(|_| server.post("/sandbox/create", body.clone()));
    let answers = futures::future::join_all(asked).await;
    let made: Vec<&Value> = answers.iter().filter(|one| one.status.is_success()).map(|one| &one.body).collect();
    assert_eq!(made.len(), 5);
    assert!(answers.iter().all(|one| one.status.is_success() || one.status.as_u16() == 503), "{answers:?}");
    for one in made {
        server.delete(&format!("/sandbox/{}", one["id"].as_str().unwrap())).await.ok();
    }
    assert_eq!(server.post("/sandbox/create", json!({ "count": 5, "memory": "64Mi" })).await.status.as_u16(), 201);
    host::nothing_leaks(&server, SETTLED).await;
}
