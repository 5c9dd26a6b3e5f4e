//! Checkpoints, restores, forks, clones and comparisons through HTTP, with real sandboxes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_back_exactly_what_was_captured() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "COLOR": "blue" } })).await;
    server
        .sh(&sb, "mkdir -p d/e && echo one > a && printf x > d/e/f && ln -s a link && ln a hard && chmod 751 d && mkfifo pipe && touch -d 2001-02-03 old")
        .await;
    server.root(&sb, "rm -rf /usr/share/doc /opt && mv /srv /srv2 && echo changed >> /etc/motd").await;
    let before = server.root(&sb, LISTING).await;
    let checkpoint = server.post(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": "all" })).await.ok();
    assert_eq!((&checkpoint["status"], &checkpoint["checksum"]), (&json!("ready"), &json!("")));
    assert!(checkpoint["pause_ms"].as_f64().unwrap() > 0.0);

    server.sh(&sb, "echo BROKEN > a && rm -r d link pipe && mkdir link && echo new > added").await;
    server.root(&sb, "mkdir -p /opt /srv && echo more > /opt/x && rm /etc/motd").await;
    server.restore(&sb, checkpoint["id"].as_str().unwrap()).await;
    assert_eq!(server.root(&sb, LISTING).await, before);
    assert_eq!(server.sh(&sb, "cat a; echo changed >> hard; cat a; echo $COLOR").await, "one\none\nchanged\nblue\n");
    // The same again, from the same checkpoint: it was not used up.
    server.restore(&sb, checkpoint["id"].as_str().unwrap()).await;
    assert_eq!(server.root(&sb, LISTING).await, before);
}

