//! A PostgreSQL server of a test's own: its own directory and socket, no TCP port, ended by its pid.

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A running server; ends with the value.
pub(crate) struct PostgresServer {
    directory: TempDir,
    server: Child,
    bin: PathBuf,
}

impl PostgresServer {
    /// Makes a new cluster and starts its server. Needs the server's programs (Debian package `postgresql`).
    pub(crate) fn start() -> Self {
        let bin = programs();
        let directory = tempfile::Builder::new().prefix("forkpoint-pg-").tempdir().unwrap();
        if geteuid().is_root() {
            // The server refuses to run as root.
            let owner = User::from_name("postgres").unwrap().expect("package postgresql makes a user postgres");
            chown(directory.path(), Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let data = directory.path().join("data");
        let made = as_owner(&bin.join("initdb"))
            .args(["--username=forkpoint", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = spawn(&bin, directory.path());
        let server = Self { directory, server, bin };
        server.wait_until_it_answers();
        server
    }

    /// Ends the server at once; its data stays.
    pub(crate) fn stop(&mut self) {
        // Immediate shutdown: the server ends its own children.
        kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGQUIT).ok();
        self.server.wait().ok();
    }

    /// Starts a server that was stopped, on the same data and socket.
    pub(crate) fn start_again(&mut self) {
        self.server = spawn(&self.bin, self.directory.path());
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.psql("SELECT 1").status.success() {
            assert!(Instant::now() < deadline, "the server does not answer");
        }
    }

    /// Makes an empty schema and gives the URL at which it is the only one. (A database would take 300 files.)
    pub(crate) fn new_schema(&self, name: &str) -> String {
        let made = self.psql(&format!("CREATE SCHEMA {name}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://forkpoint@{}/postgres?options=-c%20search_path%3D{name}", encoded(self.directory.path()))
    }

    /// Where its socket is.
    pub(crate) fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs one statement as the server's own client does.
    pub(crate) fn psql(&self, statement: &str) -> std::process::Output {
        Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-t", "-A", "-U", "forkpoint", "-d", "postgres", "-c", statement, "-h"])
            .arg(self.directory.path())
            .output()
            .unwrap()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(bin: &Path, directory: &Path) -> Child {
    as_owner(&bin.join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "fsync=off"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A directory as a URL's host.
pub(crate) fn encoded(directory: &Path) -> String {
    directory.to_str().unwrap().replace('/', "%2F")
}

/// Where the newest installed server's programs are.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    found.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.sort();
    found.pop().expect("this test needs a PostgreSQL server; install the package 'postgresql'")
}

fn as_owner(program: &Path) -> Command {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        let owner = User::from_name("postgres").unwrap().expect("package postgresql makes a user postgres");
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command
}
