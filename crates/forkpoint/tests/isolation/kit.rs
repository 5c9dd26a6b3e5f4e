//! What the attempts share: running Python inside, gathering failures, watching a neighbour.

use crate::support::Server;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const USERS: [&str; 2] = ["sandbox", "root"];

/// Everything that went wrong in one test; panics with all of it when dropped.
#[derive(Default)]
pub struct Wrong(Vec<String>);

impl Wrong {
    pub fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{} of the attempts:\n{}", self.0.len(), self.0.join("\n"));
        }
    }
}

/// Runs Python inside as `user`; gives the whole result.
pub async fn python(server: &Server, sandbox: &str, user: &str, code: &str, arguments: &[&str]) -> Value {
    let command: Vec<&str> = ["python3", "-c", code].into_iter().chain(arguments.iter().copied()).collect();
    server.exec_with(sandbox, json!({ "command": command, "user": user, "timeout": 120_000 })).await.ok()
}

/// Runs Python inside that must succeed; gives its output.
pub async fn said(server: &Server, sandbox: &str, user: &str, code: &str, arguments: &[&str]) -> String {
    let result = python(server, sandbox, user, code, arguments).await;
    assert_eq!(result["exit_code"], 0, "{result}");
    result["stdout"].as_str().unwrap().to_owned()
}

/// Puts a file into a sandbox through the API.
pub async fn put(server: &Server, sandbox: &str, path: &str, text: &str) {
    let file = json!({ "path": path, "content": text, "encoding": "utf-8" });
    server.post(&format!("/sandbox/{sandbox}/files"), json!({ "files": [file] })).await.ok();
}

/// How long a neighbour's commands took while `attack` ran, and what the attack came to.
///
/// The neighbour is asked again and again until the attack is over, and at least five times.
pub async fn beside<T>(server: &Server, neighbour: &str, attack: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let over = tokio_util::sync::CancellationToken::new();
    let watch = async {
        let mut times = Vec::new();
        while times.len() < 5 || !over.is_cancelled() {
            let started = Instant::now();
            assert_eq!(server.sh(neighbour, "echo here").await, "here\n");
            times.push(started.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        times
    };
    let attack = async {
        let result = attack.await;
        over.cancel();
        result
    };
    let (result, mut times) = tokio::join!(attack, watch);
    times.sort_unstable();
    (result, times)
}

/// Whether a neighbour answered within a second, but for moments in which the whole machine was busy.
pub fn was_calm(times: &[Duration]) -> bool {
    times[times.len() / 2] < Duration::from_secs(1) && times[times.len() - 1] < Duration::from_secs(5)
}

/// Process id on the host of a sandbox's first process.
pub fn first_process(server: &Server, sandbox: &str) -> u32 {
    let path = server.data_dir().join(format!("run/instances/{sandbox}.json"));
    let remembered: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    u32::try_from(remembered["pid"].as_u64().unwrap()).unwrap()
}

/// A number from a line `name: number unit` of the server's `/proc/<pid>/status`.
pub fn of_status(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}
