//! A build that is stopped half-way, by its caller or by kill -9, leaves no process and nothing half-made.
//! These builds are real ones (package lists are fetched), ended after a few seconds.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forkpoint_templates::{Error, Stage, TemplateStore};

const HELPER_DIRECTORY: &str = "FORKPOINT_TEST_BUILD_IN";

fn store(directory: &Path) -> TemplateStore {
    let data = directory.join("data");
    fs::create_dir_all(&data).unwrap();
    TemplateStore::open(&data, &directory.join("cache")).unwrap()
}

fn staged(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("cache/templates/default")).into_iter().flatten();
    let hidden = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(".tmp-");
    entries.map(|e| e.unwrap().path()).filter(hidden).collect()
}

/// Processes with `text` in their command line, this one not counted.
fn processes_naming(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && *pid != own)
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// Polls for what has no event to wait for: the end of processes that are not this one's children.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cancelled_build_ends_its_processes_and_removes_what_it_made() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = store(directory.path());
    let cancel = store.canceller();
    let mut seen = None;
    let result = store.ensure_default(&mut |progress| {
        if progress.stage == Stage::Downloading {
            seen = Some(Instant::now());
            cancel.cancel();
        }
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    let took = seen.expect("the build got as far as downloading").elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(staged(directory.path()).is_empty());
    assert_eq!(processes_naming(directory.path().to_str().unwrap()), Vec::<String>::new());
}

#[test]
fn a_builder_killed_with_signal_9_takes_its_processes_along() {
    if let Some(directory) = std::env::var_os(HELPER_DIRECTORY) {
        // This is the builder, started below.
        store(Path::new(&directory)).ensure_default(&mut |_| {}).unwrap();
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut builder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_builder_killed_with_signal_9_takes_its_processes_along"])
        .env(HELPER_DIRECTORY, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let log = directory.path().join("cache/templates/default/build.log");
    eventually("extracting", || fs::read_to_string(&log).is_ok_and(|t| t.contains("I: extracting")));
    let path = directory.path().to_str().unwrap();
    assert!(!processes_naming(path).is_empty(), "the build's processes are seen");
    assert!(!staged(directory.path()).is_empty());
    builder.kill().unwrap();
    builder.wait().unwrap();
    eventually("the end of all processes", || processes_naming(path).is_empty());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path));

    // The next call begins by removing what was left.
    let store = store(directory.path());
    let cancel = store.canceller();
    let result = store.ensure_default(&mut |progress| {
        if progress.stage == Stage::Updating {
            cancel.cancel();
        }
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert!(staged(directory.path()).is_empty());
}
