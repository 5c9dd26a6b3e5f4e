//! `sandbox cp`: what is asked of the server, and what is written on this machine.

use crate::stub::{SANDBOX, Seen, Stub, json, not_found};
use axum::{
    body::{Body, Bytes},
    http::Response,
};
use futures::stream;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

fn at(path: &str) -> String {
    format!("{SANDBOX}:{path}")
}

/// A sandbox in which only `/workspace` exists, and which takes everything.
fn accepting(seen: &Seen) -> Response<Body> {
    match seen.line.rsplit('/').next() {
        Some("list") if seen.query("path") == "/workspace" => json(200, &json!({"files": []})),
        Some("list") => not_found(),
        Some("execute") => json(200, &json!({"exit_code": 0, "stdout": "", "stderr": ""})),
        _ => json(201, &json!({})),
    }
}

fn writes(stub: &Stub) -> Vec<(String, String, String)> {
    let mut all: Vec<_> = stub
        .seen()
        .iter()
        .filter(|seen| seen.line.starts_with("PUT "))
        .map(|seen| {
            (
                seen.query("path").to_owned(),
                seen.query("mode").to_owned(),
                String::from_utf8_lossy(&seen.body).into_owned(),
            )
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_directory_goes_up_whole() {
    let stub = Stub::start(accepting).await;
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("empty/deeper")).unwrap();
    fs::create_dir_all(tree.join("src")).unwrap();
    fs::write(tree.join("src/run me.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("src/run me.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(tree.join("a&b=c"), "x".repeat(700_000)).unwrap();
    symlink("src/run me.sh", tree.join("link")).unwrap();
    symlink("/etc", tree.join("outside")).unwrap();

    stub.run(&["sandbox", "cp", tree.to_str().unwrap(), &at("/workspace")]).await.ok();
    let written = writes(&stub);
    assert_eq!(written[0].0, "/workspace/tree/a&b=c");
    assert_eq!(written[0].2.len(), 700_000);
    assert_eq!(written[1], ("/workspace/tree/src/run me.sh".into(), "0755".into(), "#!/bin/sh\n".into()));
    assert_eq!(written.len(), 2);
    let mut made: Vec<Value> = stub.seen().iter().filter(|seen| seen.line.ends_with("mkdir")).map(Seen::json).collect();
    made.sort_by_key(|one| one["path"].to_string());
    assert_eq!(
        made,
        [
            json!({"path": "/workspace/tree/empty/deeper", "recursive": true}),
            json!({"path": "/workspace/tree/src", "recursive": true})
        ]
    );
    let links = stub.seen().into_iter().find(|seen| seen.line.ends_with("execute")).unwrap().json();
    assert_eq!(
        links["command"].as_array().unwrap()[3..],
        ["sh", "src/run me.sh", "/workspace/tree/link", "/etc", "/workspace/tree/outside"].map(Value::from)
    );
}

#[tokio::test]
async fn the_destination_decides_the_name() {
    let stub = Stub::start(accepting).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "1").unwrap();
    let (file, contents) = (file.to_str().unwrap(), format!("{}/.", dir.path().display()));
    stub.run(&["sandbox", "cp", file, &at("/workspace")]).await.ok();
    stub.run(&["sandbox", "cp", file, &at("/workspace/g"), "--mode", "0600"]).await.ok();
    stub.run(&["sandbox", "cp", file, &at("/new/")]).await.ok();
    stub.run(&["sandbox", "cp", &contents, &at("/workspace")]).await.ok();
    let names: Vec<String> = stub
        .seen()
        .iter()
        .filter(|seen| seen.line.starts_with("PUT "))
        .map(|seen| seen.query("path").to_owned())
        .collect();
    assert_eq!(names, ["/workspace/f", "/workspace/g", "/new/f", "/workspace/f"]);
    assert_eq!(writes(&stub).iter().find(|write| write.0 == "/workspace/g").unwrap().1, "0600");
    stub.run_with(&["sandbox", "cp", "-", &at("/workspace/in")], b"piped").await.ok();
    assert_eq!(stub.seen().last().unwrap().body, "piped");
}

/// A sandbox whose `/w` holds these entries, and whose files hold their own path.
fn holding(entries: Value) -> impl Fn(&Seen) -> Response<Body> + Clone {
    move |seen| match (seen.line.rsplit('/').next(), seen.query("path")) {
        (Some("list"), "/w") => json(200, &json!({"files": entries})),
        (Some("raw"), "/w/gone") => not_found(),
        (Some("raw"), path) => Response::new(Body::from(path.to_owned())),
        _ => not_found(),
    }
}

#[tokio::test]
async fn a_directory_comes_down_whole() {
    let entries = json!([
        {"name": "l", "path": "/w/d/l", "type": "symlink", "target": "../f"},
        {"name": "f", "path": "/w/f", "type": "file", "size": 4, "mode": "4750"},
        {"name": "d", "path": "/w/d", "type": "directory"},
        {"name": "g", "path": "/w/d/g", "type": "file", "size": 6},
    ]);
    let stub = Stub::start(holding(entries)).await;
    let dir = tempfile::tempdir().unwrap();
    stub.run(&["sandbox", "cp", &at("/w"), dir.path().to_str().unwrap()]).await.ok();
    let root = dir.path().join("w");
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "/w/f");
    assert_eq!(fs::metadata(root.join("f")).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_to_string(root.join("d/l")).unwrap(), "/w/f");
    assert_eq!(fs::read_to_string(root.join("d/g")).unwrap(), "/w/d/g");
    let single = dir.path().join("single");
    stub.run(&["sandbox", "cp", &at("/other"), single.to_str().unwrap()]).await.ok();
    assert_eq!(fs::read_to_string(&single).unwrap(), "/other");
    assert_eq!(stub.run(&["sandbox", "cp", &at("/other"), "-"]).await.ok(), "/other");
    let ran = stub.run(&["sandbox", "cp", &at("/w/gone"), single.to_str().unwrap()]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "error: no such thing (not_found, req-9)\n"));
    assert_eq!(fs::read_to_string(&single).unwrap(), "/other");
}

#[tokio::test]
async fn a_sandbox_cannot_write_outside_the_destination() {
    for path in ["/w/../evil", "../evil", "/evil", "/w/a/../../evil"] {
        let stub =
            Stub::start(holding(json!([{"path": path, "type": "file", "size": 1}, {"path": "/w/ok", "type": "file"}])))
                .await;
        let dir = tempfile::tempdir().unwrap();
        let ran = stub.run(&["sandbox", "cp", &at("/w"), dir.path().to_str().unwrap()]).await;
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains("cannot be right"), "{ran:?}");
        assert!(!dir.path().join("evil").exists());
    }
    // A link that leads out is not made, and nothing is written through one that is listed as a directory too.
    let entries = json!([
        {"path": "/w/out", "type": "symlink", "target": "/etc"},
        {"path": "/w/gone", "type": "file", "size": 1},
        {"path": "/w/pipe", "type": "fifo"},
        {"path": "/w/ok", "type": "file", "size": 1},
    ]);
    let stub = Stub::start(holding(entries)).await;
    let dir = tempfile::tempdir().unwrap();
    let ran = stub.run(&["sandbox", "cp", &at("/w/."), dir.path().to_str().unwrap()]).await;
    assert_eq!(ran.code, 1);
    for why in ["\"out\": a link that leaves", "\"gone\": it is gone", "\"pipe\": not a file"] {
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(dir.path().join("ok")).unwrap(), "/w/ok");
}

