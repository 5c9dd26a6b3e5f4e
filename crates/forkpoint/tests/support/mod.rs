//! A real server with real sandboxes in a data directory of its own, driven over HTTP.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs::File,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_forkpoint");

/// A server and its data directory; everything is purged when dropped.
pub struct Server {
    child: Option<Child>,
    folder: Option<tempfile::TempDir>,
    settings: Vec<(String, String)>,
    pub url: String,
    pub key: String,
    pub client: Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    /// The body of a success; panics with the whole answer otherwise.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    /// Checks status and error code; gives the error object.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.body["error"]["code"].as_str()), (status, Some(code)), "{self:?}");
        self.body["error"].clone()
    }
}

impl Server {
    /// Starts a server and registers an organisation.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings (names as in the settings file).
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(&std::env::temp_dir(), settings).await
    }

    /// The same with a master key that another server has.
    pub async fn start_with_key(key: &[u8], settings: &[(&str, &str)]) -> Self {
        let mut server = Self::not_started(&std::env::temp_dir(), settings);
        let keys = server.data_dir().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(keys.join("master.key")).unwrap();
        std::io::Write::write_all(&mut file, key).unwrap();
        server.launch().await;
        server
    }

    /// The same with the data directory below `parent`.
    pub async fn start_in(parent: &Path, settings: &[(&str, &str)]) -> Self {
        let mut server = Self::not_started(parent, settings);
        server.launch().await;
        server.key = server.register("Test").await;
        server
    }

    /// A data directory and settings; nothing runs yet.
    pub fn not_started(parent: &Path, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("fp-test-").tempdir_in(parent).unwrap();
        let mut settings: Vec<(String, String)> =
            settings.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let is_set = |name: &str| settings.iter().any(|(known, _)| known == name);
        let schema = if is_set("database_url") { None } else { postgres_schema() };
        let driver = if is_set("layer_driver") { None } else { layers() };
        settings.extend(schema.map(|url| ("database_url".to_owned(), url)));
        settings.extend(driver.map(|driver| ("layer_driver".to_owned(), driver)));
        Self {
            child: None,
            folder: Some(folder),
            settings,
            url: String::new(),
            key: String::new(),
            client: Client::builder().pool_max_idle_per_host(64).build().unwrap(),
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("server.log")
    }

    /// Everything the server has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Changes a setting for the next launch.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the server process on the data directory and waits until it is ready.
    pub async fn launch(&mut self) {
        if let Err(status) = self.try_launch().await {
            panic!("server ended with {status}:\n{}", self.logged());
        }
    }

    /// The same; gives the status if the process ends before it is ready.
    pub async fn try_launch(&mut self) -> Result<(), ExitStatus> {
        assert!(self.child.is_none());
        let before = self.logged().len();
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env("FORKPOINT_SLOT_POOL", "0")
            // Away from the test's own process group: a Ctrl-C goes to the test, which then purges.
            .process_group(0);
        for (name, value) in &self.settings {
            command.env(variable(name), value);
        }
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(300);
        self.url.clear();
        while Instant::now() < deadline {
            if self.url.is_empty() {
                let logged = self.logged();
                if let Some(at) = logged[before..].find("address=") {
                    let rest = &logged[before + at + "address=".len()..];
                    if let Some((address, _)) = rest.split_once([' ', '\n']) {
                        self.url = format!("http://{address}");
                    }
                }
            } else if let Ok(answer) = self.client.get(format!("{}/readyz", self.url)).send().await
                && answer.status() == StatusCode::OK
            {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Err(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("server was not ready in time:\n{}", self.logged());
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends the server process at once (SIGKILL).
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the server process has ended by itself; `None` if it lives for all of `within`.
    pub async fn died(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Ends the server process gracefully (SIGTERM).
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", self.logged());
                return;
            }
            assert!(Instant::now() < deadline, "server did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Registers another organisation; gives its key.
    pub async fn register(&self, name: &str) -> String {
        let body = json!({ "email": "dev@example.com", "organization_name": name });
        let answer = self.client.post(format!("{}/api/v1/register", self.url)).json(&body).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        body["api_key"]["key"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    }

    /// Calls the API below /api/v1 as another organisation.
    pub async fn call_as(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self
            .client
            .request(method, format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("ApiKey {key}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call_as(&self.key, Method::POST, path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call_as(&self.key, Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call_as(&self.key, Method::DELETE, path, None).await
    }

    /// Makes a sandbox; gives its id.
    pub async fn sandbox(&self) -> String {
        self.sandbox_with(json!({})).await
    }

    pub async fn sandbox_with(&self, body: Value) -> String {
        self.post("/sandbox/create", body).await.ok()["id"].as_str().unwrap().to_owned()
    }

    /// Runs a command as it is asked for; gives the whole result.
    pub async fn exec_with(&self, sandbox: &str, body: Value) -> Answer {
        self.post(&format!("/sandbox/{sandbox}/execute"), body).await
    }

    /// Runs a shell command that must succeed; gives its output.
    #[track_caller]
    pub fn sh<'a>(&'a self, sandbox: &'a str, command: &'a str) -> impl Future<Output = String> + 'a {
        self.run_as(sandbox, command, None)
    }

    /// The same as root inside.
    pub async fn root(&self, sandbox: &str, command: &str) -> String {
        self.run_as(sandbox, command, Some("root")).await
    }

    async fn run_as(&self, sandbox: &str, command: &str, user: Option<&str>) -> String {
        let result = self.exec_with(sandbox, json!({ "command": command, "user": user })).await.ok();
        assert_eq!(result["exit_code"], 0, "{command}: {result}");
        result["stdout"].as_str().unwrap().to_owned()
    }

    /// Makes a checkpoint; gives its id.
    pub async fn checkpoint(&self, sandbox: &str, body: Value) -> String {
        self.post(&format!("/sandbox/{sandbox}/checkpoints"), body).await.ok()["id"].as_str().unwrap().to_owned()
    }

    /// Restores a checkpoint with the defaults.
    pub async fn restore(&self, sandbox: &str, checkpoint: &str) -> Value {
        self.post(&format!("/sandbox/{sandbox}/checkpoints/restore"), json!({ "checkpoint_id": checkpoint })).await.ok()
    }

    /// Where its rows are, if not in its data directory.
    pub fn database_url(&self) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == "database_url").map(|(_, url)| url.as_str())
    }

    /// All that is in the database: the files of SQLite, or a dump by PostgreSQL, which writes binary values in hex.
    pub fn stored_rows(&self) -> Vec<u8> {
        let Some(url) = self.database_url() else {
            let files = ["forkpoint.db", "forkpoint.db-wal"];
            return files.iter().flat_map(|file| std::fs::read(self.data_dir().join(file)).unwrap()).collect();
        };
        let (server, schema) = url.split_once("?options=-c%20search_path%3D").unwrap();
        let dump = Command::new("pg_dump").args(["--schema", schema, server]).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        dump.stdout
    }

    /// Runs the program beside the server, with its settings and data directory.
    pub fn program(&self, args: &[&str]) -> std::process::Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).arg("--data-dir").arg(self.data_dir());
        for (name, value) in &self.settings {
            command.env(variable(name), value);
        }
        command.output().unwrap()
    }

    /// What the data directory has on the host for its layers: mounts and loop devices.
    pub fn for_layers(&self) -> (u64, u64) {
        let driver = self.settings.iter().find(|(name, _)| name == "layer_driver").map(|(_, driver)| driver.as_str());
        if driver.is_none_or(|driver| driver == "btrfs") { (1, 1) } else { (0, 0) }
    }

    /// What `doctor --json` says of the data directory.
    pub fn doctor(&self) -> Value {
        match self.database_url() {
            Some(url) => doctor(&self.data_dir(), &["--database-url", url]),
            None => doctor(&self.data_dir(), &[]),
        }
    }

    /// What `gc --json` with more flags says, with the server's own settings.
    pub fn gc(&self, flags: &[&str]) -> Value {
        let output = self.program(&[&["gc", "--json"], flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until `doctor` counts these.
    pub async fn owns(&self, expected: &[(&str, u64)]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let report = self.doctor();
            let off: Vec<_> = expected.iter().filter(|(name, count)| report["owned"][name] != *count).collect();
            if off.is_empty() && report["orphans"] == json!([]) {
                return;
            }
            assert!(Instant::now() < deadline, "expected {off:?}: {report}\n{}", self.logged());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// How layers are kept in this run: `btrfs`, `reflink` (with `scripts/with-xfs`) or `copy`; `None`: as servers choose.
pub fn layers() -> Option<String> {
    std::env::var("FORKPOINT_TEST_LAYERS").ok()
}

/// The variable of a setting; those of an object store's client have names of their own.
fn variable(setting: &str) -> String {
    if setting.starts_with("AWS_") { setting.to_owned() } else { format!("FORKPOINT_{}", setting.to_uppercase()) }
}

/// With `scripts/with-postgres`, the URL of a schema of a server's own there; else SQLite is used.
fn postgres_schema() -> Option<String> {
    let socket = std::env::var("FORKPOINT_TEST_POSTGRES").ok()?;
    let name = format!("s{}", uuid::Uuid::new_v4().simple());
    let made = Command::new("psql")
        .args(["-X", "-q", "-U", "forkpoint", "-d", "postgres", "-h", &socket, "-c", &format!("CREATE SCHEMA {name}")])
        .status()
        .unwrap();
    assert!(made.success(), "create schema");
    let host = socket.replace('/', "%2F");
    Some(format!("postgres://forkpoint@{host}/postgres?options=-c%20search_path%3D{name}"))
}

/// Runs `doctor --json` with more flags.
pub fn doctor(data_dir: &Path, flags: &[&str]) -> Value {
    let output =
        Command::new(PROGRAM).args(["doctor", "--json", "--data-dir"]).arg(data_dir).args(flags).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let data_dir = self.data_dir();
        let purged = data_dir.exists().then(|| doctor_quiet(&data_dir));
        if std::thread::panicking() {
            eprintln!("---- server log\n{}", tail(&self.logged()));
            return;
        }
        if let Some(report) = purged {
            let owned = report["owned"].as_object().cloned().unwrap_or_default();
            assert!(!owned.is_empty() && owned.values().all(|count| count == 0), "left behind after purge: {report}");
        }
    }
}

fn doctor_quiet(data_dir: &Path) -> Value {
    let output = Command::new(PROGRAM).args(["doctor", "--json", "--purge", "--data-dir"]).arg(data_dir).output();
    match output {
        Ok(output) => serde_json::from_slice(&output.stdout)
            .unwrap_or(Value::String(String::from_utf8_lossy(&output.stderr).into())),
        Err(error) => Value::String(error.to_string()),
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
