//! An agent of a test's own, and short ways to use it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forkpoint_protocol::{AgentConfig, Token, VERSION};
use forkpoint_runtime::agent_client::*;
use tempfile::TempDir;

pub const TOKEN: [u8; 32] = [0x42; 32];

/// A running agent. Its processes end with it.
pub struct Agent {
    process: Child,
    pub address: SocketAddr,
    pub client: AgentClient,
    pub dir: TempDir,
}

impl Agent {
    /// As an ordinary process, with default user `nobody`.
    pub fn start() -> Agent {
        Agent::start_with(&[], |_| {})
    }

    /// As process 1 of a process namespace with its own `/proc`.
    pub fn start_as_init() -> Agent {
        Agent::start_with(&["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"], |_| {})
    }

    pub fn start_with(wrapper: &[&str], adjust: impl FnOnce(&mut AgentConfig)) -> Agent {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut config = AgentConfig {
            version: VERSION,
            token: Token(TOKEN),
            listen: "127.0.0.1:0".parse().unwrap(),
            default_user: "nobody".into(),
            refuse_local: false,
            max_requests: 512,
        };
        adjust(&mut config);
        let (config_file, ready_file) = (dir.path().join("config"), dir.path().join("ready"));
        fs::write(&config_file, postcard::to_stdvec(&config).unwrap()).unwrap();
        assert!(Program::new("mkfifo").arg(&ready_file).status().unwrap().success());
        // The shell only places the descriptors and becomes the agent.
        let mut process = Program::new("/bin/bash")
            .args(["-c", r#"exec 3<"$1" 4>"$2"; shift 2; exec "$@""#, "agent-test"])
            .args([&config_file, &ready_file])
            .args(wrapper)
            .arg(program())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        // One line, not to the end: a wrapper that stays holds the descriptor too.
        BufReader::new(fs::File::open(&ready_file).unwrap()).read_line(&mut ready).unwrap();
        let port = ready.strip_prefix("ready ").and_then(|rest| rest.trim_end().parse::<u16>().ok());
        let Some(port) = port else {
            let status = process.wait().unwrap();
            panic!("the agent did not become ready: {ready:?}, {status}");
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Agent { process, address, client: AgentClient::new(address, TOKEN), dir }
    }

    /// The agent's own pid, behind a wrapper or not.
    pub fn pid(&self) -> u32 {
        let own = self.process.id();
        let is_agent = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "forkpoint-agent")
        };
        std::iter::once(own).chain(descendants(own)).find(is_agent).unwrap()
    }

    /// A line of the agent's `/proc/<pid>/status`, in KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().split(' ').next().unwrap().parse().unwrap()
    }

    /// Open descriptors of the agent.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// A path in the test's own directory, as requests want it.
    pub fn path(&self, name: &str) -> Vec<u8> {
        self.file(name).as_os_str().as_bytes().to_vec()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn run(&self, spec: ExecSpec) -> Outcome {
        let mut stream = self.client.exec(spec).await.unwrap();
        Outcome::of(&mut stream).await
    }

    pub async fn sh(&self, text: &str) -> Outcome {
        self.run(sh(text)).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Children first: they belong to the host's init once the agent is gone.
        for pid in descendants(self.process.id()) {
            kill(pid);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How a command went.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
    pub elapsed: Duration,
}

impl Outcome {
    pub async fn of(stream: &mut ExecStream) -> Outcome {
        let started = Instant::now();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match stream.next().await.unwrap().expect("the stream ended without an exit") {
                ExecEvent::Stdout(data) => stdout.extend_from_slice(&data),
                ExecEvent::Stderr(data) => stderr.extend_from_slice(&data),
                ExecEvent::Exit(exit) => {
                    return Outcome { stdout, stderr, exit, elapsed: started.elapsed() };
                }
            }
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

pub fn sh(text: &str) -> ExecSpec {
    ExecSpec::new(Command::Shell(text.into()))
}

pub fn argv(argv: &[&str]) -> ExecSpec {
    ExecSpec::new(Command::Argv(argv.iter().map(|part| part.as_bytes().to_vec()).collect()))
}

pub fn as_root(spec: ExecSpec) -> ExecSpec {
    ExecSpec { user: Some("root".into()), ..spec }
}

/// Kind of a refused call.
pub fn kind<T: std::fmt::Debug>(result: Result<T, AgentError>) -> ErrorKind {
    let error = result.expect_err("must be refused");
    error.kind().unwrap_or_else(|| panic!("not the agent's refusal: {error:?}"))
}

pub async fn content(mut file: FileRead) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = file.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

pub fn pieces(parts: Vec<Vec<u8>>) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::iter(parts.into_iter().map(|part| Ok(Bytes::from(part))))
}

pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, state)| !matches!(state.as_str(), "Z" | "X"))
}

/// Waits for a condition that comes by itself, and fails loudly when it does not.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A runtime for a test.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(110), future).await.expect("the test hangs") })
}

fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("forkpoint-agent");
    assert!(program.exists(), "{} is not built: run `cargo build -p forkpoint-agent` first", program.display());
    program
}

fn descendants(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Some(pid) = entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some((parent, _)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![of];
    while let Some(pid) = next.pop() {
        let own = children.remove(&pid).unwrap_or_default();
        next.extend(&own);
        found.extend(own);
    }
    found
}

/// Parent and state of a process.
fn stat(pid: u32) -> Option<(u32, String)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.to_owned();
    Some((fields.next()?.parse().ok()?, state))
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
