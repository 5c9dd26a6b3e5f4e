//! The program under torture: a server that is started and killed, and the operator's commands beside it.

use anyhow::{Context, bail, ensure};
use reqwest::{Client, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// How long a server may take to be ready. The first one may have to make the default template.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success.
    pub(crate) fn ok(self) -> anyhow::Result<Value> {
        ensure!(self.status.is_success(), "refused: {self:?}");
        Ok(self.body)
    }

    /// The code of a refusal.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

/// The server is gone, or does not answer.
#[derive(Debug)]
pub(crate) struct Broken;

/// A server with its data directory and settings.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    client: Client,
    url: String,
    key: String,
}

impl Program {
    /// Nothing is started yet. Everything lies in `folder`; `settings` are variables of the server.
    pub(crate) fn new(path: &Path, folder: &Path, mut settings: Vec<(String, String)>) -> anyhow::Result<Self> {
        settings.push(("FORKPOINT_FAILPOINT".into(), format!("@{}", folder.join("point").display())));
        settings.push(("FORKPOINT_SLOT_POOL".into(), "0".into()));
        let (url, key) = Default::default();
        // No request of a healthy server takes as long.
        let client = Client::builder().timeout(Duration::from_secs(120)).build().context("make a client")?;
        Ok(Self { path: path.into(), folder: folder.into(), settings, child: None, client, url, key })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The last lines that servers have logged.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Starts the server and waits until it is ready; gives how it ended if it ended before.
    pub(crate) async fn try_launch(&mut self) -> anyhow::Result<Result<(), ExitStatus>> {
        ensure!(self.child.is_none(), "a server runs already");
        let before = fs::metadata(self.log_path()).map_or(0, |log| log.len());
        let log = File::options().create(true).append(true).open(self.log_path()).context("open the server's log")?;
        let mut command = Command::new(&self.path);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("open the server's log")?)
            .stderr(log)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .process_group(0);
        self.child = Some(command.spawn().context("start the server")?);
        let deadline = Instant::now() + READY_WITHIN;
        self.url.clear();
        while Instant::now() < deadline {
            if self.url.is_empty() {
                self.url = address(&fs::read(self.log_path()).unwrap_or_default(), before as usize).unwrap_or_default();
            } else if let Ok(answer) = self.client.get(format!("{}/readyz", self.url)).send().await
                && answer.status() == StatusCode::OK
            {
                return Ok(Ok(()));
            }
            if let Some(status) = self.ended()? {
                return Ok(Err(status));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the server was not ready in time")
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn launch(&mut self) -> anyhow::Result<()> {
        match self.try_launch().await? {
            Ok(()) => Ok(()),
            Err(status) => bail!("the server ended with {status} before it was ready"),
        }
    }

    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().context("watch the server")?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Waits until the server has ended by itself; says whether it has.
    pub(crate) async fn dies(&mut self, within: Duration) -> anyhow::Result<bool> {
        let deadline = Instant::now() + within;
        loop {
            if self.child.is_none() || self.ended()?.is_some() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What kills the server, whoever holds it.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Kills the server and waits for its end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            // It may have died a moment ago.
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            child.wait().context("wait for the server")?;
        }
        Ok(())
    }

    /// Lets the server die at this point, whenever it comes there; `None`: nowhere.
    pub(crate) fn arm(&self, point: Option<&str>) -> anyhow::Result<()> {
        let (file, beside) = (self.folder.join("point"), self.folder.join("point.new"));
        match point {
            Some(point) => fs::write(&beside, point).and_then(|()| fs::rename(beside, file)).context("arm"),
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("disarm"),
                _ => Ok(()),
            },
        }
    }

    /// Makes the organisation that everything belongs to.
    pub(crate) async fn register(&mut self) -> anyhow::Result<()> {
        let body = json!({ "email": "torture@example.com", "organization_name": "Torture" });
        let answer = self.client.post(format!("{}/api/v1/register", self.url)).json(&body).send().await?;
        let body: Value = answer.json().await?;
        self.key = body["api_key"]["key"].as_str().with_context(|| format!("register: {body}"))?.to_owned();
        Ok(())
    }

    /// Sends a request; with `key` it is done once however often it is sent.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value, key: &str) -> Result<Answer, Broken> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("ApiKey {}", self.key));
        if !key.is_empty() {
            request = request.header("Idempotency-Key", key);
        }
        if method != Method::GET {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|_| Broken)?;
        let status = answer.status();
        let text = answer.text().await.map_err(|_| Broken)?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// Runs a command of the operator on the data directory.
    pub(crate) async fn operator(&self, arguments: &[&str], point: Option<&str>) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command.envs(self.settings.iter().filter(|(name, _)| name != "FORKPOINT_FAILPOINT").map(|(n, v)| (n, v)));
        command.envs(point.map(|point| ("FORKPOINT_FAILPOINT", point)));
        command.output().await.with_context(|| format!("start {arguments:?}"))
    }

    /// What `doctor` says as JSON, with more flags.
    pub(crate) async fn doctor(&self, flags: &[&str]) -> anyhow::Result<Value> {
        let output = self.operator(&[&["doctor", "--json"], flags].concat(), None).await?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("doctor: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
        if self.data_dir().exists() {
            let purge =
                Command::new(&self.path).args(["doctor", "--purge", "--data-dir"]).arg(self.data_dir()).output();
            // Nobody is left to tell; the directory of a failed run is looked at by people anyway.
            drop(purge);
        }
    }
}

/// The address that a server has logged behind so many bytes.
fn address(log: &[u8], after: usize) -> Option<String> {
    let text = String::from_utf8_lossy(log.get(after..)?).into_owned();
    let rest = &text[text.find("address=")? + "address=".len()..];
    Some(format!("http://{}", rest.split_once([' ', '\n'])?.0))
}
