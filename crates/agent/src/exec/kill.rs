//! Signals to a command's processes.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::agent::Agent;
use crate::processes;

/// Looks at all processes this often for one kill; each look finds what was forked during the last.
const ROUNDS: usize = 4;

/// The signal of a number from 1 to 31.
pub(super) fn named(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// Signals the process group of a command, unless its exit was already taken: then the number may
/// be another's.
pub(super) fn group(agent: &Agent, pid: Pid, signal: Signal) {
    if agent.reaper.is_running(pid) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Kills a command with all processes of its session: its group, and the groups that a shell's job
/// control or a tool like `timeout` made. What has made a session of its own has left on purpose.
pub(super) fn session(agent: &Agent, pid: Pid) {
    if !agent.reaper.is_running(pid) {
        return;
    }
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    for _ in 0..ROUNDS {
        let others = members(pid);
        for other in &others {
            kill_member(pid, *other);
        }
        if others.is_empty() {
            return;
        }
    }
}

/// Whether no process, not even an unreaped one, is left in the group.
pub(super) fn is_group_gone(pid: Pid) -> bool {
    rustix::process::test_kill_process_group(pid) == Err(Errno::SRCH)
}

/// Living processes of the session that are not in the leader's own group.
fn members(session: Pid) -> Vec<Pid> {
    let leader = session.as_raw_nonzero().get();
    processes::pids().filter(|pid| is_other_member(leader, *pid)).filter_map(Pid::from_raw).collect()
}

fn is_other_member(leader: i32, pid: i32) -> bool {
    processes::stat(pid)
        .is_some_and(|stat| stat.session == leader && stat.group != leader && !matches!(stat.state, 'Z' | 'X'))
}

/// Kills by descriptor, after a second look, so that a number taken over by another is not hit.
fn kill_member(session: Pid, pid: Pid) {
    if let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        && is_other_member(session.as_raw_nonzero().get(), pid.as_raw_nonzero().get())
    {
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
    }
}
