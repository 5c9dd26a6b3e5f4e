//! Reading and writing the files of a control group, waiting for them, and ending processes by them.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::{Error, Result};
use crate::launcher::wait_readable;

/// Between two looks at a file that cannot be waited for: at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(4));

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    try_write(path, value).map_err(|error| Error::file("write", path, error))
}

/// One write, since the kernel takes each as a whole.
pub(super) fn try_write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

pub(super) fn read(path: &Path) -> Result<String> {
    let mut content = String::new();
    OpenOptions::new()
        .read(true)
        .open(path)
        .and_then(|mut file| file.read_to_string(&mut content))
        .map_err(|error| Error::file("read", path, error))?;
    Ok(content)
}

pub(super) fn read_number(path: &Path) -> Result<u64> {
    let content = read(path)?;
    content.trim().parse().map_err(|_| Error::Content { path: path.to_owned(), content })
}

/// The number behind `key` in a file of lines "key number"; 0 if the kernel does not count it.
pub(super) fn read_key(path: &Path, key: &str) -> Result<u64> {
    let content = read(path)?;
    let value = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    Ok(value.unwrap_or(0))
}

/// Process ids in a `cgroup.procs` file; none if the group is gone.
pub(super) fn read_pids(path: &Path) -> Result<Vec<u32>> {
    match read(path) {
        Ok(content) => Ok(content.lines().filter_map(|line| line.parse().ok()).collect()),
        // ENODEV: removed between opening and reading.
        Err(Error::File { source, .. })
            if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Names of the directories in `path`; none if it does not exist.
pub(super) fn subdirectories(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::file("list", path, error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Makes `root/first/second`, where only the last must not be there yet.
pub(super) fn make_group(root: &Path, parent: &Path, name: &Path) -> Result<()> {
    let path = root.join(parent).join(name);
    // Another server may remove the shared parent, empty at that moment, between our two calls.
    for _ in 0..16 {
        std::fs::create_dir_all(root.join(parent)).map_err(|error| Error::file("make", &path, error))?;
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file("make", path, error)),
        }
    }
    Err(Error::file("make", path, io::ErrorKind::NotFound))
}

/// Removes a group. A process that has just ended can still hold it for a moment.
pub(super) fn remove_directory(path: &Path, deadline: Instant) -> Result<()> {
    let mut removed = Ok(());
    until(deadline, || {
        removed = match std::fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        Ok(!matches!(&removed, Err(error) if error.kind() == io::ErrorKind::ResourceBusy))
    })?;
    removed.map_err(|error| Error::file("remove", path, error))
}

/// Looks again and again until `done` or the deadline; `false` if the deadline came first.
pub(super) fn until(deadline: Instant, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let mut pause = LOOK.0;
    loop {
        if done()? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LOOK.1);
    }
}

/// Sends SIGKILL to the processes that `list` names, and returns descriptors to wait for their end with.
///
/// An id read from a list may belong to another process by the time it is used. So each is opened first and the list
/// read again: an id that is still on it has belonged to the opened process all the time, or that one is dead.
pub(super) fn kill(list: impl Fn() -> Result<Vec<u32>>) -> Result<Vec<OwnedFd>> {
    let opened: Vec<(u32, OwnedFd)> = list()?
        .into_iter()
        .filter_map(|id| {
            let pid = Pid::from_raw(i32::try_from(id).ok()?)?;
            Some((id, pidfd_open(pid, PidfdFlags::empty()).ok()?))
        })
        .collect();
    let mut still = list()?;
    still.sort_unstable();
    let ours = opened.into_iter().filter(|(id, _)| still.binary_search(id).is_ok());
    Ok(ours
        .map(|(_, process)| {
            // It can only be gone, which is what is wanted.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            process
        })
        .collect())
}

/// Waits until all these processes have ended; `false` if the deadline came first.
pub(super) fn wait_ended(processes: &[OwnedFd], deadline: Instant) -> Result<bool> {
    for process in processes {
        let ended = wait_readable(process.as_fd(), deadline)
            .map_err(|error| Error::file("wait for a process of", "the group", error))?;
        if !ended {
            return Ok(false);
        }
    }
    Ok(true)
}
