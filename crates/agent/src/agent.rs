//! What all connections share.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use forkpoint_protocol::{AgentConfig, Token};
use rustix::fs::{Mode, OFlags};
use rustix::process::Rlimit;
use tokio::sync::Semaphore;

use crate::exec::drain::Drains;
use crate::exec::session::Sessions;
use crate::reaper::Reaper;
use crate::startup::StartError;

/// Size of the buffer that all output passes through.
pub(crate) const SCRATCH: usize = 64 * 1024;

/// The agent's state. One thread owns it; no `RefCell` is held over an await.
pub(crate) struct Agent {
    pub(crate) token: Cell<Token>,
    pub(crate) default_user: String,
    pub(crate) reaper: Reaper,
    pub(crate) drains: Drains,
    pub(crate) sessions: Sessions,
    /// Requests that may run at the same time.
    pub(crate) slots: Semaphore,
    /// Standard input of commands that get none: the agent's own, as commands can replace the file.
    pub(crate) null: OwnedFd,
    /// Limit of open files for commands; the agent's own is higher.
    pub(crate) command_files: Rlimit,
    pub(crate) started: Instant,
    /// One buffer for everything that is read and passed on in the same step.
    pub(crate) scratch: RefCell<Vec<u8>>,
}

impl Agent {
    pub(crate) fn new(config: &AgentConfig, command_files: Rlimit) -> Result<Rc<Agent>, StartError> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StartError::step("open /dev/null", io::Error::from(error)))?;
        Ok(Rc::new(Agent {
            token: Cell::new(config.token),
            default_user: config.default_user.clone(),
            reaper: Reaper::default(),
            drains: Drains::default(),
            sessions: Sessions::default(),
            slots: Semaphore::new(config.max_requests.max(1) as usize),
            null,
            command_files,
            started: Instant::now(),
            scratch: RefCell::new(vec![0; SCRATCH + forkpoint_protocol::codec::HEAD_ROOM]),
        }))
    }
}