#[tokio::test]
async fn half_a_file_does_not_appear() {
    let stub = Stub::start(|seen| match seen.line.ends_with("/raw") {
        true => Response::new(Body::from_stream(stream::iter([
            Ok(Bytes::from_static(b"half")),
            Err(std::io::Error::other("broken")),
        ]))),
        false => not_found(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let ran = stub.run(&["sandbox", "cp", &at("/f"), dir.path().join("f").to_str().unwrap()]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error: cannot reach "), "{ran:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_tree_too_big_for_one_list_is_walked() {
    let stub = Stub::start(|seen| match (seen.line.rsplit('/').next(), seen.query("path"), seen.query("recursive")) {
        (Some("list"), "/w", "true") => {
            json(200, &json!({"files": [{"path": "/w/a", "type": "directory"}], "truncated": true}))
        }
        (Some("list"), "/w", _) => {
            json(200, &json!({"files": [{"path": "/w/a", "type": "directory"}, {"path": "/w/f", "type": "file"}]}))
        }
        (Some("list"), "/w/a", "") => {
            json(200, &json!({"files": [{"path": "/w/a/g", "type": "file"}], "truncated": false}))
        }
        (Some("raw"), path, _) => Response::new(Body::from(path.to_owned())),
        _ => not_found(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    stub.run(&["sandbox", "cp", &at("/w/."), dir.path().to_str().unwrap()]).await.ok();
    assert_eq!(fs::read_to_string(dir.path().join("f")).unwrap(), "/w/f");
    assert_eq!(fs::read_to_string(dir.path().join("a/g")).unwrap(), "/w/a/g");
}
