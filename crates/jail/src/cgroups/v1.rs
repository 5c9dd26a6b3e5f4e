//! Groups of version 1: one directory in each controller's hierarchy.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::mounts::Mounted;
use super::{Limits, ROOT, Usage, files};

/// Period of the processor bound in microseconds, the kernel's default.
const PERIOD_USEC: u64 = 100_000;

/// TCP's buffers may take this part of a group's bound for memory on top of it, and at least so many bytes.
const SOCKET_SHARE: u64 = 4;
const SOCKET_LEAST: u64 = 16 << 20;

/// How long a group is given to freeze before its processes are killed; killing works without, only less surely.
const FREEZE_TO_KILL: Duration = Duration::from_millis(200);

/// Where each controller is. Some may be mounted together and then share a directory.
#[derive(Debug, Clone)]
pub(super) struct Hierarchies {
    memory: PathBuf,
    cpu: PathBuf,
    cpuacct: Option<PathBuf>,
    pids: PathBuf,
    freezer: PathBuf,
}

impl Hierarchies {
    pub(super) fn find(mounted: &[Mounted]) -> Result<Self> {
        let find = |name: &str| {
            let has = |mount: &&Mounted| mount.controllers.iter().flatten().any(|controller| controller == name);
            mounted.iter().find(has).map(|mount| mount.point.clone())
        };
        let mut missing = Vec::new();
        let mut need = |name: &'static str| {
            find(name).unwrap_or_else(|| {
                missing.push(name);
                PathBuf::new()
            })
        };
        let (memory, cpu, pids, freezer) = (need("memory"), need("cpu"), need("pids"), need("freezer"));
        if !missing.is_empty() {
            return Err(Error::Missing { missing: format!("not found: {}", missing.join(", ")) });
        }
        Ok(Self { memory, cpu, cpuacct: find("cpuacct"), pids, freezer })
    }

    /// Each directory once.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = Vec::new();
        let all = [Some(&self.memory), Some(&self.cpu), self.cpuacct.as_ref(), Some(&self.pids), Some(&self.freezer)];
        for root in all.into_iter().flatten() {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }

    pub(super) fn group(&self, name: &str) -> Group {
        Group { hierarchies: self.clone(), name: Path::new(ROOT).join(name) }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    hierarchies: Hierarchies,
    name: PathBuf,
}

impl Group {
    pub(super) fn create(&self, limits: &Limits) -> Result<()> {
        let (Some(parent), Some(own)) = (self.name.parent(), self.name.file_name()) else {
            return Err(Error::Name(self.name.display().to_string()));
        };
        for root in self.hierarchies.roots() {
            files::make_group(&root, parent, Path::new(own))?;
        }
        self.set_limits(limits)
    }

    pub(super) fn set_limits(&self, limits: &Limits) -> Result<()> {
        self.set_memory(limits.memory_bytes)?;
        self.set_socket_memory(limits.memory_bytes)?;
        let cpu = self.in_hierarchy(&self.hierarchies.cpu);
        files::write(&cpu.join("cpu.cfs_period_us"), &PERIOD_USEC.to_string())?;
        files::write(&cpu.join("cpu.cfs_quota_us"), &quota_usec(limits.cpu_millis).to_string())?;
        files::write(&self.in_hierarchy(&self.hierarchies.pids).join("pids.max"), &limits.pids.to_string())
    }

    /// Memory with swap may never be set below memory alone, so which goes first depends on the direction.
    fn set_memory(&self, bytes: u64) -> Result<()> {
        let group = self.in_hierarchy(&self.hierarchies.memory);
        let (memory, with_swap) = (group.join("memory.limit_in_bytes"), group.join("memory.memsw.limit_in_bytes"));
        let bytes = bytes.to_string();
        files::write(&group.join("memory.swappiness"), "0")?;
        if !with_swap.exists() {
            return files::write(&memory, &bytes);
        }
        if files::try_write(&memory, &bytes).is_err() {
            files::write(&with_swap, &bytes)?;
            files::write(&memory, &bytes)?;
        }
        files::write(&with_swap, &bytes)
    }

    /// What TCP holds back for slow readers is not part of a group's memory here. Unbounded, one sandbox could take
    /// what the host has for the sockets of all. Not every kernel of today still has the bound.
    fn set_socket_memory(&self, bytes: u64) -> Result<()> {
        let bound = self.in_hierarchy(&self.hierarchies.memory).join("memory.kmem.tcp.limit_in_bytes");
        if !bound.exists() {
            return Ok(());
        }
        files::write(&bound, &(bytes / SOCKET_SHARE).max(SOCKET_LEAST).to_string())
    }

