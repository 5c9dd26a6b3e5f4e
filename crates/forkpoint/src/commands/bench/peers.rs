//! The same things done by podman and by raw runsc, beside us in the same run, where they are installed.

use super::{
    row::{Measured, Name, Statistic, Target},
    world::millis_since,
};
use crate::commands::Failure;
use serde_json::json;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};
use tempfile::TempDir;
use tokio::process::Command;

/// Peers take long: this many runs are enough for a median.
const MOST_RUNS: usize = 30;
/// How many times faster this platform should be than podman.
const FASTER: f64 = 10.0;

/// What the peers' rows work with.
#[derive(Debug)]
pub(crate) struct Peers {
    /// A root file system to run `true` in.
    root: Option<PathBuf>,
    /// Part of every name that is given to a peer.
    label: String,
    podman: Option<Podman>,
    /// State and bundle of runsc.
    runsc: Option<TempDir>,
}

#[derive(Debug, Default)]
struct Podman {
    containers: Vec<String>,
    images: Vec<String>,
    /// What `podman run` needs on this host, once that is known.
    options: Vec<String>,
}

impl Peers {
    /// Nothing started yet.
    pub(crate) fn new(root: Option<PathBuf>) -> Self {
        let label = uuid::Uuid::new_v4().simple().to_string();
        Self { root, label: label[..12].to_owned(), podman: None, runsc: None }
    }

    /// Measures one of the peers' rows. `ours` are the medians of this platform's rows.
    pub(crate) async fn measure(
        &mut self,
        name: Name,
        runs: usize,
        ours: &HashMap<Name, f64>,
    ) -> Result<Measured, Failure> {
        let program = if matches!(name, Name::RunscCreate | Name::RunscExec) { "runsc" } else { "podman" };
        if !installed(program) {
            return Ok(Measured::nothing("not installed"));
        }
        let Some(root) = self.root.clone() else {
            return Ok(Measured::nothing("no root file system for it: give --peer-root"));
        };
        let runs = runs.min(MOST_RUNS);
        let (samples, beside) = match name {
            Name::PodmanCreate => (self.podman_create(&root, runs).await?, Some(Name::Create)),
            Name::PodmanExec => (self.podman_exec(&root, runs).await?, Some(Name::Exec)),
            Name::PodmanCheckpoint => (self.podman_commit(&root, runs).await?, Some(Name::Checkpoint)),
            Name::PodmanFork => (self.podman_fork(&root, runs).await?, Some(Name::Fork)),
            Name::RunscCreate => (self.runsc_create(&root, runs).await?, None),
            Name::RunscExec => (self.runsc_exec(&root, runs).await?, None),
            _ => return Ok(Measured::nothing("not a peer")),
        };
        let target =
            beside.and_then(|row| ours.get(&row)).map(|median| vec![Target::least(Statistic::P50, FASTER * median)]);
        let mut measured = Measured { samples, targets: target, note: String::new() };
        if let Some(podman) = self.podman.as_ref().filter(|podman| program == "podman" && !podman.options.is_empty()) {
            measured.note = format!("works here only with {}", podman.options.join(" "));
        }
        Ok(measured)
    }

    /// Removes everything that was started or made.
    pub(crate) async fn clear(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        if let Some(podman) = self.podman.take() {
            for container in &podman.containers {
                result = result.and(run("podman", &["rm", "-f", container]).await);
            }
            for image in podman.images.iter().rev() {
                result = result.and(run("podman", &["rmi", "-f", image]).await);
            }
        }
        if let Some(dir) = self.runsc.take() {
            // It may have ended by itself.
            let _ = run("runsc", &strings(&self.runsc_global(dir.path()), &["delete", "-force", &self.label])).await;
            result = result.and(dir.close().map_err(Failure::io("remove the state of runsc")));
        }
        result
    }

