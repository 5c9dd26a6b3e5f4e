//! What the host has left for sandboxes.

use super::{Inner, failed, trees};
use forkpoint_domain::ids::LayerId;
use forkpoint_engine::ports::runtime::{Room, RuntimeError};
use std::{fs, io, path::Path, sync::atomic::Ordering};

/// With less room than this it matters that removed layers give theirs back soon, in bytes.
const SHORT: u64 = 1 << 30;
/// Giving back takes a commit that forgets the layer, some cleaning, and a commit that frees what was cleaned.
const COMMITS: u8 = 4;

impl Inner {
    /// Looks at memory and disk now. What the layers' image may still grow by counts as room on disk.
    pub(super) fn room(&self) -> Result<Room, RuntimeError> {
        let layers = self.layers.usage().map_err(trees::failed("look at layers"))?.free_bytes;
        let host = free_bytes(&self.data_dir).map_err(failed("look at the host's disk"))?;
        let host = host.saturating_sub(self.host_reserve_bytes);
        let disk_bytes = if self.layers_in_image() { layers.saturating_add(host) } else { layers.min(host) };
        let memory_bytes = available_memory().map_err(failed("look at the host's memory"))?;
        Ok(Room { memory_bytes, disk_bytes, host_bytes: host })
    }

    /// Removes a layer. Its room comes back later, sooner if that is short.
    pub(super) fn remove_layer(&self, layer: LayerId) -> Result<(), RuntimeError> {
        self.layers.delete(layer.uuid()).map_err(trees::failed("delete layer"))?;
        self.settle.store(COMMITS, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the file system of the layers commit, if layers were removed lately and room is short: left to itself it
    /// takes up to a minute to give it back.
    pub(super) fn settle(&self) -> Result<(), RuntimeError> {
        let left = self.settle.load(Ordering::Relaxed);
        if left == 0 || self.layers.usage().map_err(trees::failed("look at layers"))?.free_bytes >= SHORT {
            return Ok(());
        }
        self.settle.store(left - 1, Ordering::Relaxed);
        self.layers.sync().map_err(trees::failed("settle layers"))
    }

    /// Whether the layers have a file system of their own, beside the data directory's.
    fn layers_in_image(&self) -> bool {
        self.data_dir.join("layers.img").exists()
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What the kernel thinks could be taken without anybody else missing it, in bytes.
fn available_memory() -> io::Result<u64> {
    meminfo(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}

/// All memory of the host, in bytes; 0 if the kernel does not say.
pub fn total_memory() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemTotal:")).unwrap_or(0)
}

fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24684048 kB\nMemFree:        18930432 kB\nMemAvailable:   22925312 kB\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(22_925_312 * 1024));
        assert_eq!(meminfo(text, "SwapTotal:"), None);
        assert!(available_memory().is_ok_and(|bytes| bytes <= total_memory()));
    }
}
