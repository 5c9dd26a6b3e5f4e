//! Layers on this machine within their budget, and back when they are needed.

use crate::{
    kit::{files_of, told, until, verified},
    support::{Answer, Server},
};
use serde_json::json;

fn is_local(answer: &Answer) -> bool {
    answer.body["vault"]["local"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_layers_go_least_recently_used_first_and_others_stay() {
    let server = Server::start_with(&[("hot_layer_bytes", "7000000")]).await;
    let sb = server.sandbox().await;
    let make = async |name: &str| {
        server.sh(&sb, "head -c 3000000 /dev/urandom > f").await;
        let id = verified(&server, &sb, json!({ "name": name })).await;
        (server.sh(&sb, "md5sum f").await, id)
    };
    let ((sum_one, one), (_, two)) = (make("one").await, make("two").await);
    assert!(is_local(&server.get(&format!("/checkpoints/{one}")).await), "both fit");
    // The older one is used last.
    let fork = server.sandbox_with(json!({ "checkpoint_id": one })).await;
    let (_, three) = make("three").await;
    until(&server, &two, |answer| !is_local(answer)).await;
    for id in [&one, &three] {
        assert!(is_local(&server.get(&format!("/checkpoints/{id}")).await), "{id}");
    }
    // It comes back when it is needed, and what was used longest ago goes for it.
    let again = server.sandbox_with(json!({ "checkpoint_id": two })).await;
    until(&server, &one, |answer| !is_local(answer)).await;
    assert!(is_local(&server.get(&format!("/checkpoints/{two}")).await));
    assert_eq!(server.sh(&fork, "md5sum f").await, sum_one);
    server.sh(&again, "test -s f").await;
    server.restore(&again, &one).await;
    assert_eq!(server.sh(&again, "md5sum f").await, sum_one);

    let metrics = server.client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(
        value("forkpoint_hot_layers_evicted_total") >= 2.0 && value("forkpoint_hot_layers_brought_back_total") >= 2.0
    );
    assert!(value("forkpoint_vault_checkpoints_total{state=\"verified\"}") >= 3.0);
    assert!(value("forkpoint_vault_sent_bytes_total") > 8_900_000.0, "{metrics}");
    assert!(value("forkpoint_vault_queue{state=\"failed\"}") == 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_stored_stays_says_why_and_is_stored_when_asked_again() {
    let mut server = Server::start_with(&[("hot_layer_bytes", "0")]).await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > f").await;
    let first = verified(&server, &sb, json!({ "name": "first" })).await;
    until(&server, &first, |answer| !is_local(answer)).await;
    // The store breaks: its key of the organisation is damaged.
    server.stop();
    let store = server.data_dir().join("vault/orgs");
    let key = std::fs::read_dir(&store).unwrap().next().unwrap().unwrap().path().join("key");
    let good = std::fs::read(&key).unwrap();
    crate::kit::damage(&key);
    server.launch().await;
    server.sh(&sb, "echo 2 > f").await;
    let body = json!({ "name": "second", "wait": "verified" });
    let second = server.post(&format!("/sandbox/{sb}/checkpoints"), body).await.ok();
    assert_eq!((&second["status"], &second["durability"]), (&json!("ready"), &json!("failed")), "{second}");
    assert!(second["durability_reason"].as_str().unwrap().contains("/key is damaged"), "{second}");
    let id = second["id"].as_str().unwrap();
    // No budget takes it away, and it can be used.
    let now = told(&server, id).await;
    assert_eq!(now["vault"]["local"], true, "{now}");
    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.refused(409, "checkpoint_not_verified");
    let fork = server.sandbox_with(json!({ "checkpoint_id": id })).await;
    assert_eq!(server.sh(&fork, "cat f").await, "2\n");
    let retry = format!("/checkpoints/{id}/retry");
    let failed = server.post(&retry, json!({ "wait": "verified" })).await.ok();
    assert_eq!(failed["durability"], "failed", "{failed}");

    // The store is well again.
    std::fs::write(&key, good).unwrap();
    let stored = server.post(&retry, json!({ "wait": "verified" })).await.ok();
    assert_eq!((&stored["durability"], &stored["durability_reason"]), (&json!("verified"), &json!(null)), "{stored}");
    server.post(&retry, json!({})).await.refused(409, "checkpoint_not_failed");
    until(&server, id, |answer| !is_local(answer)).await;
    server.restore(&fork, id).await;
    assert_eq!(server.sh(&fork, "cat f").await, "2\n");
    server.restore(&fork, &first).await;
    assert_eq!(server.sh(&fork, "cat f").await, "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_what_is_not_here_is_stored_under_its_own_name() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > f").await;
    let origin = verified(&server, &sb, json!({ "name": "origin" })).await;
    crate::kit::evict(&server, &origin).await;
    let clone = server.post(&format!("/checkpoints/{origin}/clone"), json!({ "name": "clone" })).await.ok();
    let id = clone["id"].as_str().unwrap();
    until(&server, id, |answer| answer.body["durability"] == "verified").await;
    server.delete(&format!("/checkpoints/{origin}")).await.ok();
    crate::kit::evict(&server, id).await;
    server.restore(&sb, id).await;
    assert_eq!(server.sh(&sb, "cat f").await, "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_stays_when_the_vault_does_not_have_it_or_is_damaged() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > f").await;
    let id = verified(&server, &sb, json!({ "name": "one" })).await;
    let store = server.data_dir().join("vault/orgs");
    let record = files_of(&store).into_iter().find(|file| file.ends_with(&id)).unwrap();
    std::fs::remove_file(&record).unwrap();
    // As if the server had been given another vault: it is stored again, and may go then.
    let evict = format!("/checkpoints/{id}/evict");
    server.post(&evict, json!({})).await.refused(409, "operation_in_progress");
    assert!(is_local(&server.get(&format!("/checkpoints/{id}")).await));
    until(&server, &id, |answer| answer.body["durability"] == "verified").await;
    assert!(record.exists());
    // Damage of what another checkpoint needs keeps this one here, until it is mended.
    server.sh(&sb, "head -c 3000000 /dev/urandom > g").await;
    let other = verified(&server, &sb, json!({ "name": "two" })).await;
    let pack = files_of(&store)
        .into_iter()
        .filter(|file| file.parent().unwrap().ends_with("packs"))
        .max_by_key(|file| file.metadata().unwrap().len())
        .unwrap();
    let good = std::fs::read(&pack).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 3] ^= 1;
    std::fs::write(&pack, &bad).unwrap();
    server.post(&format!("/checkpoints/{other}/verify"), json!({})).await.refused(409, "checkpoint_damaged");
    server.post(&evict, json!({})).await.refused(409, "operation_in_progress");
    assert!(is_local(&server.get(&format!("/checkpoints/{id}")).await));
    std::fs::write(&pack, &good).unwrap();
    crate::kit::evict(&server, &id).await;
    server.restore(&sb, &id).await;
    assert_eq!(server.sh(&sb, "cat f; test -e g || echo gone").await, "1\ngone\n");
}
