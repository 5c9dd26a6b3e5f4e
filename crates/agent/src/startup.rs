//! From exec to the first connection: descriptors, limits, configuration, the ready line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener};

use forkpoint_protocol::{AgentConfig, VERSION};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::sys;

/// The configuration comes on this descriptor, up to its end.
const CONFIG_FD: i32 = 3;
/// `ready <port>\n` goes to this descriptor.
const READY_FD: i32 = 4;
/// A configuration is some dozens of bytes.
const MAX_CONFIG: u64 = 4096;

/// Why the agent did not start. It then ends with status 1, and with it the sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("descriptor {CONFIG_FD} holds no agent configuration: {0}")]
    Config(#[from] forkpoint_protocol::CodecError),
    #[error("configuration of protocol version {0}, this agent speaks {VERSION}")]
    Version(u16),
}

impl StartError {
    pub(crate) fn step(step: &'static str, source: impl Into<io::Error>) -> StartError {
        StartError::Step { step, source: source.into() }
    }
}

/// Makes the process fit for its surroundings; returns the limit of open files that commands get.
pub(crate) fn harden() -> Result<Rlimit, StartError> {
    sys::fill_standard_descriptors().map_err(|error| StartError::step("open /dev/null", error))?;
    sys::ignore_signals();
    sys::limit_heaps();
    // The token is in this memory: no core dump, no ptrace, no /proc/1/mem for the same uid.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| StartError::step("become undumpable", error))?;
    if !rustix::process::getpid().is_init() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| StartError::step("become the reaper of orphans", error))?;
    }
    // Each running command holds some descriptors here; commands keep the limit they were given.
    let given = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    let _ = rustix::process::chdir("/");
    // Files get the modes that requests name; commands get the usual mask.
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(given)
}

/// Reads and closes the configuration descriptor.
pub(crate) fn read_config() -> Result<AgentConfig, StartError> {
    let file =
        File::from(sys::take_descriptor(CONFIG_FD).map_err(|error| StartError::step("use descriptor 3", error))?);
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut bytes).map_err(|error| StartError::step("read descriptor 3", error))?;
    let config: AgentConfig = forkpoint_protocol::codec::decode(&bytes)?;
    if config.version != VERSION {
        return Err(StartError::Version(config.version));
    }
    Ok(config)
}

/// Listens, before the event loop exists.
pub(crate) fn listen(address: SocketAddrV4) -> Result<TcpListener, StartError> {
    let step = |error: io::Error| StartError::step("listen", error);
    let listener = TcpListener::bind(address).map_err(step)?;
    listener.set_nonblocking(true).map_err(step)?;
    Ok(listener)
}

/// Hands the listener to the event loop, then tells the starter that connections are taken.
pub(crate) fn announce(listener: TcpListener) -> Result<tokio::net::TcpListener, StartError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| StartError::step("listen", error))?;
    let port = listener.local_addr().map_err(|error| StartError::step("listen", error))?.port();
    let ready = sys::take_descriptor(READY_FD).map_err(|error| StartError::step("use descriptor 4", error))?;
    File::from(ready)
        .write_all(format!("ready {port}\n").as_bytes())
        .map_err(|error| StartError::step("write descriptor 4", error))?;
    Ok(listener)
}
