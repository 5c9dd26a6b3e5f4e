//! What this host offers to the jail, found by looking, not by trying.

use std::path::Path;

use crate::cgroups::Cgroups;

/// The oldest kernel on which overlays over idmapped layers work.
const OLDEST_KERNEL: (u32, u32) = (5, 19);

/// The host's side of what a sandbox needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Release of the kernel, such as "6.1.0-18-amd64".
    pub kernel: String,
    /// "v1" (hybrid included), "v2", or "none".
    pub cgroups: &'static str,
    /// What is missing and what would be right, one sentence each; empty if sandboxes can be built.
    pub problems: Vec<String>,
}

/// Looks at the kernel's release, its features and the control groups.
pub fn probe() -> HostFacts {
    let kernel = read("/proc/sys/kernel/osrelease");
    let mut problems = Vec::new();
    if version(&kernel).is_none_or(|found| found < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        problems.push(format!("kernel {kernel} is too old, must be {major}.{minor} or later for idmapped overlays"));
    }
    if !rustix::process::geteuid().is_root() {
        problems.push("not root: building sandboxes needs root's capabilities".to_owned());
    }
    if !read("/proc/filesystems").lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        problems.push("overlay is not among the filesystems: load the module overlay".to_owned());
    }
    if read("/proc/sys/user/max_user_namespaces").parse().unwrap_or(0_u64) == 0 {
        problems.push("user namespaces are switched off: set user.max_user_namespaces above 0".to_owned());
    }
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        problems.push("the kernel has no system call filters (CONFIG_SECCOMP_FILTER)".to_owned());
    }
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups.version(),
        Err(error) => {
            problems.push(error.to_string());
            "none"
        }
    };
    HostFacts { kernel, cgroups, problems }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-custom"), Some((6, 18)));
        assert!(version("5.4.0").unwrap() < OLDEST_KERNEL);
        assert!(version("5.19.0-rc1").unwrap() >= OLDEST_KERNEL);
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn this_host_can_build_sandboxes() {
        let facts = probe();
        assert_eq!(facts.problems, [""; 0]);
        assert!(["v1", "v2"].contains(&facts.cgroups));
    }
}
