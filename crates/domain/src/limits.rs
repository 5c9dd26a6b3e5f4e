//! Resource limits of a sandbox and the ways people write them.

use crate::Invalid;
use serde::{Deserialize, Serialize};

/// What one sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time, in thousandths of one CPU.
    pub cpu_millis: u32,
    /// Memory in bytes, kernel memory and page cache included; there is no swap.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes that the sandbox's own layer may hold.
    pub disk_bytes: u64,
}

const MIB: u64 = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_millis: 1000, memory_bytes: 1024 * MIB, pids: 1024, disk_bytes: 10 * 1024 * MIB }
    }
}

/// The smallest and largest processor share that a request may ask for, in thousandths of a CPU.
pub const CPU_MILLIS_RANGE: (u32, u32) = (10, 256_000);
/// The smallest and largest memory limit that a request may ask for, in bytes.
pub const MEMORY_BYTES_RANGE: (u64, u64) = (32 * MIB, 4 * 1024 * 1024 * MIB);

impl Limits {
    /// These limits in Kubernetes' notation, as clients see them: (`cpus`, `memory`).
    pub fn display(&self) -> (String, String) {
        let cpus = if self.cpu_millis.is_multiple_of(1000) {
            (self.cpu_millis / 1000).to_string()
        } else {
            format!("{}m", self.cpu_millis)
        };
        let memory = [("Gi", 1024 * MIB), ("Mi", MIB), ("Ki", 1024)]
            .into_iter()
            .find(|(_, unit)| self.memory_bytes.is_multiple_of(*unit))
            .map_or_else(
                || self.memory_bytes.to_string(),
                |(name, unit)| format!("{}{name}", self.memory_bytes / unit),
            );
        (cpus, memory)
    }
}

/// Reads a processor share: `"1"`, `"0.5"` or `"500m"`; gives thousandths of a CPU.
pub fn parse_cpus(text: &str) -> Result<u32, Invalid> {
    let refuse = || Invalid::new("cpus", "must be a number of CPUs like \"1\", \"0.5\" or \"500m\"");
    let trimmed = text.trim();
    let millis = match trimmed.strip_suffix('m') {
        Some(number) => number.parse::<u32>().map_err(|_| refuse())? as f64,
        None => parse_decimal(trimmed).ok_or_else(refuse)? * 1000.0,
    };
    let (least, most) = CPU_MILLIS_RANGE;
    if !(f64::from(least)..=f64::from(most)).contains(&millis) {
        return Err(Invalid::new("cpus", format!("must be between {least}m and {}", most / 1000)));
    }
    Ok(millis.round() as u32)
}

/// Reads a memory size in Kubernetes' notation: a number with `Ki`, `Mi`, `Gi`, `Ti`, `k`, `M`, `G`, `T` or nothing; gives bytes.
pub fn parse_memory(text: &str) -> Result<u64, Invalid> {
    const UNITS: [(&str, u64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let trimmed = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| trimmed.strip_suffix(suffix).map(|number| (number, *unit)))
        .unwrap_or((trimmed, 1));
    let bytes = parse_decimal(number)
        .map(|number| number * unit as f64)
        .ok_or_else(|| Invalid::new("memory", "must be a size like \"512Mi\" or \"1Gi\""))?;
    let (least, most) = MEMORY_BYTES_RANGE;
    if !(least as f64..=most as f64).contains(&bytes) {
        return Err(Invalid::new("memory", format!("must be between {}Mi and {}Gi", least / MIB, most / MIB / 1024)));
    }
    Ok(bytes.round() as u64)
}

/// A plain decimal number: digits with at most one point. `f64`'s own parser would also take `inf`, `nan` and `1e9`.
fn parse_decimal(text: &str) -> Option<f64> {
    let plain = !text.is_empty()
        && text.len() <= 20
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.bytes().any(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_as_people_write_them() {
        for (text, millis) in [("1", 1000), ("0.5", 500), ("500m", 500), ("2.25", 2250), (" 4 ", 4000)] {
            assert_eq!(parse_cpus(text).unwrap(), millis, "{text}");
        }
        for text in ["", "0", "-1", "one", "1e3", "inf", "nan", "1000000", "m", ".", "0.5m", "9999999999999999999999"] {
            assert_eq!(parse_cpus(text).unwrap_err().field, "cpus", "{text}");
        }
    }

    #[test]
    fn memory_as_people_write_it() {
        for (text, bytes) in
            [("1Gi", 1 << 30), ("512Mi", 512 << 20), ("1.5Gi", 3 << 29), ("64M", 64_000_000), ("1073741824", 1 << 30)]
        {
            assert_eq!(parse_memory(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "1", "1Mi", "Gi", "-1Gi", "1Xi", "1e30", "9999999Ti", "1 Gi i"] {
            assert_eq!(parse_memory(text).unwrap_err().field, "memory", "{text}");
        }
    }

    #[test]
    fn limits_read_back_as_they_were_written() {
        let limits = Limits { cpu_millis: 500, memory_bytes: 1536 * MIB, ..Limits::default() };
        assert_eq!(limits.display(), ("500m".to_string(), "1536Mi".to_string()));
        assert_eq!(Limits::default().display(), ("1".to_string(), "1Gi".to_string()));
    }
}
