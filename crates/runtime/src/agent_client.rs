//! The host's side of the agent protocol: one connection per call to the agent of one sandbox.
//!
//! Whatever comes from an agent is taken for an enemy's: frames that do not fit the request, lengths
//! over the limits, more output than was asked for and silence where an answer is due are errors of
//! that call, and cost no more memory than one frame.

mod error;
mod exec;
mod files;
mod link;
mod session;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, Request, Token};

pub use error::AgentError;
pub use exec::{ExecControl, ExecEvent, ExecStdin, ExecStream};
pub use files::{FileRead, Listing};
pub use forkpoint_protocol::{
    Change, ChangeKind, Command, Entry, EntryKind, ErrorKind, Exec as ExecSpec, Exit, Open as OpenSpec, Process,
    PtySize, Refresh, Session, Usage, WriteDisposition, WriteFile as WriteSpec,
};
pub use link::CONNECT;
use link::Link;
pub use session::{SessionEvent, SessionStream};
pub use watch::{WatchEvent, WatchStream};

/// How long the parts of a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Until the connection stands and the request is sent.
    pub connect: Duration,
    /// Until the agent's next frame, where one is due at once.
    pub answer: Duration,
    /// Until the end of work on whole trees: listings, copies, moves, removals.
    pub work: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { connect: Duration::from_secs(2), answer: Duration::from_secs(60), work: Duration::from_secs(600) }
    }
}

/// Speaks to one agent. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct AgentClient {
    address: SocketAddr,
    token: Token,
    deadlines: Deadlines,
}

impl AgentClient {
    /// For the agent that listens at this address and knows this secret.
    pub fn new(address: SocketAddr, token: [u8; 32]) -> AgentClient {
        AgentClient { address, token: Token(token), deadlines: Deadlines::default() }
    }

    /// The same with other deadlines.
    #[must_use]
    pub fn with_deadlines(self, deadlines: Deadlines) -> AgentClient {
        AgentClient { deadlines, ..self }
    }

    /// The agent's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for a sign of life, all of it within `deadline`.
    pub async fn ping(&self, deadline: Duration) -> Result<(), AgentError> {
        let ping = self.ask(&Request::Ping, deadline, files::done);
        tokio::time::timeout(deadline, ping).await.unwrap_or(Err(AgentError::Deadline(deadline)))
    }

    /// Starts a command; returns when it runs. See [`ExecStream`] for how it is ended.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecStream, AgentError> {
        ExecStream::start(self, spec).await
    }

    /// Signals (1 to 31) the process group of a running exec by its pid inside the sandbox.
    pub async fn signal(&self, pid: u32, signal: i32) -> Result<(), AgentError> {
        self.ask(&Request::Signal { pid, signal }, self.deadlines.answer, files::done).await
    }

    /// All processes of the sandbox, at most 4096.
    pub async fn processes(&self) -> Result<Vec<Process>, AgentError> {
        const MOST: usize = 4096;
        const MOST_BYTES: usize = 16 << 20;
        let mut link = Link::open(self, &Request::Processes).await?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        loop {
            let frame = link.answer(self.deadlines.answer).await?;
            bytes += frame.len();
            match link::parse(&frame)? {
                AgentFrame::Processes(some) if all.len() + some.len() <= MOST && bytes <= MOST_BYTES => {
                    all.extend(some);
                }
                AgentFrame::Processes(_) => {
                    return Err(AgentError::Protocol("more processes than may be".into()));
                }
                AgentFrame::End { .. } => return Ok(all),
                frame => return Err(error::unexpected("processes", &frame)),
            }
        }
    }

    /// What the sandbox uses, as seen from inside.
    pub async fn usage(&self) -> Result<Usage, AgentError> {
        self.ask(&Request::Usage, self.deadlines.answer, |frame| match frame {
            AgentFrame::Usage(usage) => Ok(usage),
            frame => Err(error::unexpected("usage", &frame)),
        })
        .await
    }

    /// Makes a restored memory image a sandbox of its own. When it has set a new token, this client
    /// is of no more use.
    pub async fn refresh(&self, refresh: Refresh) -> Result<(), AgentError> {
        self.ask(&Request::Refresh(refresh), self.deadlines.answer, files::done).await
    }

    /// A request with one frame as answer.
    async fn ask<T>(
        &self,
        request: &Request,
        deadline: Duration,
        take: impl FnOnce(AgentFrame<'_>) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        let mut link = Link::open(self, request).await?;
        let frame = link.answer(deadline).await?;
        take(link::parse(&frame)?)
    }
}
