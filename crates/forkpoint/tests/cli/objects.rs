//! Sandboxes, checkpoints, forks, keys and the lineage: requests and output.

use crate::stub::{CHECKPOINT, KEY, SANDBOX, Stub, command, finish, json, not_found};
use serde_json::{Value, json};

const OTHER: &str = "sb-018f5c2e-7a8b-7c3d-9e4f-000000000002";

fn sandbox(id: &str) -> Value {
    json!({"id": id, "sandbox_id": id, "status": "running", "state": "paused", "template": "default", "cpus": "1",
        "memory": "1Gi", "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z",
        "based_on": CHECKPOINT, "forked_from": CHECKPOINT, "metadata": {"name": "web"}})
}

fn checkpoint() -> Value {
    json!({"id": CHECKPOINT, "name": "LR=0.01", "sandbox_id": SANDBOX, "status": "ready", "durability": "captured",
        "size_bytes": 36_700_160, "file_count": 2, "created_at": "2026-01-01T00:00:00.000Z", "parent_id": null})
}

#[tokio::test]
async fn sandboxes_are_made_as_asked() {
    let stub = Stub::start(|seen| match seen.json()["count"].as_u64() {
        Some(_) => json(201, &json!({"sandboxes": [sandbox(SANDBOX), sandbox(OTHER)]})),
        None => json(201, &sandbox(SANDBOX)),
    })
    .await;
    assert_eq!(stub.run(&["sandbox", "create"]).await.ok(), format!("{SANDBOX}\n"));
    let args = [
        "sandbox",
        "create",
        "--template",
        "t",
        "--cpus",
        "0.5",
        "--memory",
        "512Mi",
        "--timeout",
        "10m",
        "-e",
        "A=1",
        "--count",
        "2",
        "--from",
        CHECKPOINT,
        "--name",
        "web",
        "--metadata",
        "k=v",
    ];
    assert_eq!(stub.run(&args).await.ok(), format!("{SANDBOX}\n{OTHER}\n"));
    let seen = stub.seen();
    assert_eq!(seen[0].json(), json!({}));
    assert_eq!(
        seen[1].json(),
        json!({"template": "t", "cpus": "0.5", "memory": "512Mi", "timeout_seconds": 600, "env": {"A": "1"}, "count": 2,
            "checkpoint_id": CHECKPOINT, "metadata": {"name": "web", "k": "v"}})
    );
    assert_ne!(seen[0].headers["idempotency-key"], seen[1].headers["idempotency-key"]);
}

#[tokio::test]
async fn lists_have_stable_columns_in_a_pipe_and_the_apis_json_on_request() {
    let stub = Stub::start(|seen| match seen.line.as_str() {
        "GET /api/v1/sandboxes" => json(200, &json!({"sandboxes": [sandbox(SANDBOX)], "more": 1})),
        _ => json(200, &json!({"checkpoints": [checkpoint()]})),
    })
    .await;
    assert_eq!(
        stub.run(&["sandbox", "ls"]).await.ok(),
        format!(
            "ID\tNAME\tSTATE\tTEMPLATE\tCPUS\tMEMORY\tCREATED\tEXPIRES\tBASED ON\n\
             {SANDBOX}\tweb\tpaused\tdefault\t1\t1Gi\t2026-01-01T00:00:00.000Z\t2026-01-01T01:00:00.000Z\t{CHECKPOINT}\n"
        )
    );
    let listed: Value = serde_json::from_str(&stub.run(&["sandbox", "ls", "--json"]).await.ok()).unwrap();
    assert_eq!(listed, json!({"sandboxes": [sandbox(SANDBOX)], "more": 1}));
    assert_eq!(
        stub.run(&["checkpoint", "ls", "--sandbox", SANDBOX, "--name", "a b&c"]).await.ok(),
        format!(
            "ID\tNAME\tSANDBOX\tSTATUS\tDURABILITY\tSIZE\tFILES\tCREATED\n\
             {CHECKPOINT}\tLR=0.01\t{SANDBOX}\tready\tcaptured\t36700160\t2\t2026-01-01T00:00:00.000Z\n"
        )
    );
    let seen = stub.seen();
    assert_eq!((seen[2].query("sandbox_id"), seen[2].query("name")), (SANDBOX, "a b&c"));
}

