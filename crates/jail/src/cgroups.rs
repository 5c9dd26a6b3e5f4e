//! Control groups: what holds a sandbox's processes, bounds them, freezes them and ends them.
//!
//! A sandbox's group is `forkpoint/<instance>/<id>`, under the root of version 2, or under each of the memory, cpu,
//! cpuacct, pids and freezer hierarchies of version 1 (a hybrid host has its controllers there). The name alone tells
//! whose it is, so that what a killed server left can be found and ended.

mod error;
mod files;
mod mounts;
mod v1;
mod v2;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use error::{Error, Result};

/// The directory of all groups of this program in a hierarchy.
const ROOT: &str = "forkpoint";

/// The control groups of this host.
#[derive(Debug, Clone)]
pub struct Cgroups(Version);

#[derive(Debug, Clone)]
enum Version {
    V1(v1::Hierarchies),
    V2(v2::Hierarchy),
}

/// What one sandbox may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, the kernel's for it, page cache and tmpfs included; no swap besides.
    pub memory_bytes: u64,
    /// Processor time in thousandths of one processor.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
}

/// What one sandbox has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    /// The most memory it has had at once.
    pub memory_peak: u64,
    /// Processor time since it was made, in microseconds.
    pub cpu_usec: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes that were killed because the memory was used up.
    pub oom_kills: u64,
    /// Times that a process could not be made because of the limit.
    pub pid_limit_hits: u64,
}

/// How the jail gets into a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupJoin {
    /// The `tasks` file of each hierarchy: writing 0 moves the writing thread without a lock over the whole host.
    V1(Vec<PathBuf>),
    /// The group's directory, into which the first process is cloned.
    V2(PathBuf),
}

/// The control group of one sandbox. Dropping it changes nothing: groups live until [`Group::remove`].
#[derive(Debug, Clone)]
pub struct Group(GroupVersion);

#[derive(Debug, Clone)]
enum GroupVersion {
    V1(v1::Group),
    V2(v2::Group),
}

impl Cgroups {
    /// Finds the mounted hierarchies. Version 2 is taken if it has the memory, cpu and pids controllers, else version 1.
    pub fn detect() -> Result<Self> {
        let mounted = mounts::read()?;
        if let Some(root) = mounts::unified(&mounted) {
            return Ok(Self(Version::V2(v2::Hierarchy::new(root))));
        }
        let hierarchies = v1::Hierarchies::find(&mounted)?;
        Ok(Self(Version::V1(hierarchies)))
    }

