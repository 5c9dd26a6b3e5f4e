//! Which hierarchies are mounted where.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::files;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) point: PathBuf,
    /// Names of a version 1 hierarchy's controllers; `None` for version 2.
    pub(super) controllers: Option<Vec<String>>,
}

pub(super) fn read() -> Result<Vec<Mounted>> {
    let path = Path::new("/proc/self/mountinfo");
    // Paths need not be UTF-8; those that are not are none of the hierarchies.
    let content = std::fs::read(path).map_err(|error| Error::file("read", path, error))?;
    Ok(parse(&String::from_utf8_lossy(&content)))
}

/// The root of version 2 if it has the controllers that are needed.
pub(super) fn unified(mounted: &[Mounted]) -> Option<&Path> {
    mounted.iter().filter(|mount| mount.controllers.is_none()).map(|mount| mount.point.as_path()).find(|root| {
        let controllers = files::read(&root.join("cgroup.controllers")).unwrap_or_default();
        ["memory", "cpu", "pids"].iter().all(|needed| controllers.split_whitespace().any(|name| name == *needed))
    })
}

/// Lines "id parent dev root point options ... - type source super-options", see `proc_pid_mountinfo(5)`.
fn parse(mountinfo: &str) -> Vec<Mounted> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let mut filesystem = filesystem.split(' ');
            let controllers = match filesystem.next()? {
                "cgroup2" => None,
                "cgroup" => Some(filesystem.nth(1)?.split(',').map(str::to_owned).collect()),
                _ => return None,
            };
            // A path with blanks is written with octal escapes; no host mounts a hierarchy there.
            (!point.contains('\\')).then(|| Mounted { point: point.into(), controllers })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_among_other_mounts() {
        let found = parse(
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
             42 31 0:39 / /sys/fs/cgroup/odd\\040place rw - cgroup cgroup rw,memory\n",
        );
        let controllers = ["rw", "cpu", "cpuacct"].map(str::to_owned).to_vec();
        assert_eq!(
            found,
            [
                Mounted { point: "/sys/fs/cgroup/cpu,cpuacct".into(), controllers: Some(controllers) },
                Mounted { point: "/sys/fs/cgroup/unified".into(), controllers: None },
            ]
        );
    }
}
