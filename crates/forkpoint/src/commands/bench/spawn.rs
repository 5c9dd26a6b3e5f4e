//! A server for the bench alone: on a free port, with a data directory that is removed afterwards.

use crate::{
    client::{ApiKey, Client, Target, parse_url},
    commands::Failure,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The first start may have to make the default template.
const READY_WITHIN: Duration = Duration::from_secs(900);
/// A graceful end waits for operations in flight.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Variables of the client that a server has no use for.
const CLIENT_ONLY: [&str; 6] =
    ["FORKPOINT_URL", "FORKPOINT_KEY", "FORKPOINT_PROFILE", "STATESET_API_URL", "STATESET_API_KEY", "SANDBOX_API_KEY"];

/// A running server that belongs to this bench.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    dir: TempDir,
    program: PathBuf,
}

impl Server {
    /// Starts one below `parent`, waits until it is ready, and registers; gives a client with a key.
    pub(crate) async fn start(parent: &Path) -> Result<(Self, Client), Failure> {
        Self::start_with(parent, &[]).await
    }

    /// The same with variables of its own.
    pub(crate) async fn start_with(parent: &Path, variables: &[(&str, String)]) -> Result<(Self, Client), Failure> {
        let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
        let dir = tempfile::Builder::new()
            .prefix("forkpoint-bench-")
            .tempdir_in(parent)
            .map_err(Failure::io(format!("make a data directory in {}", parent.display())))?;
        let log = File::create(dir.path().join("log")).map_err(Failure::io("create the server's log"))?;
        let port = free_port().map_err(Failure::io("find a free port"))?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Failure::io("open the server's log"))?)
            .stderr(log)
            // Its own group: an interrupt from the terminal is for the bench, which ends the server in order.
            .process_group(0);
        for name in CLIENT_ONLY {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().map_err(Failure::io("start the server"))?;
        let mut server = Self { child, dir, program };
        match server.ready(port).await {
            Ok(client) => Ok((server, client)),
            Err(failure) => {
                let log = server.last_log_lines();
                if let Err(also) = server.stop().await {
                    return Err(Failure::Other(format!("{failure}; and {also}; its log ends: {log}")));
                }
                Err(Failure::Other(format!("{failure}; its log ends: {log}")))
            }
        }
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The root file system of its default template, for peers.
    pub(crate) fn template_root(&self) -> Option<PathBuf> {
        let digests = std::fs::read_dir(self.data_dir().join("templates/default")).ok()?;
        digests.flatten().map(|digest| digest.path().join("rootfs")).find(|root| root.is_dir())
    }

    async fn ready(&mut self, port: u16) -> Result<Client, Failure> {
        let url = parse_url(&format!("http://127.0.0.1:{port}"))?;
        let client = Client::new(Target { url, key: None })?;
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(Failure::io("watch the server"))? {
                return Err(Failure::Other(format!("the server ended with {status} before it was ready")));
            }
            // Until then it refuses, or does not listen yet.
            if client.page("/readyz").await.is_ok() {
                break;
            }
            if begin.elapsed() > READY_WITHIN {
                return Err(Failure::Other(format!("the server was not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        let body = json!({"email": "bench@localhost.localdomain", "organization_name": "Bench"});
        let answer = client.post("/register", &body).await?;
        let key = answer.pointer("/api_key/key").and_then(Value::as_str);
        let key = key.ok_or_else(|| Failure::Other("the registration gave no key".to_owned()))?;
        Ok(client.with_key(ApiKey::from(key.to_owned()))?)
    }

    /// Ends the server, removes everything that it owned on this machine, and then its directory. A directory
    /// that could not be purged stays: mounts may still lie in it.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let ended = self.end().await;
        let purge = Command::new(&self.program)
            .args(["doctor", "--purge", "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .output()
            .await;
        let purged = match purge {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = purged {
            let kept = self.dir.keep();
            return Err(Failure::Other(format!("could not purge {}: {why}", kept.display())));
        }
        ended?;
        self.dir.close().map_err(Failure::io("remove the server's data directory"))
    }

    async fn end(&mut self) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // No id: it has ended already and was waited for.
        let Some(pid) = pid else { return Ok(()) };
        kill_process(pid, Signal::TERM).map_err(|error| Failure::io("end the server")(error.into()))?;
        if tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(Failure::io("kill the server"))?;
            return Err(Failure::Other("the server did not end in time and was killed".to_owned()));
        }
        Ok(())
    }

    fn last_log_lines(&self) -> String {
        let text = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }
}

/// A port that nothing listens on at this moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