    /// The image made of the root file system, with a container that stays up.
    async fn podman(&mut self, root: &Path) -> Result<(String, String), Failure> {
        let image = format!("localhost/forkpoint-bench-{}", self.label);
        let container = format!("forkpoint-bench-{}", self.label);
        if self.podman.is_none() {
            // Remembered first: what half of this made is removed too.
            self.podman = Some(Podman { images: vec![image.clone()], ..Podman::default() });
            import(root, &image).await?;
            let mut options = Vec::new();
            for way in ways_to_run() {
                options = way;
                if run("podman", &podman_run(&options, &image)).await.is_ok() {
                    break;
                }
            }
            let args = [strings(&["run", "-d", "--name", &container], &[]), options.clone()].concat();
            let args = strings(&args, &[&image, "sleep", "infinity"]);
            if let Some(podman) = &mut self.podman {
                podman.containers.push(container.clone());
                podman.options = options;
            }
            run("podman", &args).await?;
        }
        Ok((image, container))
    }

    fn podman_run(&self, image: &str) -> Vec<String> {
        podman_run(self.podman.as_ref().map_or(&[], |podman| &podman.options), image)
    }

    async fn podman_create(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let (image, _) = self.podman(root).await?;
        repeat("podman", &self.podman_run(&image), runs).await
    }

    async fn podman_exec(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let (_, container) = self.podman(root).await?;
        repeat("podman", &strings(&["exec"], &[&container, "true"]), runs).await
    }

    async fn podman_commit(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let (image, container) = self.podman(root).await?;
        self.change_files(&container).await?;
        let target = format!("{image}:commit");
        let mut samples = Vec::new();
        for _ in 0..runs {
            let begin = Instant::now();
            run("podman", &["commit", "-q", &container, &target]).await?;
            samples.push(millis_since(begin));
            run("podman", &["rmi", "-f", &target]).await?;
        }
        Ok(samples)
    }

    async fn podman_fork(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let (image, container) = self.podman(root).await?;
        self.change_files(&container).await?;
        let target = format!("{image}:fork");
        if let Some(podman) = &mut self.podman {
            podman.images.push(target.clone());
        }
        run("podman", &["commit", "-q", &container, &target]).await?;
        repeat("podman", &self.podman_run(&target), runs).await
    }

    async fn change_files(&self, container: &str) -> Result<(), Failure> {
        const WRITE: &str = "mkdir -p /tmp/bench && cd /tmp/bench && for i in $(seq 1000); do echo $i > $i; done";
        run("podman", &["exec", container, "sh", "-c", WRITE]).await
    }

    fn runsc_global(&self, dir: &Path) -> Vec<String> {
        strings(&[&format!("--root={}", dir.join("state").display())], &["--network=none", "--ignore-cgroups"])
    }

    /// Writes a bundle that runs a command in the root file system; gives the directory of state and bundle.
    fn runsc_bundle(&mut self, root: &Path, command: &[&str]) -> Result<PathBuf, Failure> {
        let made = || Failure::io("prepare runsc");
        let dir = match &self.runsc {
            Some(dir) => dir.path().to_owned(),
            None => self.runsc.insert(tempfile::tempdir().map_err(made())?).path().to_owned(),
        };
        let root = fs::canonicalize(root).map_err(made())?;
        let namespaces: Vec<_> = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind})).into();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": command, "env": ["PATH=/usr/bin:/bin"], "cwd": "/"},
            "root": {"path": root, "readonly": true},
            "hostname": "bench",
            "linux": {"namespaces": namespaces},
        });
        let bundle = dir.join("bundle");
        fs::create_dir_all(&bundle).map_err(made())?;
        fs::write(bundle.join("config.json"), config.to_string()).map_err(made())?;
        Ok(dir)
    }

    async fn runsc_create(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let dir = self.runsc_bundle(root, &["true"])?;
        let bundle = format!("--bundle={}", dir.join("bundle").display());
        let args = strings(&self.runsc_global(&dir), &["run", &bundle, &self.label]);
        repeat("runsc", &args, runs).await
    }

    async fn runsc_exec(&mut self, root: &Path, runs: usize) -> Result<Vec<f64>, Failure> {
        let dir = self.runsc_bundle(root, &["sleep", "infinity"])?;
        let bundle = format!("--bundle={}", dir.join("bundle").display());
        let global = self.runsc_global(&dir);
        run("runsc", &strings(&global, &["run", "--detach", &bundle, &self.label])).await?;
        let measured = repeat("runsc", &strings(&global, &["exec", &self.label, "true"]), runs).await;
        run("runsc", &strings(&global, &["delete", "-force", &self.label])).await?;
        measured
    }
}

