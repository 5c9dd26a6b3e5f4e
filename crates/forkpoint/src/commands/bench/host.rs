//! What a bench ran on.

use crate::client::Client;
use serde::Serialize;
use serde_json::Value;
use std::{path::Path, process::Stdio};

/// Facts about the machine and the server.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct HostFacts {
    /// This program's version.
    pub(crate) forkpoint: String,
    /// When the bench began.
    pub(crate) started_at: String,
    /// Kernel release and machine.
    pub(crate) kernel: String,
    /// The distribution.
    pub(crate) system: String,
    /// How many processors, and of which model.
    pub(crate) cpus: String,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// What lies under the server's data, where that is known.
    pub(crate) filesystem: String,
    /// How the server keeps layers, where it says so.
    pub(crate) layer_driver: String,
    /// Load averages when the bench began: what else was going on.
    pub(crate) load: String,
    /// Whether client and server were on one machine; otherwise these facts are the client's.
    pub(crate) server_is_local: bool,
}

impl HostFacts {
    /// Looks. `data_dir` is the server's, where it is known.
    pub(crate) async fn look(client: &Client, data_dir: Option<&Path>) -> Self {
        let uname = rustix::system::uname();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let model = field(&read("/proc/cpuinfo"), "model name", ':');
        let count = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        // A server that keeps its metrics to itself only leaves this fact unknown.
        let metrics = client.page("/metrics").await.unwrap_or_default();
        let layer_driver = match (label(&metrics, "driver"), data_dir) {
            (Some(driver), _) => driver,
            (None, Some(data_dir)) => doctors_layers(data_dir).await.unwrap_or_default(),
            (None, None) => String::new(),
        };
        Self {
            forkpoint: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: jiff::Timestamp::now().to_string(),
            kernel: format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_owned(),
            cpus: format!("{count} × {model}"),
            memory_bytes: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024,
            filesystem: data_dir.map(filesystem).unwrap_or_default(),
            layer_driver,
            load: read("/proc/loadavg").trim().to_owned(),
            server_is_local: client.is_local(),
        }
    }

    /// The facts that are known, for people.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("forkpoint", self.forkpoint.clone()),
            ("started", self.started_at.clone()),
            ("kernel", self.kernel.clone()),
            ("system", self.system.clone()),
            ("processors", self.cpus.clone()),
            ("memory", crate::output::human_bytes(self.memory_bytes)),
            ("filesystem", self.filesystem.clone()),
            ("layer driver", self.layer_driver.clone()),
            ("load at start", self.load.clone()),
            (
                "server",
                if self.server_is_local { "on this machine" } else { "elsewhere; the facts are the client's" }
                    .to_owned(),
            ),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// The value of the first line that begins with a name.
fn field(text: &str, name: &str, separator: char) -> String {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// The value of a label anywhere in a page of metrics.
fn label(metrics: &str, name: &str) -> Option<String> {
    let marker = format!("{name}=\"");
    let line = metrics.lines().find(|line| !line.starts_with('#') && line.contains(&marker))?;
    let (_, rest) = line.split_once(&marker)?;
    rest.split_once('"').map(|(value, _)| crate::output::clean(value))
}

/// What the doctor says about the layers of a data directory.
async fn doctors_layers(data_dir: &Path) -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let output = tokio::process::Command::new(program)
        .args(["doctor", "--json", "--data-dir"])
        .arg(data_dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    layers_check(&serde_json::from_slice(&output.stdout).ok()?)
}

fn layers_check(doctor: &Value) -> Option<String> {
    let checks = doctor.pointer("/host/checks")?.as_array()?;
    let layers = checks.iter().find(|check| check.get("name").and_then(Value::as_str) == Some("layers"))?;
    layers.get("detail")?.as_str().map(crate::output::clean)
}

/// The name of the filesystem that a path is on.
fn filesystem(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return String::new() };
    // Numbers from the kernel's linux/magic.h.
    match stat.f_type & 0xffff_ffff {
        0xef53 => "ext4".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("{other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_in_the_texts_that_hold_them() {
        assert_eq!(field("a : 1\nmodel name\t: X Y\nmodel name\t: Z\n", "model name", ':'), "X Y");
        let metrics = "# HELP x driver=\"no\"\nforkpoint_layers{driver=\"btrfs\",x=\"1\"} 4\n";
        assert_eq!(label(metrics, "driver").as_deref(), Some("btrfs"));
        assert_eq!(label(metrics, "other"), None);
        let doctor = serde_json::json!({"host": {"checks": [{"name": "kernel", "detail": "6"}, {"name": "layers", "detail": "btrfs"}]}});
        assert_eq!(layers_check(&doctor).as_deref(), Some("btrfs"));
    }
}