    pub(super) fn tasks_files(&self) -> Vec<PathBuf> {
        self.hierarchies.roots().iter().map(|root| self.in_hierarchy(root).join("tasks")).collect()
    }

    pub(super) fn freeze(&self, deadline: Instant) -> Result<bool> {
        let state = self.freezer_state();
        files::write(&state, "FROZEN")?;
        // Reading is what makes the kernel look whether all have stopped.
        files::until(deadline, || Ok(files::read(&state)?.trim() == "FROZEN"))
    }

    pub(super) fn thaw(&self) -> Result<()> {
        files::write(&self.freezer_state(), "THAWED")
    }

    /// Kills what is there; with the first process of a pid namespace the kernel ends all others of it.
    ///
    /// What is still there after that is frozen first, so that it cannot fork on ahead of the signals.
    pub(super) fn kill_all(&self, deadline: Instant) -> Result<()> {
        if self.pids()?.is_empty() {
            return Ok(());
        }
        let mut processes = files::kill(|| self.pids())?;
        // Signals take effect on frozen processes only when they go on.
        let mut thawed = self.thaw();
        loop {
            files::wait_ended(&processes, deadline)?;
            let count = self.pids()?.len();
            if count == 0 {
                return Ok(());
            }
            thawed?;
            if Instant::now() >= deadline {
                return Err(Error::StillRunning { path: self.in_hierarchy(&self.hierarchies.freezer), count });
            }
            // Whether or not all could be stopped in time, those that were cannot fork.
            let frozen = self.freeze(deadline.min(Instant::now() + FREEZE_TO_KILL));
            let killed = files::kill(|| self.pids());
            thawed = self.thaw();
            processes = killed?;
            frozen?;
        }
    }

    /// From all hierarchies: a start that was killed half-way may have joined only some.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for root in self.hierarchies.roots() {
            pids.extend(files::read_pids(&self.in_hierarchy(&root).join("cgroup.procs"))?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let memory = self.in_hierarchy(&self.hierarchies.memory);
        let pids = self.in_hierarchy(&self.hierarchies.pids);
        let cpu_nsec = match &self.hierarchies.cpuacct {
            Some(root) => files::read_number(&self.in_hierarchy(root).join("cpuacct.usage"))?,
            None => 0,
        };
        Ok(Usage {
            memory_bytes: files::read_number(&memory.join("memory.usage_in_bytes"))?,
            memory_peak: files::read_number(&memory.join("memory.max_usage_in_bytes"))?,
            cpu_usec: cpu_nsec / 1000,
            pids: files::read_number(&pids.join("pids.current"))?,
            oom_kills: files::read_key(&memory.join("memory.oom_control"), "oom_kill")?,
            pid_limit_hits: files::read_key(&pids.join("pids.events"), "max")?,
        })
    }

    pub(super) fn remove(&self, deadline: Instant) -> Result<()> {
        for root in self.hierarchies.roots() {
            files::remove_directory(&self.in_hierarchy(&root), deadline)?;
        }
        Ok(())
    }

    fn in_hierarchy(&self, root: &Path) -> PathBuf {
        root.join(&self.name)
    }

    fn freezer_state(&self) -> PathBuf {
        self.in_hierarchy(&self.hierarchies.freezer).join("freezer.state")
    }
}

/// Processor time in each period; the kernel takes no less than a millisecond.
fn quota_usec(cpu_millis: u32) -> u64 {
    (u64::from(cpu_millis) * PERIOD_USEC / 1000).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(point: &str, controllers: &[&str]) -> Mounted {
        Mounted { point: point.into(), controllers: Some(controllers.iter().map(|name| (*name).to_owned()).collect()) }
    }

    #[test]
    fn controllers_mounted_together_are_joined_once() {
        let found = Hierarchies::find(&[
            mounted("/c/cpu,cpuacct", &["rw", "cpu", "cpuacct"]),
            mounted("/c/memory", &["memory"]),
            mounted("/c/pids", &["pids"]),
            mounted("/c/freezer", &["freezer"]),
        ])
        .unwrap();
        let tasks = found.group("i/x").tasks_files();
        let expected =
            ["memory", "cpu,cpuacct", "pids", "freezer"].map(|c| PathBuf::from(format!("/c/{c}/forkpoint/i/x/tasks")));
        assert_eq!(tasks, expected);
    }

    #[test]
    fn missing_controllers_are_named() {
        let error = Hierarchies::find(&[mounted("/c/memory", &["memory"])]).unwrap_err();
        assert!(error.to_string().contains("not found: cpu, pids, freezer"), "{error}");
    }

    #[test]
    fn processor_thousandths_become_a_quota() {
        assert_eq!([1, 500, 1000, 2500].map(quota_usec), [1000, 50_000, 100_000, 250_000]);
    }
}