/// Everything outside the kernel's own trees, with types, modes, owners, sizes, times, targets and link counts of new files.
const LISTING: &str = "cd /; find etc workspace app home opt srv srv2 usr/share var -xdev \
    \\( -path etc/hosts -o -path etc/hostname -o -path etc/resolv.conf -o -path etc/machine-id \\) -prune -o \
    -printf '%p %y %m %U:%G %l ' \\( -type d -printf '\\n' -o -printf '%s %T@\\n' \\) 2>/dev/null | sort; \
    find etc workspace -xdev -type f ! -name machine-id ! -name hostname ! -name hosts ! -name resolv.conf | sort | xargs md5sum";

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_sandbox_has_an_empty_set_and_a_scope_limits_it() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let fresh = server.post(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": "fresh" })).await.ok();
    assert_eq!((&fresh["file_count"], &fresh["size_bytes"]), (&json!(0), &json!(0)));
    server.sh(&sb, "mkdir -p src logs node_modules/x && echo 12345 > src/a && echo 1 > logs/x.log && echo 2 > top.log && head -c 1000 /dev/zero > node_modules/x/big").await;
    for (scope, files, bytes) in [
        (json!({}), 4, 6 + 2 + 2 + 1000),
        (json!({ "include_paths": ["/workspace/src"] }), 1, 6),
        (json!({ "exclude_paths": ["/workspace/node_modules", "/workspace/*.log"] }), 2, 8),
        (json!({ "include_paths": ["/workspace"], "exclude_paths": ["/workspace/**/*.log"] }), 2, 1006),
        (json!({ "include_paths": ["/nowhere"] }), 0, 0),
    ] {
        let mut body = json!({ "name": "scoped" });
        body.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
        let made = server.post(&format!("/sandbox/{sb}/checkpoints"), body).await.ok();
        assert_eq!(
            (&made["file_count"], &made["size_bytes"], &made["size"]),
            (&json!(files), &json!(bytes), &json!(bytes)),
            "{scope}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_touches_only_the_scope() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "mkdir src cache && echo 1 > src/a && echo 1 > cache/c && echo 1 > other").await;
    let only_src = server.checkpoint(&sb, json!({ "name": "src", "include_paths": ["/workspace/src"] })).await;
    let no_cache = server.checkpoint(&sb, json!({ "name": "nc", "exclude_paths": ["/workspace/cache"] })).await;
    let all = server.checkpoint(&sb, json!({ "name": "all" })).await;
    let change = "echo 2 > src/a; echo 2 > src/b; echo 2 > cache/c; echo 2 > cache/d; echo 2 > other; echo 2 > added";
    let show = "cd /workspace; for f in $(find . -type f | sort); do echo -n \"$f=$(cat $f) \"; done";

    server.sh(&sb, change).await;
    server.restore(&sb, &only_src).await;
    assert_eq!(server.sh(&sb, show).await, "./added=2 ./cache/c=2 ./cache/d=2 ./other=2 ./src/a=1 ");
    server.sh(&sb, change).await;
    server.restore(&sb, &no_cache).await;
    assert_eq!(server.sh(&sb, show).await, "./cache/c=2 ./cache/d=2 ./other=1 ./src/a=1 ");
    server.sh(&sb, change).await;
    server.sh(&sb, "rm other").await;
    let body = json!({ "checkpoint_id": all, "overwrite": false });
    server.post(&format!("/sandbox/{sb}/checkpoints/restore"), body).await.ok();
    assert_eq!(server.sh(&sb, show).await, "./added=2 ./cache/c=2 ./cache/d=2 ./other=1 ./src/a=2 ./src/b=2 ");

    // A fork of a scoped checkpoint is its template plus the set.
    let fork = server.sandbox_with(json!({ "checkpoint_id": only_src })).await;
    assert_eq!(server.sh(&fork, show).await, "./src/a=1 ");
    let fork = server.sandbox_with(json!({ "snapshot_id": no_cache })).await;
    assert_eq!(server.sh(&fork, show).await, "./other=1 ./src/a=1 ");
    // Another sandbox of the organisation can be restored into.
    let other = server.sandbox().await;
    server.sh(&other, "echo mine > other; echo mine > own").await;
    server.restore(&other, &only_src).await;
    assert_eq!(server.sh(&other, show).await, "./other=mine ./own=mine ./src/a=1 ");
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_is_captured_restored_and_overlaid() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "A": "1", "SECRET": "s3cret-value-in-db" } })).await;
    let with = server.checkpoint(&sb, json!({ "name": "with" })).await;
    let without = server.checkpoint(&sb, json!({ "name": "without", "include_env": false })).await;
    let other = server.sandbox_with(json!({ "env": { "A": "9", "B": "2" } })).await;
    let show = "env | grep -E '^(A|B|SECRET)=' | sort | tr '\\n' ' '";
    let restore = |body: Value| server.post(&*format!("/sandbox/{other}/checkpoints/restore").leak(), body);
    restore(json!({ "checkpoint_id": without })).await.ok();
    assert_eq!(server.sh(&other, show).await, "A=9 B=2 ");
    restore(json!({ "checkpoint_id": with, "restore_env": false })).await.ok();
    assert_eq!(server.sh(&other, show).await, "A=9 B=2 ");
    server.sh(&other, "echo keep > /workspace/kept; sleep 1000 > /dev/null 2>&1 &").await;
    restore(json!({ "checkpoint_id": with, "restore_files": false })).await.ok();
    assert_eq!(server.sh(&other, show).await, "A=1 SECRET=s3cret-value-in-db ");
    assert_eq!(server.sh(&other, "cat kept; pgrep -c sleep").await, "keep\n1\n");
    let fork = server.sandbox_with(json!({ "checkpoint_id": with, "env": { "A": "over" } })).await;
    assert_eq!(server.sh(&fork, show).await, "A=over SECRET=s3cret-value-in-db ");
    // Nothing of it lies in clear in the database or the log.
    let stored = server.stored_rows();
    let has = |part: &[u8]| stored.windows(part.len()).any(|window| window == part);
    assert!(has(sb.trim_start_matches("sb-").as_bytes()), "these are not the rows");
    assert!(!has(b"s3cret-value-in-db") && !has(hex::encode("s3cret-value-in-db").as_bytes()));
    assert!(!server.logged().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_are_independent_of_each_other_and_of_their_source() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo base > f").await;
    let forked = server.post(&format!("/sandbox/{sb}/fork"), json!({ "count": 3 })).await.ok();
    let ids: Vec<String> =
        forked["forks"].as_array().unwrap().iter().map(|fork| fork["forked_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), &forked["forked_id"], &forked["parent_id"]), (3, &json!(ids[0]), &json!(sb)));
    let mut hosts = std::collections::BTreeSet::new();
    for (index, id) in ids.iter().enumerate() {
        server.sh(id, &format!("cat f; echo {index} > f")).await;
        hosts.insert(server.sh(id, "hostname; cat /etc/machine-id").await);
    }
    assert_eq!(hosts.len(), 3, "forks have their own identity");
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(server.sh(id, "cat f").await, format!("{index}\n"));
    }
    server.delete(&format!("/sandbox/{}", ids[0])).await.ok();
    server.delete(&format!("/checkpoints/{}", forked["checkpoint_id"].as_str().unwrap())).await.ok();
    assert_eq!(server.sh(&sb, "cat f").await + &server.sh(&ids[1], "cat f").await, "base\n1\n");
    let made: Value = server.get("/checkpoints").await.ok();
    assert_eq!(made["checkpoints"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_data_and_live_on_their_own() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "K": "v" } })).await;
    server.sh(&sb, "echo saved > f").await;
    let body = json!({ "name": "first", "description": "d", "metadata": { "acc": 0.95, "n": 100 } });
    let first = server.post(&format!("/sandbox/{sb}/checkpoints"), body).await.ok();
    let first_id = first["id"].as_str().unwrap();
    server.owns(&[("layers", 2)]).await;
    let clone = server.post(&format!("/checkpoints/{first_id}/clone"), json!({ "name": "second" })).await.ok();
    for field in ["sandbox_id", "size_bytes", "file_count", "description", "metadata", "org_id"] {
        assert_eq!(clone[field], first[field], "{field}");
    }
    server.owns(&[("layers", 2)]).await;
    let same = json!({ "checkpoint_id_1": first_id, "checkpoint_id_2": clone["id"] });
    let diff = server.post("/checkpoints/compare", same).await.ok()["diff"].clone();
    assert_eq!(
        (&diff["files_added"], &diff["files_modified"], &diff["size_change_bytes"]),
        (&json!([]), &json!([]), &json!(0))
    );
    server.delete(&format!("/checkpoints/{first_id}")).await.ok();
    server.get(&format!("/checkpoints/{first_id}")).await.refused(404, "not_found");
    server.sh(&sb, "rm f").await;
    server.restore(&sb, clone["id"].as_str().unwrap()).await;
    assert_eq!(server.sh(&sb, "cat f; echo $K").await, "saved\nv\n");
    server.delete(&format!("/checkpoints/{}", clone["id"].as_str().unwrap())).await.ok();
    server.owns(&[("layers", 1)]).await;
    assert_eq!(server.sh(&sb, "cat f").await, "saved\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn comparison_lists_files_by_content_and_environment() {
    let server = Server::start().await;
    let sb = server.sandbox_with(json!({ "env": { "OLD": "1", "SAME": "1" } })).await;
    server
        .sh(&sb, "mkdir data; echo 1 > same; echo 1 > touched; echo 1 > changed; echo 1 > gone; echo 12 > data/a")
        .await;
    let one = server.checkpoint(&sb, json!({ "name": "one" })).await;
    server
        .sh(
            &sb,
            "touch touched; chmod 600 same; echo 2 > changed; rm gone; head -c 100 /dev/zero > data/b; ln -s a data/l",
        )
        .await;
    server.root(&sb, "rm /etc/motd; echo x >> /etc/passwd; mkdir /empty").await;
    let two = server.checkpoint(&sb, json!({ "name": "two" })).await;
    let body = json!({ "checkpoint_id_1": one, "checkpoint_id_2": two });
    let answer = server.post("/checkpoints/compare", body).await.ok();
    assert_eq!(answer["checkpoint_1"], json!({ "id": one, "name": "one" }));
    let diff = &answer["diff"];
    assert_eq!(diff["files_added"], json!(["/workspace/data/b", "/workspace/data/l"]));
    assert_eq!(diff["files_removed"], json!(["/etc/motd", "/workspace/gone"]));
    assert_eq!(diff["files_modified"], json!(["/etc/passwd", "/workspace/changed"]));
    assert_eq!((&diff["added"], &diff["modified"]), (&diff["files_added"], &diff["files_modified"]));
    // Two sandboxes, other environments.
    let other = server.sandbox_with(json!({ "env": { "NEW": "1", "SAME": "2" } })).await;
    let three = server.checkpoint(&other, json!({ "name": "three" })).await;
    let body = json!({ "checkpoint_id_1": one, "checkpoint_id_2": three });
    let diff = server.post("/checkpoints/compare", body).await.ok()["diff"].clone();
    assert_eq!(diff["env_added"], json!({ "NEW": "1" }));
    assert_eq!(diff["env_removed"], json!({ "OLD": "1" }));
    assert_eq!(diff["env_modified"], json!({ "SAME": { "old": "1", "new": "2" } }));
    assert_eq!(diff["files_removed"].as_array().unwrap().len(), 5);
    assert_eq!(diff["size_change_bytes"], json!(-(2 * 4 + 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_newest_first_and_searched_by_name() {
    let server = Server::start().await;
    let (a, b) = (server.sandbox().await, server.sandbox().await);
    for (sandbox, name) in [(&a, "Initial setup complete"), (&b, "setup"), (&a, "100% done"), (&a, "deps-cache")] {
        server.checkpoint(sandbox, json!({ "name": name })).await;
    }
    let names = |list: Value| -> Vec<String> {
        list["checkpoints"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names(server.get("/checkpoints").await.ok()),
        ["deps-cache", "100% done", "setup", "Initial setup complete"]
    );
    assert_eq!(names(server.get("/checkpoints?name=SETUP").await.ok()), ["setup", "Initial setup complete"]);
    assert_eq!(names(server.get("/checkpoints?name=%25").await.ok()), ["100% done"]);
    assert_eq!(names(server.get(&format!("/checkpoints?sandbox_id={b}")).await.ok()), ["setup"]);
    assert_eq!(names(server.get("/checkpoints?name_exact=setup&order=asc").await.ok()), ["setup"]);
    let stranger = server.register("Stranger").await;
    let theirs = server.call_as(&stranger, reqwest::Method::GET, "/checkpoints", None).await.ok();
    assert_eq!(theirs["checkpoints"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_too_deep_to_capture_is_the_callers_matter() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let deep = "import os\nfor _ in range(40):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('f', 'w').close()";
    let made = server.exec_with(&sb, json!({ "command": ["python3", "-c", deep] })).await.ok();
    assert_eq!(made["exit_code"], 0, "{made}");
    let refused = server.post(&format!("/sandbox/{sb}/checkpoints"), json!({ "name": "deep" })).await;
    let message = refused.refused(409, "tree_unfit")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("paths are longer than 4096 bytes"), "{message}");
    // Nothing of it is left, and it is mended by its owner.
    server.owns(&[("layers", 1)]).await;
    server.sh(&sb, "rm -rf d*").await;
    server.checkpoint(&sb, json!({ "name": "flat" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_without_effect() {
    let server = Server::start_with(&[("max_checkpoint_files", "10"), ("max_checkpoint_bytes", "100000")]).await;
    let sb = server.sandbox().await;
    let route = format!("/sandbox/{sb}/checkpoints");
    for body in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": 7 }),
        json!({ "name": "x", "include_paths": ["relative"] }),
        json!({ "name": "x", "exclude_paths": ["/a/../b"] }),
        json!({ "name": "x", "metadata": { "k": "x".repeat(10 * 1024) } }),
        json!({ "name": "x", "metadata": [] }),
        json!({ "name": "x", "include_env": "yes" }),
    ] {
        server.post(&route, body).await.refused(400, "invalid_request");
    }
    server.sh(&sb, "for i in $(seq 10); do echo > f$i; done").await;
    let made = server.post(&route, json!({ "name": "exactly ten" })).await.ok();
    assert_eq!(made["file_count"], 10);
    server.sh(&sb, "echo > eleven").await;
    server.post(&route, json!({ "name": "eleven" })).await.refused(413, "too_large");
    server.sh(&sb, "rm f*; head -c 200000 /dev/zero > big").await;
    server.post(&route, json!({ "name": "big" })).await.refused(413, "too_large");
    server.post(&route, json!({ "name": "full", "kind": "full" })).await.refused(409, "kind_unavailable");
    server.owns(&[("layers", 2)]).await;

    let id = made["id"].as_str().unwrap();
    let restore = format!("/sandbox/{sb}/checkpoints/restore");
    server.post(&restore, json!({})).await.refused(400, "invalid_request");
    server.post(&restore, json!({ "checkpoint_id": "cp-1" })).await.refused(400, "invalid_request");
    let unknown = format!("cp-{}", uuid::Uuid::new_v4());
    server.post(&restore, json!({ "checkpoint_id": unknown })).await.refused(404, "not_found");
    let stranger = server.register("Stranger").await;
    let theirs = |path: String| {
        let (server, stranger) = (&server, &stranger);
        async move { server.call_as(stranger, reqwest::Method::GET, &path, None).await }
    };
    theirs(format!("/checkpoints/{id}")).await.refused(404, "not_found");
    theirs(format!("/sandbox/{sb}")).await.refused(404, "not_found");
    server.post(&format!("/sandbox/{sb}/stop"), json!({})).await.ok();
    server.post(&route, json!({ "name": "stopped" })).await.refused(409, "sandbox_not_running");
    server.exec_with(&sb, json!({ "command": "true" })).await.refused(409, "sandbox_not_running");
    // A stopped sandbox is restored and stays stopped.
    server.restore(&sb, id).await;
    assert_eq!(server.get(&format!("/sandbox/{sb}")).await.ok()["state"], "stopped");
    server.post(&format!("/sandbox/{sb}/start"), json!({})).await.ok();
    assert_eq!(server.sh(&sb, "ls | wc -l").await, "10\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_command_ends_when_its_sandbox_is_restored() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    let id = server.checkpoint(&sb, json!({ "name": "x" })).await;
    let waiting = {
        let (client, url, key, sb) = (server.client.clone(), server.url.clone(), server.key.clone(), sb.clone());
        tokio::spawn(async move {
            let answer = client
                .post(format!("{url}/api/v1/sandbox/{sb}/execute"))
                .header("Authorization", format!("ApiKey {key}"))
                .json(&json!({ "command": "echo begun; touch /workspace/begun; sleep 300" }))
                .send()
                .await
                .unwrap();
            answer.json::<Value>().await.unwrap()
        })
    };
    while server.exec_with(&sb, json!({ "command": "test -e /workspace/begun" })).await.ok()["exit_code"] != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.restore(&sb, &id).await;
    let result = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!(result["interrupted"], true, "{result}");
    assert_eq!(server.sh(&sb, "ls; pgrep -c sleep || true").await, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_operations_never_mix_states() {
    let server = Server::start().await;
    let sb = server.sandbox().await;
    server.sh(&sb, "echo 1 > a; echo 1 > b").await;
    let one = server.checkpoint(&sb, json!({ "name": "1" })).await;
    server.sh(&sb, "echo 2 > a; echo 2 > b").await;
    let two = server.checkpoint(&sb, json!({ "name": "2" })).await;
    for round in 0..4 {
        let results = futures::future::join_all((0..6).map(|index| {
            let id = if (index + round) % 2 == 0 { &one } else { &two };
            server.restore(&sb, id)
        }))
        .await;
        assert_eq!(results.len(), 6);
        let shown = server.sh(&sb, "cat a b").await;
        assert!(shown == "1\n1\n" || shown == "2\n2\n", "{shown:?}");
    }
    server.owns(&[("layers", 3), ("cgroups", 1)]).await;
}
