//! moto as an S3 server of this machine, for tests: installed from the package index into a virtual environment
//! that is kept, and ended with the test.

use anyhow::{Context, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long it may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running server with one bucket.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    /// Its address, `http://…`.
    pub url: String,
    bucket: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    /// Starts one, with this bucket in it. `scratch` is where it is installed, once for all tests.
    pub fn start(scratch: &Path, bucket: &str) -> anyhow::Result<Self> {
        let server = installed(scratch).context("install moto (needs python3 -m venv and a package index)")?;
        // Free at this moment: moto cannot be told to choose a port and say which.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?.port();
        let child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start moto")?;
        let mut moto = Self { child, url: format!("http://127.0.0.1:{port}"), bucket: bucket.to_owned() };
        let deadline = Instant::now() + READY_WITHIN;
        while !moto.made_bucket(port) {
            if let Some(status) = moto.child.try_wait()? {
                bail!("moto ended with {status}");
            }
            ensure!(Instant::now() < deadline, "moto does not answer");
            // It tells nobody when it listens.
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(moto)
    }

    fn made_bucket(&self, port: u16) -> bool {
        let request = format!(
            "PUT /{} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.bucket
        );
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let mut answer = String::new();
        let asked = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// Variables by which a client finds it.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

/// The program, installed if it is not there. Several processes may come here at once.
fn installed(scratch: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(scratch)?;
    let lock = File::create(scratch.join("moto.lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let home = scratch.join("moto");
    let (server, done) = (home.join("bin/moto_server"), home.join("installed"));
    if done.exists() {
        return Ok(server);
    }
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(home.join("bin/pip")).args(["install", "--quiet", "moto[server,s3]"]))?;
    File::create(done)?;
    Ok(server)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
