//! The outer process: what is done on the host, and the word that lets the agent go.
//!
//! It is never in the sandbox's control group, which so holds the sandbox's own processes and nothing else.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use forkpoint_jail::report::Line;
use forkpoint_jail::spec::{self, MAX_ORDER_BYTES, Spec};
use forkpoint_jail::{CgroupJoin, process};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpriority_process, setpriority_process, waitpid};
use rustix::thread::{
    CapabilitiesSecureBits, LinkNameSpaceType, move_into_link_name_space, set_capabilities_secure_bits,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::inner::{self, Building};
use crate::step::{Result, Step, failure};
use crate::sys::{self, Fork};
use crate::{userns, write_line};

/// Namespaces of the sandbox that belong to the host's user namespace. The network is made ahead by the server, the
/// control group namespace by the inner process once it is in its group.
const NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

pub(crate) fn run(order: OwnedFd, report: &'static OwnedFd, netns: &OwnedFd) -> Result<()> {
    let (spec, agent) = read_order(order)?;
    let agent = std::fs::canonicalize(&agent).step_on("find the agent", agent.display())?;
    give_up_preference()?;
    let group = ControlGroup::open(&spec.cgroup)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).step("join the network namespace")?;
    act_as(spec.uid_base)?;
    let userns = userns::make(spec.uid_base)?;

    let (built_reader, built) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe to the inner process")?;
    let (go, go_writer) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe to the inner process")?;
    match sys::fork(NAMESPACES, group.to_fork_into()).step("make the namespaces")? {
        Fork::Child => {
            drop((built_reader, go_writer));
            let failure = inner::run(&Building { spec, agent, group, userns, built, go, report });
            write_line(report, &Line::Failed { error: failure });
            sys::exit_now(1);
        }
        Fork::Parent(pid) => {
            drop((built, go));
            release(pid, &built_reader, &go_writer, report)
        }
    }
}

/// Reports the inner process once it has built everything, and then lets it become the agent.
fn release(pid: Pid, built: &OwnedFd, go: &OwnedFd, report: &OwnedFd) -> Result<()> {
    if read(built, &mut [0_u8; 1]) != Ok(1) {
        return explain_end(pid);
    }
    let pid = pid.as_raw_pid() as u32;
    let start_time = process::start_time(pid).step("read the agent's start time")?;
    // If nobody reads it any more, nobody would ever own the sandbox: it is not started then.
    write(report, &Line::Started { pid, start_time }.to_bytes()).step("report the sandbox")?;
    write(go, &[1]).step("let the agent go").map(drop)
}

/// An inner process that failed has reported by itself; one that was killed could not.
fn explain_end(pid: Pid) -> Result<()> {
    let status = waitpid(Some(pid), WaitOptions::empty()).step("wait for the inner process")?;
    match status.and_then(|(_, status)| status.terminating_signal()) {
        Some(signal) => {
            let message = format!("killed by signal {signal}; the memory limit may be too small to build it");
            Err(failure("build the sandbox", None, &message))
        }
        None => Ok(()),
    }
}

fn read_order(order: OwnedFd) -> Result<(Spec, PathBuf)> {
    let mut bytes = Vec::new();
    File::from(order).take(MAX_ORDER_BYTES as u64 + 1).read_to_end(&mut bytes).step("read the order")?;
    let (spec, agent) = spec::decode_order(&bytes).map_err(|error| failure("read the order", None, &error))?;
    spec.check().map_err(|error| failure("check the order", None, &error))?;
    Ok((spec, agent))
}

/// A server that is preferred over others, by priority or when memory is short, must not hand that down to a sandbox.
fn give_up_preference() -> Result<()> {
    // A group with a bound for processor time takes no process of a real-time class either.
    sys::schedule_as_usual().step("take the usual scheduling class")?;
    if getpriority_process(None).step("read the priority")? < 0 {
        setpriority_process(None, 0).step("take the usual priority")?;
    }
    let path = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(path).step_on("read", path)?;
    if score.starts_with('-') { std::fs::write(path, "0").step_on("write", path) } else { Ok(()) }
}

/// The sandbox's control group, opened while this is still the host's root: the kernel lets whoever opened it move
/// processes in.
pub(crate) enum ControlGroup {
    /// The `tasks` file of each hierarchy, for the inner process to write to.
    V1(Vec<OwnedFd>),
    /// The directory, for the inner process to be forked into.
    V2(OwnedFd),
}

impl ControlGroup {
    fn open(join: &CgroupJoin) -> Result<Self> {
        let open = |path: &Path, flags| {
            openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).step_on("open control group", path.display())
        };
        match join {
            CgroupJoin::V1(files) => {
                files.iter().map(|file| open(file, OFlags::WRONLY)).collect::<Result<_>>().map(Self::V1)
            }
            CgroupJoin::V2(path) => open(path, OFlags::RDONLY | OFlags::DIRECTORY).map(Self::V2),
        }
    }

    fn to_fork_into(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V1(_) => None,
            Self::V2(directory) => Some(directory.as_fd()),
        }
    }

    /// Moves the calling process in, where it was not forked into it.
    pub(crate) fn join(&self) -> Result<()> {
        if let Self::V1(tasks) = self {
            for file in tasks {
                write(file, b"0").step("join control group")?;
            }
        }
        Ok(())
    }
}

/// Takes the sandbox's root as effective user and group, and keeps all capabilities.
///
/// Files and mounts made from here on belong to it, the user namespace is counted for it, and an overlay over shifted
/// layers can be written only by an id that the shift knows.
fn act_as(uid_base: u32) -> Result<()> {
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).step("keep capabilities")?;
    set_thread_res_gid(None, Gid::from_raw(uid_base), None).step("take the sandbox's group id")?;
    set_thread_res_uid(None, Uid::from_raw(uid_base), None).step("take the sandbox's user id")
}
