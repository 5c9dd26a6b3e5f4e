//! The kernel's floor: what it costs on this machine, at this moment, to make namespaces and mounts, change
//! the root, and run a program that does nothing. A process of its own with one thread measures it.

mod namespaces;

use super::row::Measured;
use crate::commands::Failure;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    process::{WaitOptions, pivot_root, waitpid},
};
use std::{
    convert::Infallible,
    ffi::CString,
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The first ones find cold caches.
const WARM_UP: usize = 5;
/// What the child ends with when it does not get as far as the program.
const NOT_STARTED: i32 = 97;

/// How the floor is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct FloorArgs {
    /// How often
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// The root file system to start from; it must have /bin/true
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
}

/// Starts this program anew to measure the floor.
pub(crate) async fn measure(runs: usize) -> Result<Measured, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Measured::nothing("needs root"));
    }
    let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
    let ended = tokio::process::Command::new(program)
        .args(["bench-floor", "--runs", &runs.to_string()])
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Failure::io("start the measurement"))?;
    if !ended.status.success() {
        let why = String::from_utf8_lossy(&ended.stderr);
        return Err(Failure::Other(why.trim().trim_start_matches("error: ").to_owned()));
    }
    let samples: Vec<f64> =
        String::from_utf8_lossy(&ended.stdout).lines().filter_map(|line| line.parse().ok()).collect();
    Ok(samples.into())
}

/// Measures and prints one time a line, in milliseconds.
pub(crate) fn floor_main(args: &FloorArgs) -> Result<u8, Failure> {
    let times = run(args).map_err(Failure::io("measure the floor"))?;
    let text: String = times.iter().map(|time| format!("{time:.4}\n")).collect();
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(0)
}

fn run(args: &FloorArgs) -> io::Result<Vec<f64>> {
    namespaces::own_mounts()?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let stage = tempfile::tempdir()?;
    // An overlay's upper directory cannot lie on every filesystem; it can on this one.
    rustix::mount::mount("floor", stage.path(), "tmpfs", MountFlags::empty(), None)?;
    let measured: io::Result<Vec<f64>> =
        (0..args.runs + WARM_UP).map(|run| once(&args.root, &stage.path().join(run.to_string()))).collect();
    rustix::mount::unmount(stage.path(), UnmountFlags::DETACH)?;
    Ok(measured?.into_iter().skip(WARM_UP).collect())
}

/// One namespaced run of a program that does nothing, from before the clone until it has ended.
fn once(root: &Path, stage: &Path) -> io::Result<f64> {
    for part in ["upper", "work", "root"] {
        fs::create_dir_all(stage.join(part))?;
    }
    let begin = Instant::now();
    let pid = namespaces::clone_into_new(|| {
        let Err(error) = enter(root, stage);
        // The parent reports the failure; this line says more.
        let _ = writeln!(io::stderr(), "{error}");
        NOT_STARTED
    })?;
    let status = waitpid(Some(pid), WaitOptions::empty())?;
    let millis = begin.elapsed().as_secs_f64() * 1000.0;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(millis),
        other => Err(io::Error::other(format!("the program ended with {other:?}"))),
    }
}

/// In the child: its own tree, then the program.
fn enter(root: &Path, stage: &Path) -> io::Result<Infallible> {
    let merged = stage.join("root");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        root.display(),
        stage.join("upper").display(),
        stage.join("work").display()
    );
    let options = CString::new(options)?;
    rustix::mount::mount("overlay", &merged, "overlay", MountFlags::NOSUID, options.as_c_str())?;
    for part in ["proc", "dev"] {
        fs::create_dir_all(merged.join(part))?;
    }
    rustix::mount::mount("proc", merged.join("proc"), "proc", MountFlags::NOSUID, None)?;
    rustix::mount::mount("dev", merged.join("dev"), "tmpfs", MountFlags::NOSUID, None)?;
    let null = merged.join("dev/null");
    fs::File::create(&null)?;
    rustix::mount::mount_bind("/dev/null", &null)?;
    rustix::process::chdir(&merged)?;
    // The old root is stacked under the new one and taken away from there: no directory for it is needed.
    pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Err(Command::new("/bin/true").env_clear().exec())
}
