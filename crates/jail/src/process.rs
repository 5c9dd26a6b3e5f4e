//! Processes told apart for good: an id alone is used again, an id with its start time is not.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Start time of a process in clock ticks since boot, from `/proc/<pid>/stat`.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}

/// A descriptor of the process with this id and start time, readable once it has ended; `None` if it is gone.
pub fn open(pid: u32, start_time: u64) -> io::Result<Option<OwnedFd>> {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let descriptor = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Asked after opening: from now on the id cannot be taken over unnoticed.
    match self::start_time(pid) {
        Ok(time) if time == start_time => Ok(Some(descriptor)),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Field 22, counted from behind the name, which may itself hold spaces and parentheses.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_start_time() {
        let mut stat = b"12 (a) b 1 (2)) S".to_vec();
        for field in 4..=30 {
            stat.extend_from_slice(format!(" {field}").as_bytes());
        }
        assert_eq!(parse_start_time(&stat), Some(22));
    }

    #[test]
    fn only_the_process_that_was_meant_is_opened() {
        let own = std::process::id();
        let time = start_time(own).unwrap();
        assert!(open(own, time).unwrap().is_some());
        assert!(open(own, time + 1).unwrap().is_none());
        assert!(open(u32::MAX, 1).unwrap().is_none());
    }
}