    /// "v1" (hybrid included) or "v2".
    pub fn version(&self) -> &'static str {
        match &self.0 {
            Version::V1(_) => "v1",
            Version::V2(_) => "v2",
        }
    }

    /// Makes the group of the sandbox `id` and sets its limits. On an error nothing of it is left.
    ///
    /// `instance` and `id` are 1 to 64 letters, digits, `-` and `_`. A group that is already there is an error.
    pub fn create(&self, instance: &str, id: &str, limits: &Limits) -> Result<Group> {
        let group = self.group(instance, id)?;
        let made = match &group.0 {
            GroupVersion::V1(group) => group.create(limits),
            GroupVersion::V2(group) => group.create(limits),
        };
        if let Err(error) = made {
            // Not if it was somebody else's: that one may have processes in it.
            if !error.already_exists() {
                let _ = group.remove();
            }
            return Err(error);
        }
        Ok(group)
    }

    /// The group of the sandbox `id`, without looking whether it is there.
    pub fn group(&self, instance: &str, id: &str) -> Result<Group> {
        let name = format!("{}/{}", component(instance)?, component(id)?);
        Ok(Group(match &self.0 {
            Version::V1(hierarchies) => GroupVersion::V1(hierarchies.group(&name)),
            Version::V2(hierarchy) => GroupVersion::V2(hierarchy.group(&name)),
        }))
    }

    /// The ids of all groups of an instance, also of those that exist only in part, sorted.
    pub fn list(&self, instance: &str) -> Result<Vec<String>> {
        let name = component(instance)?;
        let mut ids = Vec::new();
        for root in self.roots() {
            ids.extend(files::subdirectories(&root.join(ROOT).join(name))?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Ends everything that runs in an instance's groups and removes them.
    pub fn remove_instance(&self, instance: &str) -> Result<()> {
        for id in self.list(instance)? {
            let group = self.group(instance, &id)?;
            group.kill_all()?;
            group.remove()?;
        }
        for root in self.roots() {
            let parent = root.join(ROOT);
            files::remove_directory(&parent.join(component(instance)?), Instant::now() + REMOVE)?;
            // Other instances may be in it, which is no error.
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }

    fn roots(&self) -> Vec<PathBuf> {
        match &self.0 {
            Version::V1(hierarchies) => hierarchies.roots(),
            Version::V2(hierarchy) => vec![hierarchy.root().to_owned()],
        }
    }
}

/// How long [`Group::kill_all`] tries.
const KILL: Duration = Duration::from_secs(10);

/// How long [`Group::remove`] waits for the last process to leave.
const REMOVE: Duration = Duration::from_secs(5);

impl Group {
    /// What [`crate::Spec::cgroup`] needs.
    pub fn join(&self) -> CgroupJoin {
        match &self.0 {
            GroupVersion::V1(group) => CgroupJoin::V1(group.tasks_files()),
            GroupVersion::V2(group) => CgroupJoin::V2(group.directory().to_owned()),
        }
    }

    /// Stops all processes. `false` if not all had stopped in time; they stay half frozen until [`Group::thaw`].
    pub fn freeze(&self, within: Duration) -> Result<bool> {
        let deadline = Instant::now() + within;
        match &self.0 {
            GroupVersion::V1(group) => group.freeze(deadline),
            GroupVersion::V2(group) => group.freeze(deadline),
        }
    }

    /// Lets the processes go on. Nothing happens to a group that is not frozen.
    pub fn thaw(&self) -> Result<()> {
        match &self.0 {
            GroupVersion::V1(group) => group.thaw(),
            GroupVersion::V2(group) => group.thaw(),
        }
    }

    /// Ends all processes, frozen ones too, and waits until none is left (10 seconds at most).
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + KILL;
        match &self.0 {
            GroupVersion::V1(group) => group.kill_all(deadline),
            GroupVersion::V2(group) => group.kill_all(deadline),
        }
    }

    /// Ids of all processes in it, as the host sees them; none if the group does not exist.
    pub fn pids(&self) -> Result<Vec<u32>> {
        match &self.0 {
            GroupVersion::V1(group) => group.pids(),
            GroupVersion::V2(group) => group.pids(),
        }
    }

    /// What its processes have taken so far.
    pub fn usage(&self) -> Result<Usage> {
        match &self.0 {
            GroupVersion::V1(group) => group.usage(),
            GroupVersion::V2(group) => group.usage(),
        }
    }

    /// Sets other limits while it runs.
    pub fn set_limits(&self, limits: &Limits) -> Result<()> {
        match &self.0 {
            GroupVersion::V1(group) => group.set_limits(limits),
            GroupVersion::V2(group) => group.set_limits(limits),
        }
    }

    /// Removes it once the last process has left (5 seconds at most). A group that is gone already is removed.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE;
        match &self.0 {
            GroupVersion::V1(group) => group.remove(deadline),
            GroupVersion::V2(group) => group.remove(deadline),
        }
    }
}

/// One path component that cannot lead anywhere else.
fn component(name: &str) -> Result<&str> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(usual) {
        return Err(Error::Name(name.chars().take(80).collect()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_hierarchy_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0", "a b", &"x".repeat(65)] {
            assert!(component(name).is_err(), "{name:?}");
        }
        assert_eq!(component("0a1b-sbx_9").unwrap(), "0a1b-sbx_9");
    }
}