#[tokio::test]
async fn single_changes_reach_their_routes() {
    let stub = Stub::start(|seen| match seen.line.contains(OTHER) {
        true => not_found(),
        false => json(200, &json!({"success": true, "sandbox_id": SANDBOX, "expires_at": "2026-01-01T01:00:00.000Z"})),
    })
    .await;
    for (args, line) in [
        (&["get", SANDBOX][..], format!("GET /api/v1/sandbox/{SANDBOX}")),
        (&["status", SANDBOX], format!("GET /api/v1/sandbox/{SANDBOX}/status")),
        (&["start", SANDBOX], format!("POST /api/v1/sandbox/{SANDBOX}/start")),
        (&["stop", SANDBOX], format!("POST /api/v1/sandbox/{SANDBOX}/stop")),
        (&["extend", SANDBOX, "2h"], format!("POST /api/v1/sandbox/{SANDBOX}/extend")),
        (&["rm", SANDBOX], format!("DELETE /api/v1/sandbox/{SANDBOX}")),
    ] {
        stub.run(&[&["sandbox"], args].concat()).await.ok();
        assert_eq!(stub.lines().last(), Some(&line));
    }
    assert_eq!(stub.seen()[4].json(), json!({"additional_seconds": 7200}));
    let ran = stub.run(&["sandbox", "rm", OTHER, SANDBOX]).await;
    assert_eq!((ran.code, ran.stdout), (1, format!("{SANDBOX}\n")));
    assert_eq!(ran.stderr, format!("error: {OTHER}: no such thing (not_found, req-9)\n"));
}

#[tokio::test]
async fn checkpoints_are_kept_evicted_and_stored_again_as_asked() {
    let stub = Stub::start(|_| {
        let mut told = checkpoint();
        (told["durability"], told["expires_at"]) = (json!("captured"), Value::Null);
        json(200, &told)
    })
    .await;
    let create = ["checkpoint", "create", SANDBOX, "n", "--keep-for", "30d", "--pin"];
    stub.run(&create).await.ok();
    assert_eq!(
        stub.seen()[0].json(),
        json!({"name": "n", "include_env": true, "retention_seconds": 2_592_000, "pinned": true})
    );
    for (args, line, body) in [
        (&["keep", CHECKPOINT, "--for", "0"][..], "PATCH", json!({"retention_seconds": 0})),
        (&["keep", CHECKPOINT, "--pin"], "PATCH", json!({"pinned": true})),
        (&["keep", CHECKPOINT, "--unpin", "--for", "2h"], "PATCH", json!({"pinned": false, "retention_seconds": 7200})),
        (&["evict", CHECKPOINT], "evict", json!({})),
        (&["retry", CHECKPOINT, "--wait-verified"], "retry", json!({"wait": "verified"})),
    ] {
        stub.run(&[&["checkpoint"], args].concat()).await.ok();
        let seen = stub.seen();
        let seen = seen.last().unwrap();
        let expected = match line {
            "PATCH" => format!("PATCH /api/v1/checkpoints/{CHECKPOINT}"),
            route => format!("POST /api/v1/checkpoints/{CHECKPOINT}/{route}"),
        };
        assert_eq!((&seen.line, seen.json()), (&expected, body));
    }
    for args in [&["keep", CHECKPOINT][..], &["keep", CHECKPOINT, "--pin", "--unpin"]] {
        assert_eq!(stub.run(&[&["checkpoint"], args].concat()).await.code, 2, "{args:?}");
    }
}

#[tokio::test]
async fn checkpoints_are_made_restored_and_compared_as_asked() {
    let stub = Stub::start(|seen| match seen.line.rsplit('/').next() {
        Some("compare") => json(
            200,
            &json!({"diff": {"files_added": ["/workspace/a"], "files_removed": [], "files_modified": ["/b"],
            "env_added": {"T": "secret"}, "size_change_bytes": -1024}}),
        ),
        Some("restore") => json(200, &json!({"success": true})),
        _ => json(200, &checkpoint()),
    })
    .await;
    let args = [
        "checkpoint",
        "create",
        SANDBOX,
        "after step 1",
        "--description",
        "d",
        "--include",
        "/workspace",
        "--exclude",
        "/workspace/*.log",
        "--no-env",
        "--metadata",
        "accuracy=0.95",
        "--metadata",
        "tag=x",
    ];
    assert_eq!(stub.run(&args).await.ok(), format!("{CHECKPOINT}\n"));
    assert_eq!(
        stub.seen()[0].json(),
        json!({"name": "after step 1", "description": "d", "include_paths": ["/workspace"], "exclude_paths": ["/workspace/*.log"],
            "include_env": false, "metadata": {"accuracy": 0.95, "tag": "x"}})
    );
    // Without a sandbox, the one it was taken from.
    assert_eq!(stub.run(&["checkpoint", "restore", CHECKPOINT]).await.ok(), format!("{SANDBOX}\n"));
    stub.run(&["checkpoint", "restore", OTHER, CHECKPOINT, "--no-env", "--keep-existing"]).await.ok();
    let seen = stub.seen();
    assert_eq!(seen[2].line, format!("POST /api/v1/sandbox/{SANDBOX}/checkpoints/restore"));
    assert_eq!(
        seen[2].json(),
        json!({"checkpoint_id": CHECKPOINT, "restore_files": true, "restore_env": true, "overwrite": true})
    );
    assert_eq!(seen[3].line, format!("POST /api/v1/sandbox/{OTHER}/checkpoints/restore"));
    assert_eq!(seen[3].json()["overwrite"], false);
    assert_eq!(
        stub.run(&["checkpoint", "diff", CHECKPOINT, CHECKPOINT]).await.ok(),
        "+ /workspace/a\n~ /b\n+ env T\nsize -1.0 KB\n"
    );
    stub.run(&["checkpoint", "diff", "--content", CHECKPOINT, CHECKPOINT]).await.ok();
    let asked = stub.seen().pop().unwrap();
    assert_eq!((&*asked.line, asked.query("content")), ("POST /api/v1/checkpoints/compare", "true"));
    assert_eq!(stub.run(&["checkpoint", "clone", CHECKPOINT, "copy"]).await.ok(), format!("{CHECKPOINT}\n"));
    assert_eq!(stub.run(&["checkpoint", "rm", CHECKPOINT]).await.ok(), format!("{CHECKPOINT}\n"));
}

