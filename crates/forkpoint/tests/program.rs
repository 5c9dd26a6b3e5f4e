//! The client commands of the program against a real server.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::Server;

fn forkpoint(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(arguments)
        .env("FORKPOINT_URL", &server.url)
        .env("FORKPOINT_KEY", &server.key)
        .output()
        .unwrap()
}

#[track_caller]
fn ok(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(server: &Server, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&ok(forkpoint(server, &all))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_story_on_the_command_line() {
    let server = Server::start().await;
    let made = json(&server, &["sandbox", "create", "--env", "GREETING=hi", "--timeout", "600"]);
    let sb = made["id"].as_str().unwrap().to_owned();
    let said = ok(forkpoint(&server, &["sandbox", "exec", &sb, "--", "sh", "-c", "echo $GREETING; echo oops >&2"]));
    assert_eq!(said, "hi\n");
    let failed = forkpoint(&server, &["sandbox", "exec", &sb, "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(folder.path().join("tree/one"), "1\n").unwrap();
    let tree = folder.path().join("tree");
    ok(forkpoint(&server, &["sandbox", "cp", tree.to_str().unwrap(), &format!("{sb}:/workspace")]));
    assert_eq!(ok(forkpoint(&server, &["sandbox", "exec", &sb, "--", "cat", "/workspace/tree/one"])), "1\n");

    let first = json(&server, &["checkpoint", "create", &sb, "--name", "first"])["id"].as_str().unwrap().to_owned();
    ok(forkpoint(&server, &["sandbox", "exec", &sb, "--", "sh", "-c", "echo 2 > /workspace/tree/two"]));
    let second = json(&server, &["checkpoint", "create", &sb, "--name", "second"])["id"].as_str().unwrap().to_owned();
    let difference = ok(forkpoint(&server, &["checkpoint", "diff", &first, &second]));
    assert!(difference.contains("/workspace/tree/two"), "{difference}");
    ok(forkpoint(&server, &["checkpoint", "restore", &sb, &first]));
    assert_eq!(ok(forkpoint(&server, &["sandbox", "exec", &sb, "--", "ls", "/workspace/tree"])), "one\n");

    let forked = json(&server, &["fork", &first, "--count", "2"]).to_string();
    let fork = json(&server, &["sandbox", "ls"])["sandboxes"][0]["id"].as_str().unwrap().to_owned();
    assert!(forked.contains(&fork), "{forked}");
    let back = folder.path().join("back");
    ok(forkpoint(&server, &["sandbox", "cp", &format!("{fork}:/workspace/tree/one"), back.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(back).unwrap(), "1\n");
    let lineage = ok(forkpoint(&server, &["log"]));
    for id in [&sb, &first, &second, &fork] {
        assert!(lineage.contains(id.as_str()), "{lineage}");
    }
    ok(forkpoint(&server, &["checkpoint", "rm", &second]));
    ok(forkpoint(&server, &["sandbox", "stop", &sb]));
    ok(forkpoint(&server, &["sandbox", "rm", &sb]));
    let gone = forkpoint(&server, &["sandbox", "get", &sb]);
    assert_eq!(gone.status.code(), Some(1));
    let complaint = String::from_utf8(gone.stderr).unwrap();
    assert!(complaint.starts_with("error: ") && !complaint.contains(&server.key), "{complaint}");
}