fn podman_run(options: &[String], image: &str) -> Vec<String> {
    strings(&[strings(&["run", "--rm"], &[]), options.to_vec()].concat(), &[image, "true"])
}

/// Options of `podman run` to be tried in this order: it may want higher limits than this process may give, its
/// usual runtime may not know this host's control groups, and its network may not work.
fn ways_to_run() -> Vec<Vec<String>> {
    use rustix::process::{Resource, getrlimit};
    let limit = |name: &str, resource| {
        let most = getrlimit(resource).maximum.map_or_else(|| "-1".to_owned(), |most| most.min(4096).to_string());
        format!("--ulimit={name}={most}:{most}")
    };
    let limits = vec![limit("nofile", Resource::Nofile), limit("nproc", Resource::Nproc)];
    let runc = [vec!["--runtime=runc".to_owned()], limits.clone()].concat();
    let ways = [vec![], limits, runc];
    let offline = ways.iter().map(|way| strings(way, &["--network=none"]));
    ways.iter().cloned().chain(offline).collect()
}

/// Whether a program is on the path.
fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn strings(first: &[impl AsRef<str>], second: &[&str]) -> Vec<String> {
    first.iter().map(|text| text.as_ref().to_owned()).chain(second.iter().map(|text| (*text).to_owned())).collect()
}

/// Runs a program several times; gives each run's time in milliseconds.
async fn repeat(program: &str, args: &[String], runs: usize) -> Result<Vec<f64>, Failure> {
    run(program, args).await?;
    let mut samples = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begin = Instant::now();
        run(program, args).await?;
        samples.push(millis_since(begin));
    }
    Ok(samples)
}

/// Runs a program to its end, which must be a good one. Its errors go to a file, not a pipe: what it leaves
/// running in the background would hold a pipe open.
async fn run(program: &str, args: &[impl AsRef<str>]) -> Result<(), Failure> {
    let errors = tempfile::tempfile().map_err(Failure::io("make a temporary file"))?;
    let stderr = errors.try_clone().map_err(Failure::io("make a temporary file"))?;
    let status = Command::new(program)
        .args(args.iter().map(AsRef::as_ref))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(Failure::io(format!("start {program}")))?;
    if status.success() { Ok(()) } else { Err(ended_badly(program, status, errors)) }
}

fn ended_badly(program: &str, status: std::process::ExitStatus, mut errors: fs::File) -> Failure {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    let read = errors.rewind().and_then(|()| errors.take(64 * 1024).read_to_string(&mut text));
    let last = if read.is_ok() { text.lines().last().unwrap_or_default() } else { "" };
    Failure::Other(format!("{program} ended with {status}: {last}"))
}

/// Makes an image of a root file system.
async fn import(root: &Path, image: &str) -> Result<(), Failure> {
    let made = || Failure::io("make an image for podman");
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(root)
        .args(["--one-file-system", "-c", "."])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(made())?;
    let archive: Stdio = match tar.stdout.take() {
        Some(archive) => archive.try_into().map_err(made())?,
        None => Stdio::null(),
    };
    let status = Command::new("podman")
        .args(["import", "-q", "-", image])
        .stdin(archive)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(made())?;
    let tar = tar.wait().await.map_err(made())?;
    if status.success() && tar.success() {
        Ok(())
    } else {
        Err(Failure::Other(format!("make an image for podman: {status}")))
    }
}