#[tokio::test]
async fn forks_come_from_sandboxes_and_checkpoints() {
    let stub = Stub::start(|seen| match seen.line.ends_with("/fork") {
        true => json(200, &json!({"parent_id": SANDBOX, "checkpoint_id": CHECKPOINT, "forked_id": OTHER, "forks": [{"forked_id": OTHER}]})),
        false => json(201, &sandbox(OTHER)),
    })
    .await;
    assert_eq!(stub.run(&["fork", SANDBOX, "--count", "3"]).await.ok(), format!("{OTHER}\n"));
    assert_eq!(stub.run(&["fork", CHECKPOINT, "--timeout", "60"]).await.ok(), format!("{OTHER}\n"));
    let seen = stub.seen();
    assert_eq!(
        (seen[0].line.clone(), seen[0].json()),
        (format!("POST /api/v1/sandbox/{SANDBOX}/fork"), json!({"count": 3}))
    );
    assert_eq!(seen[1].json(), json!({"checkpoint_id": CHECKPOINT, "timeout_seconds": 60}));
}

#[tokio::test]
async fn the_lineage_is_drawn() {
    let stub = Stub::start(|seen| match seen.line.ends_with("/sandboxes") {
        true => {
            let mut root = sandbox(SANDBOX);
            root["forked_from"] = Value::Null;
            root["based_on"] = Value::Null;
            root["created_at"] = json!("2025-12-31T00:00:00.000Z");
            json(200, &json!({"sandboxes": [sandbox(OTHER), root]}))
        }
        false => json(200, &json!({"checkpoints": [checkpoint()]})),
    })
    .await;
    let drawn = stub.run(&["log", OTHER]).await.ok();
    let lines: Vec<&str> =
        drawn.lines().map(|line| line.split_once(' ').map_or(line, |_| line.split(", ").next().unwrap())).collect();
    assert_eq!(
        lines,
        [
            format!("{SANDBOX} \"web\" paused"),
            format!("└─ {CHECKPOINT} \"LR=0.01\""),
            format!("   └─ {OTHER} \"web\" paused")
        ]
    );
    assert_eq!(stub.run(&["log", "sb-018f5c2e-7a8b-7c3d-9e4f-00000000000f"]).await.code, 1);
}

#[tokio::test]
async fn registration_prints_the_key_once_and_can_keep_it() {
    let stub = Stub::start(|seen| match seen.line.as_str() {
        "POST /api/v1/register" => json(201, &json!({"organization": {"id": "org_1", "slug": "acme"}, "user": {}, "api_key": {"key": KEY}})),
        "POST /api/v1/api-keys" => json(201, &json!({"api_key": {"id": "key_1"}, "key": "sk-new"})),
        _ => json(200, &json!({"api_keys": [{"id": "key_1", "name": "n", "key_prefix": "sk-sandbox-1234", "created_at": "2026-01-01T00:00:00.000Z"}]})),
    })
    .await;
    let args = ["register", "--url", &stub.url, "--email", "a@b.c", "--organization", "Acme Corp", "--save", "acme"];
    assert_eq!(finish(command(stub.home.path(), &args)).await.ok(), format!("{KEY}\n"));
    let seen = stub.seen();
    assert_eq!(seen[0].json(), json!({"email": "a@b.c", "organization_name": "Acme Corp"}));
    assert!(!seen[0].headers.contains_key("authorization"));
    // The profile is in use: nothing else says where the server is.
    let made = finish(command(stub.home.path(), &["key", "create", "ci", "--expires-in-days", "30"])).await.ok();
    assert_eq!(made, "sk-new\n");
    assert_eq!(stub.seen()[1].json(), json!({"name": "ci", "expires_in_days": 30}));
    assert_eq!(
        finish(command(stub.home.path(), &["key", "ls"])).await.ok(),
        "ID\tNAME\tPREFIX\tCREATED\tUSED\tEXPIRES\nkey_1\tn\tsk-sandbox-1234\t2026-01-01T00:00:00.000Z\t-\t-\n"
    );
}
