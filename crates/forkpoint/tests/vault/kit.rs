//! What these tests do again and again.

use crate::support::{Answer, Server};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

/// Makes a checkpoint that is verified when this returns; gives its id.
pub(crate) async fn verified(server: &Server, sandbox: &str, mut body: Value) -> String {
    body["wait"] = json!("verified");
    let made = server.post(&format!("/sandbox/{sandbox}/checkpoints"), body).await.ok();
    assert_eq!(made["durability"], "verified", "{made}");
    made["id"].as_str().unwrap().to_owned()
}

/// How the second differs from the first.
pub(crate) async fn diff(server: &Server, first: &str, second: &str, query: &str) -> Value {
    let body = json!({ "checkpoint_id_1": first, "checkpoint_id_2": second });
    server.post(&format!("/checkpoints/compare{query}"), body).await.ok()["diff"].clone()
}

pub(crate) async fn evict(server: &Server, id: &str) -> Value {
    server.post(&format!("/checkpoints/{id}/evict"), json!({})).await.ok()
}

/// A checkpoint as the server tells of it.
pub(crate) async fn told(server: &Server, id: &str) -> Value {
    server.get(&format!("/checkpoints/{id}")).await.ok()
}

/// Waits until the server tells of a checkpoint what `enough` wants.
pub(crate) async fn until(server: &Server, id: &str, enough: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.get(&format!("/checkpoints/{id}")).await;
        if enough(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}\n{}", server.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs `forkpoint vault …` beside a server.
pub(crate) fn vault(server: &Server, args: &[&str]) -> Output {
    server.program(&[&["vault"][..], args].concat())
}

/// What such a command printed.
pub(crate) fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// All files below a folder.
pub(crate) fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Flips a bit in the middle of a file.
pub(crate) fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}
