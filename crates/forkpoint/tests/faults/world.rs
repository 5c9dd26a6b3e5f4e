//! A server that can be made to die at a point, with a sandbox and two checkpoints that must outlive everything.

use crate::{
    host,
    support::{Answer, Server},
    tree,
};
use forkpoint_engine::failpoint::Point;
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};

/// How long a request may take to come to the point at which the server dies.
const REACHED: Duration = Duration::from_secs(15);
/// How long the rest of an interrupted operation may take to be cleared away once the server is there again.
pub(crate) const SETTLED: Duration = Duration::from_secs(10);

/// A checkpoint and what must be seen in a sandbox that it is restored into.
pub(crate) struct Saved {
    pub(crate) checkpoint: String,
    pub(crate) tree: String,
}

pub(crate) struct World {
    pub(crate) server: Server,
    /// Names the point at which the server dies; usually not there.
    file: PathBuf,
    _folder: tempfile::TempDir,
    /// Runs, and shows the second tree.
    pub(crate) source: String,
    pub(crate) first: Saved,
    pub(crate) second: Saved,
    requests: u32,
}

impl World {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("point");
        let server =
            Server::start_with(&[("failpoint", &format!("@{}", file.display())), ("build_cache_layers", "0")]).await;
        let source = server.sandbox().await;
        let mut saved = Vec::new();
        for name in ["first", "second"] {
            let tree = match name {
                "first" => tree::make_first(&server, &source).await,
                _ => tree::make_second(&server, &source).await,
            };
            assert!(tree.lines().count() > 100, "{tree}");
            let checkpoint = server.checkpoint(&source, json!({ "name": name })).await;
            saved.push(Saved { checkpoint, tree });
        }
        let [first, second]: [Saved; 2] = saved.try_into().ok().unwrap();
        Self { server, file, _folder: folder, source, first, second, requests: 0 }
    }

    /// A name for one request.
    pub(crate) fn new_key(&mut self) -> String {
        self.requests += 1;
        format!("request-{}", self.requests)
    }

    /// Sends a request; `None` if no whole answer came.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value, key: &str) -> Option<Answer> {
        let request = self
            .server
            .client
            .request(method, format!("{}/api/v1{path}", self.server.url))
            .header("Authorization", format!("ApiKey {}", self.server.key))
            .header("Idempotency-Key", key)
            .json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let body = answer.json().await.ok()?;
        Some(Answer { status, body })
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, key: &str) -> Answer {
        self.send(Method::POST, path, body, key).await.unwrap()
    }

    /// Lets the server die at `point` from now on.
    pub(crate) fn arm(&self, point: Point) {
        fs::write(&self.file, point.name()).unwrap();
    }

    /// Waits until the server has died at the armed point. It is not started again.
    pub(crate) async fn dies(&mut self, point: Point) {
        let status = self.server.died(REACHED).await;
        let status = status.unwrap_or_else(|| panic!("{} was not reached", point.name()));
        assert_eq!(status.signal(), Some(9), "{}: {status}", point.name());
        fs::remove_file(&self.file).unwrap();
    }

    /// Sends a request during which the server dies at `point`; it is not started again.
    pub(crate) async fn breaks(&mut self, point: Point, method: Method, path: &str, body: &Value, key: &str) {
        self.arm(point);
        self.send(method, path, body, key).await;
        self.dies(point).await;
    }

    /// Starts the server, which dies at `point` before it is ready.
    pub(crate) async fn breaks_at_start(&mut self, point: Point) {
        self.arm(point);
        let died = self.server.try_launch().await;
        let status = died.err().unwrap_or_else(|| panic!("{} was not reached at a start", point.name()));
        assert_eq!(status.signal(), Some(9), "{}: {status}", point.name());
        fs::remove_file(&self.file).unwrap();
    }

    /// Starts the server again, and waits until nothing is left of what it was at.
    pub(crate) async fn mends(&mut self, point: Point) {
        self.server.launch().await;
        eprintln!("died at {} and came back", point.name());
        host::nothing_leaks(&self.server, SETTLED).await;
    }

    /// The sandbox as the API shows it.
    pub(crate) async fn sandbox(&self, id: &str) -> Value {
        self.server.get(&format!("/sandbox/{id}")).await.ok()
    }

    /// What a sandbox's tree shows.
    pub(crate) async fn show(&self, sandbox: &str) -> String {
        tree::show(&self.server, sandbox).await
    }

    /// Restores a checkpoint into a sandbox and checks what is seen there.
    pub(crate) async fn restores(&self, sandbox: &str, saved: &Saved) {
        self.server.restore(sandbox, &saved.checkpoint).await;
        tree::same(&self.show(sandbox).await, &saved.tree, "restored");
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) {
        self.server.delete(&format!("/sandbox/{id}")).await.ok();
    }

    pub(crate) async fn remove_checkpoint(&self, id: &str) {
        self.server.delete(&format!("/checkpoints/{id}")).await.ok();
    }

    /// Checks that everything that was told of is there to the last, then removes it, and nothing is left.
    pub(crate) async fn ends(self) {
        tree::same(&self.show(&self.source).await, &self.second.tree, "source");
        let probe = self.server.sandbox().await;
        self.restores(&probe, &self.first).await;
        self.restores(&probe, &self.second).await;
        let (_, sandboxes, checkpoints) = host::listed(&self.server).await;
        for id in &sandboxes {
            self.remove_sandbox(id).await;
        }
        for id in &checkpoints {
            self.remove_checkpoint(id).await;
        }
        host::nothing_leaks(&self.server, SETTLED).await;
    }
}
