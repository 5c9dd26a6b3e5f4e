//! Retention: by default, for one checkpoint, never, and pinned.

use crate::{
    kit::{told, until, verified},
    support::{Answer, Server},
};
use serde_json::{Value, json};

fn gone(answer: &Answer) -> bool {
    answer.status == 404
}

async fn keep(server: &Server, id: &str, body: Value) -> Answer {
    server.call_as(&server.key, reqwest::Method::PATCH, &format!("/checkpoints/{id}"), Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_is_due_is_removed_and_nothing_that_came_of_it() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 2000000 /dev/urandom > f; md5sum f > sum").await;
    let make = |body: Value| verified(&server, &sb, body);
    let usual = make(json!({ "name": "usual" })).await;
    let ever = make(json!({ "name": "ever", "retention_seconds": 0 })).await;
    let pinned = make(json!({ "name": "pinned", "pinned": true })).await;
    let short = make(json!({ "name": "short", "retention_seconds": 3600 })).await;
    let clone = server.post(&format!("/checkpoints/{short}/clone"), json!({ "name": "clone" })).await.ok();
    let fork = server.sandbox_with(json!({ "checkpoint_id": short })).await;
    let late = make(json!({ "name": "late", "retention_seconds": 3600 })).await;

    // 90 days unless something else is asked for.
    let lives = |one: &Value| {
        let time = |field: &str| one[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        time("expires_at").duration_since(time("created_at")).as_secs()
    };
    assert_eq!(lives(&told(&server, &usual).await), 90 * 24 * 3600);
    assert_eq!(lives(&told(&server, &short).await), 3600);
    assert_eq!((lives(&clone), &clone["pinned"]), (90 * 24 * 3600, &json!(false)));
    assert_eq!(told(&server, &ever).await["expires_at"], Value::Null);
    let pin = told(&server, &pinned).await;
    assert_eq!((&pin["pinned"], &pin["expires_at"]), (&json!(true), &Value::Null));

    // All but one are due, and two of those are pinned by then.
    assert_eq!(keep(&server, &late, json!({ "pinned": true })).await.ok()["expires_at"], Value::Null);
    for id in [&late, &pinned, &short] {
        keep(&server, id, json!({ "retention_seconds": 1 })).await.ok();
    }
    until(&server, &short, gone).await;
    let listed = server.get("/checkpoints").await.ok()["checkpoints"].clone();
    let mut names: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["clone", "ever", "late", "pinned", "usual"]);
    // Its time is over and it is still there: it goes when it is due and not pinned any more.
    keep(&server, &late, json!({ "pinned": false, "retention_seconds": 1 })).await.ok();
    until(&server, &late, gone).await;
    // Taken off without more, retention begins anew.
    let unpinned = keep(&server, &pinned, json!({ "pinned": false })).await.ok();
    assert_eq!((&unpinned["pinned"], lives(&unpinned) >= 90 * 24 * 3600), (&json!(false), true), "{unpinned}");

    let whole = "md5sum -c sum";
    server.sh(&sb, whole).await;
    server.sh(&fork, whole).await;
    let from_clone = server.sandbox_with(json!({ "checkpoint_id": clone["id"] })).await;
    server.sh(&from_clone, whole).await;
    server.restore(&sb, &usual).await;
    server.sh(&sb, whole).await;
    // The vault has forgotten both, too.
    let names = |id: &str| {
        crate::kit::files_of(&server.data_dir().join("vault")).iter().any(|file| file.to_string_lossy().ends_with(id))
    };
    assert!(!names(&short) && !names(&late) && names(&usual) && names(&pinned));

    for (body, field) in [
        (json!({ "retention_seconds": -1 }), "retention_seconds"),
        (json!({ "retention_seconds": 9_999_999_999_u64 }), "retention_seconds"),
        (json!({ "retention_seconds": "soon" }), "retention_seconds"),
        (json!({ "keep": true }), "keep"),
    ] {
        let refused = keep(&server, &usual, body).await;
        assert!(refused.status == 400 && refused.body.to_string().contains(field), "{refused:?}");
    }
    let strange = server.register("Stranger").await;
    let path = format!("/checkpoints/{usual}");
    let body = Some(json!({ "pinned": true }));
    server.call_as(&strange, reqwest::Method::PATCH, &path, body).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_due_while_no_server_ran_goes_at_the_next_start() {
    let mut server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > f").await;
    let due = server.checkpoint(&sb, json!({ "name": "due", "retention_seconds": 2 })).await;
    let stays = server.checkpoint(&sb, json!({ "name": "stays" })).await;
    server.kill();
    server.launch().await;
    until(&server, &due, gone).await;
    assert_eq!(told(&server, &stays).await["name"], "stays");
    server.restore(&sb, &stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_gives_back_what_only_that_checkpoint_needed() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "head -c 3000000 /dev/urandom > shared").await;
    let first = verified(&server, &sb, json!({ "name": "first" })).await;
    server.sh(&sb, "head -c 2000000 /dev/urandom > own").await;
    let second = verified(&server, &sb, json!({ "name": "second" })).await;
    let counted = |answer: &Answer| answer.body["stored_bytes"].is_u64();
    let owns = |answer: &Answer| answer.body["stored_bytes"].as_u64().unwrap();
    until(&server, &first, counted).await;
    // What both need is nobody's own; what only the second has is its own.
    let own = until(&server, &second, |answer| counted(answer) && owns(answer) > 1_900_000).await;
    assert!(owns(&own) < 2_200_000 && own.body["vault"]["total_bytes"].as_u64().unwrap() > 4_900_000, "{own:?}");
    assert!(owns(&until(&server, &first, |answer| counted(answer) && owns(answer) < 100_000).await) < 100_000);

    let packs = || -> u64 {
        let files = crate::kit::files_of(&server.data_dir().join("vault/orgs"));
        files.iter().map(|file| file.metadata().unwrap().len()).sum()
    };
    let before = packs();
    server.delete(&format!("/checkpoints/{second}")).await.ok();
    // The first one has the shared file for itself now.
    until(&server, &first, |answer| counted(answer) && owns(answer) > 2_900_000).await;
    let collected = crate::kit::vault(&server, &["gc"]);
    assert!(collected.status.success(), "{collected:?}");
    assert!(before - packs() > 1_900_000, "{before} then {}", packs());
    let fork = server.sandbox_with(json!({ "checkpoint_id": first })).await;
    assert_eq!(server.sh(&fork, "stat -c %s shared; test ! -e own").await, "3000000\n");
}
