//! What runs in the sandbox, from its `/proc`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use forkpoint_protocol::{AgentFrame, Process, Usage};

use crate::agent::Agent;
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::files::read_small;

/// Processes told of at most.
const MOST: usize = 4096;
/// Bytes of a command line told of.
const MAX_COMMAND: usize = 4096;
/// Processes in one frame: with full command lines they stay below the frame limit.
const BATCH: usize = 128;
/// The unit of times in `/proc/<pid>/stat` is 1/100 s on every architecture Linux runs on today.
const MS_PER_TICK: u64 = 10;

/// What is used of `/proc/<pid>/stat`.
pub(crate) struct Stat {
    pub(crate) name: Vec<u8>,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) ticks: u64,
    pub(crate) threads: u32,
    pub(crate) resident_pages: u64,
}

/// Numbers of all processes.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// `None` when the process is gone.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse(&read_small(format!("/proc/{pid}/stat").as_bytes(), 4096).ok()?)
}

/// The name, in parentheses, may hold anything, so the fields are counted from its last one.
fn parse(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let name = line.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let id = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(Stat {
        name,
        state: fields.first()?.chars().next()?,
        parent: id(1)?,
        group: id(2)?,
        session: id(3)?,
        ticks: number(11)?.saturating_add(number(12)?),
        threads: number(17)?.try_into().ok()?,
        resident_pages: number(21)?,
    })
}

/// Sends all processes.
pub(crate) async fn list(mut connection: Connection) -> io::Result<()> {
    let found = blocking::run(|| {
        let mut found: Vec<Process> = pids().take(MOST + 1).filter_map(describe).collect();
        let truncated = found.len() > MOST;
        found.truncate(MOST);
        Ok((found, truncated))
    });
    match found.await {
        Ok((mut found, truncated)) => {
            while !found.is_empty() {
                let rest = found.split_off(found.len().min(BATCH));
                connection.send(&AgentFrame::Processes(std::mem::replace(&mut found, rest))).await?;
            }
            connection.send(&AgentFrame::End { truncated }).await
        }
        Err(failure) => connection.fail(failure).await,
    }
}

fn describe(pid: i32) -> Option<Process> {
    let stat = stat(pid)?;
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // Kernel threads and zombies have no command line.
    let mut command = read_small(format!("/proc/{pid}/cmdline").as_bytes(), MAX_COMMAND).unwrap_or_default();
    if command.is_empty() {
        command = stat.name;
    }
    Some(Process {
        pid: pid.unsigned_abs(),
        parent: stat.parent.unsigned_abs(),
        uid,
        state: stat.state,
        threads: stat.threads,
        resident_bytes: stat.resident_pages.saturating_mul(rustix::param::page_size() as u64),
        cpu_ms: stat.ticks.saturating_mul(MS_PER_TICK),
        command,
    })
}

/// Sums over all processes, and the disk.
pub(crate) async fn usage(agent: &Agent) -> Result<Usage, Failure> {
    let uptime_ms = agent.started.elapsed().as_millis() as u64;
    blocking::run(move || {
        let disk = rustix::fs::statvfs("/").map_err(|errno| Failure::at("look at", b"/", errno))?;
        let mut usage = Usage {
            processes: 0,
            threads: 0,
            resident_bytes: 0,
            disk_total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            uptime_ms,
        };
        for stat in pids().filter_map(stat) {
            usage.processes += 1;
            usage.threads = usage.threads.saturating_add(stat.threads);
            let bytes = stat.resident_pages.saturating_mul(rustix::param::page_size() as u64);
            usage.resident_bytes = usage.resident_bytes.saturating_add(bytes);
        }
        Ok(usage)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_shift_the_fields() {
        let line = b"42 (a) S 9 9) R 7 8 9 0 -1 4 1 2 3 4 50 60 0 0 20 0 3 0 99 1000 77 18446744073709551615 1\n";
        let stat = parse(line).unwrap();
        assert_eq!(stat.name, b"a) S 9 9");
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), ('R', 7, 8, 9));
        assert_eq!((stat.ticks, stat.threads, stat.resident_pages), (110, 3, 77));
    }

    #[test]
    fn half_lines_are_no_process() {
        for line in [&b""[..], b"1", b"1 (x", b"1 )x( S 1", b"1 (x) S 1 2"] {
            assert!(parse(line).is_none());
        }
    }
}
