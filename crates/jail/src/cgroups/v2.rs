//! Groups of version 2: one directory, controllers enabled along the way down.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{Error, Result};
use super::{Limits, ROOT, Usage, files};

/// Period of the processor bound in microseconds, the kernel's default.
const PERIOD_USEC: u64 = 100_000;

const CONTROLLERS: &str = "+memory +cpu +pids";

#[derive(Debug, Clone)]
pub(super) struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn group(&self, name: &str) -> Group {
        Group { root: self.root.clone(), name: Path::new(ROOT).join(name) }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    root: PathBuf,
    name: PathBuf,
}

impl Group {
    pub(super) fn create(&self, limits: &Limits) -> Result<()> {
        self.make()?;
        let mut path = self.root.clone();
        enable(&path)?;
        for part in self.name.parent().into_iter().flat_map(Path::components) {
            path.push(part);
            enable(&path)?;
        }
        self.set_limits(limits)
    }

    fn make(&self) -> Result<()> {
        let (Some(parent), Some(own)) = (self.name.parent(), self.name.file_name()) else {
            return Err(Error::Name(self.name.display().to_string()));
        };
        files::make_group(&self.root, parent, Path::new(own))
    }

    pub(super) fn set_limits(&self, limits: &Limits) -> Result<()> {
        let group = self.directory();
        for (file, value) in settings(limits) {
            files::write(&group.join(file), &value)?;
        }
        // Absent where the kernel has no swap at all.
        let swap = group.join("memory.swap.max");
        if swap.exists() { files::write(&swap, "0") } else { Ok(()) }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(super) fn freeze(&self, deadline: Instant) -> Result<bool> {
        files::write(&self.directory().join("cgroup.freeze"), "1")?;
        self.wait_event("frozen", 1, deadline)
    }

    pub(super) fn thaw(&self) -> Result<()> {
        files::write(&self.directory().join("cgroup.freeze"), "0")
    }

    /// The kernel kills frozen processes too, and a group being forked in cannot outrun it.
    pub(super) fn kill_all(&self, deadline: Instant) -> Result<()> {
        let path = self.directory();
        match files::try_write(&path.join("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) => return Err(Error::file("write", path.join("cgroup.kill"), error)),
        }
        if self.wait_event("populated", 0, deadline)? {
            return Ok(());
        }
        Err(Error::StillRunning { count: self.pids()?.len(), path })
    }

    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        files::read_pids(&self.directory().join("cgroup.procs"))
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let group = self.directory();
        Ok(Usage {
            memory_bytes: files::read_number(&group.join("memory.current"))?,
            memory_peak: files::read_number(&group.join("memory.peak"))?,
            cpu_usec: files::read_key(&group.join("cpu.stat"), "usage_usec")?,
            pids: files::read_number(&group.join("pids.current"))?,
            oom_kills: files::read_key(&group.join("memory.events"), "oom_kill")?,
            pid_limit_hits: files::read_key(&group.join("pids.events"), "max")?,
        })
    }

    pub(super) fn remove(&self, deadline: Instant) -> Result<()> {
        let path = self.directory();
        if path.exists() {
            self.wait_event("populated", 0, deadline)?;
        }
        files::remove_directory(&path, deadline)
    }

    /// Waits until `key` in `cgroup.events` is `value`; the kernel tells of changes. `false` at the deadline.
    fn wait_event(&self, key: &str, value: u64, deadline: Instant) -> Result<bool> {
        let path = self.directory().join("cgroup.events");
        let failed = |error: io::Error| Error::file("wait for", &path, error);
        // Opened before the first look, so that a change after it is told.
        let file = File::open(&path).map_err(failed)?;
        loop {
            if files::read_key(&path, key)? == value {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            // The descriptor that waits must be read as well: that is what makes the next change news.
            io::Read::read(&mut &file, &mut [0; 256]).map_err(failed)?;
            if files::read_key(&path, key)? == value {
                return Ok(true);
            }
            match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|error| failed(error.into()))?;
        }
    }
}

/// Makes the controllers available to the groups below `path`.
fn enable(path: &Path) -> Result<()> {
    let control = path.join("cgroup.subtree_control");
    let enabled = files::read(&control)?;
    if ["memory", "cpu", "pids"].iter().all(|needed| enabled.split_whitespace().any(|name| name == *needed)) {
        return Ok(());
    }
    match files::try_write(&control, CONTROLLERS) {
        Ok(()) => Ok(()),
        // A group other than the host's root may have processes or controllers below, not both. This process is
        // ours to move; any other is not.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let pids = files::read_pids(&path.join("cgroup.procs"))?;
            if pids != [std::process::id()] {
                return Err(Error::Occupied { path: path.to_owned(), pids: pids.len() });
            }
            let aside = path.join("forkpoint-server");
            std::fs::create_dir_all(&aside).map_err(|error| Error::file("make", &aside, error))?;
            files::write(&aside.join("cgroup.procs"), "0")?;
            files::write(&control, CONTROLLERS)
        }
        Err(error) => Err(Error::file("write", control, error)),
    }
}

fn settings(limits: &Limits) -> [(&'static str, String); 3] {
    let quota_usec = (u64::from(limits.cpu_millis) * PERIOD_USEC / 1000).max(1000);
    [
        ("memory.max", limits.memory_bytes.to_string()),
        ("cpu.max", format!("{quota_usec} {PERIOD_USEC}")),
        ("pids.max", limits.pids.to_string()),
    ]
}

#[cfg(test)]
mod tests;
