//! Servers, sandboxes with one of everything in them, and the program's own commands against them.

use crate::support::Server;
use serde_json::{Value, json};
use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

const LISTING: &str = include_str!("listing.py");
const PLAY: &str = include_str!("play.py");

/// Runs the program against a server.
pub fn forkpoint<S: AsRef<OsStr>>(server: &Server, arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(arguments)
        .env("FORKPOINT_URL", &server.url)
        .env("FORKPOINT_KEY", &server.key)
        .output()
        .unwrap()
}

/// The same; it must succeed. Gives what it printed, without the line's end.
#[track_caller]
pub fn done<S: AsRef<OsStr>>(server: &Server, arguments: &[S]) -> String {
    let output = forkpoint(server, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The same; it must fail. Gives what it complained of.
#[track_caller]
pub fn fails<S: AsRef<OsStr>>(server: &Server, arguments: &[S]) -> String {
    let output = forkpoint(server, arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// Exports a checkpoint; gives the hash of its tree.
#[track_caller]
pub fn export(server: &Server, id: &str, to: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["checkpoint", "export", id, to.to_str().unwrap()];
    arguments.extend(more);
    done(server, &arguments)
}

/// Imports an archive; gives the new checkpoint.
pub async fn import(server: &Server, from: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["checkpoint", "import", from.to_str().unwrap()];
    arguments.extend(more);
    let id = done(server, &arguments);
    server.get(&format!("/checkpoints/{id}")).await.ok()
}

/// Makes a sandbox that has one of everything.
pub async fn played(server: &Server) -> String {
    let sandbox = server.sandbox_with(json!({ "env": { "TOKEN": "s3cret", "PLACE": "here" } })).await;
    let body = json!({ "command": ["python3", "-c", PLAY], "user": "root", "timeout": 120_000 });
    let result = server.exec_with(&sandbox, body).await.ok();
    assert_eq!(result["exit_code"], 0, "{result}");
    sandbox
}

/// What a sandbox sees, line by line.
pub async fn seen(server: &Server, sandbox: &str) -> Vec<String> {
    let body = json!({ "command": ["python3", "-c", LISTING, "/"], "user": "root", "timeout": 200_000 });
    let result = server.exec_with(sandbox, body).await.ok();
    assert_eq!((&result["exit_code"], &result["output_truncated"]), (&json!(0), &json!(false)), "{}", result["stderr"]);
    result["stdout"].as_str().unwrap().lines().map(str::to_owned).collect()
}

/// What is below a directory of this host, in the same words.
pub fn listed(root: &Path) -> Vec<String> {
    let output = Command::new("python3").arg("-c").arg(LISTING).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Fails with what only one of the two has.
#[track_caller]
pub fn equal(found: &[String], expected: &[String]) {
    let missing: Vec<_> = expected.iter().filter(|line| found.binary_search(line).is_err()).take(20).collect();
    let strange: Vec<_> = found.iter().filter(|line| expected.binary_search(line).is_err()).take(20).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing: {missing:#?}\nstrange: {strange:#?}");
    assert!(found.len() > 1000, "{} entries", found.len());
}

/// Sorted as [`equal`] needs it.
pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}
