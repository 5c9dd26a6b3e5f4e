//! What this host can do for sandboxes, said plainly.

use forkpoint_volumes::DriverChoice;
use serde::Serialize;
use std::path::Path;

/// One thing that sandboxes need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostCheck {
    /// What.
    pub name: &'static str,
    /// Whether it is there.
    pub good: bool,
    /// Whether sandboxes cannot be without it.
    pub required: bool,
    /// How it is, or why it is not.
    pub detail: String,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Kernel release.
    pub kernel: String,
    /// CPUs.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    checks: Vec<HostCheck>,
}

impl HostReport {
    /// What was looked at.
    pub fn checks(&self) -> &[HostCheck] {
        &self.checks
    }

    /// What is missing and needed.
    pub fn problems(&self) -> Vec<String> {
        let missing = self.checks.iter().filter(|check| check.required && !check.good);
        missing.map(|check| format!("{}: {}", check.name, check.detail)).collect()
    }
}

/// Looks at this host.
pub async fn probe(data_dir: &Path, choice: DriverChoice) -> HostReport {
    let check = |name, required, good, detail: String| HostCheck { name, good, required, detail };
    let facts = forkpoint_jail::host::probe();
    let mut checks = vec![
        check("kernel", true, true, facts.kernel.clone()),
        check("cgroups", true, facts.cgroups != "none", facts.cgroups.to_owned()),
    ];
    let problems = if facts.problems.is_empty() { "complete".to_owned() } else { facts.problems.join("; ") };
    checks.push(check("isolation", true, facts.problems.is_empty(), problems));
    let network = forkpoint_network::probe().await;
    for (name, required, found) in [
        ("network namespaces", true, network.namespaces),
        ("network links", true, network.veth),
        ("packet filter", true, network.nft),
        ("connection tracking", true, network.conntrack),
        ("forwarding", true, network.ip_forward),
        ("other firewalls", false, network.other_firewalls),
        ("name resolution", false, network.resolver),
    ] {
        checks.push(check(name, required, found.ok, found.detail));
    }
    let layers = forkpoint_volumes::probe(data_dir, choice);
    let detail = match layers.driver {
        Some(driver) => {
            let image = if layers.image { " (image file)" } else { "" };
            format!("{driver}{image}: {}", layers.reasons.join("; "))
        }
        None => layers.reasons.join("; "),
    };
    checks.push(check("layers", true, layers.driver.is_some(), detail));
    let detail = match layers.limits {
        true => "each sandbox is held to its own",
        false => "not held to: sandboxes share the file system of the data directory, and may fill it",
    };
    checks.push(check("disk limits", false, layers.limits, detail.to_owned()));
    let memory_bytes = super::total_memory();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    HostReport { kernel: facts.kernel, cpus, memory_bytes, checks }
}
