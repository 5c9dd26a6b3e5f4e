//! Commands that go on without a host: opening, listing, attaching, closing.

use std::sync::Arc;

use bytes::Bytes;
use forkpoint_protocol::{AgentFrame, Exit, Request, Session};

use super::error::unexpected;
use super::exec::{ExecControl, ExecStdin, START_DEADLINE, Window};
use super::link::{self, Link};
use super::{AgentClient, AgentError, OpenSpec, files};

/// More sessions than an agent has.
const MOST: usize = 256;

/// What an attached session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// It wrote this.
    Output(Bytes),
    /// Output was skipped, since it was read too slowly; the next output is at this position.
    Skipped(u64),
    /// It ended; the last event.
    Exit(Exit),
}

/// A session being looked on. Dropping it leaves the session as it is.
#[derive(Debug)]
pub struct SessionStream {
    link: Link,
    session: Session,
    position: u64,
    window: Arc<Window>,
    is_ended: bool,
}

impl AgentClient {
    /// Starts a command that goes on by itself; returns when it runs.
    pub async fn open_session(&self, spec: OpenSpec) -> Result<Session, AgentError> {
        let id = spec.id;
        self.ask(&Request::Open(spec), START_DEADLINE, |frame| match frame {
            AgentFrame::Session(session) if session.id == id => checked(session),
            frame => Err(unexpected("open", &frame)),
        })
        .await
    }

    /// All sessions, oldest first.
    pub async fn sessions(&self) -> Result<Vec<Session>, AgentError> {
        let mut link = Link::open(self, &Request::Sessions).await?;
        let mut all = Vec::new();
        loop {
            let frame = link.answer(self.deadlines.answer).await?;
            match link::parse(&frame)? {
                AgentFrame::Session(session) if all.len() < MOST => all.push(checked(session)?),
                AgentFrame::Session(_) => return Err(AgentError::Protocol("more sessions than may be".into())),
                AgentFrame::End { .. } => return Ok(all),
                frame => return Err(unexpected("sessions", &frame)),
            }
        }
    }

    /// Kills what is left of a session and forgets it.
    pub async fn close_session(&self, id: [u8; 16]) -> Result<(), AgentError> {
        self.ask(&Request::Close { id }, self.deadlines.answer, files::done).await
    }

    /// Looks on at a session, from a position in its output on; `None` begins with all that is kept.
    pub async fn attach(&self, id: [u8; 16], from: Option<u64>) -> Result<SessionStream, AgentError> {
        let mut link = Link::open(self, &Request::Attach { id, from }).await?;
        let frame = link.answer(self.deadlines.answer).await?;
        let session = match link::parse(&frame)? {
            AgentFrame::Session(session) if session.id == id => checked(session)?,
            frame => return Err(unexpected("attach", &frame)),
        };
        let frame = link.answer(self.deadlines.answer).await?;
        let position = match link::parse(&frame)? {
            AgentFrame::Position(position) => position,
            frame => return Err(unexpected("attach", &frame)),
        };
        Ok(SessionStream { link, session, position, window: Arc::new(Window::new()), is_ended: false })
    }
}

impl SessionStream {
    /// The session as it was when this began.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Position of the first output in all that the session ever wrote.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// For input while this stream is read; what waits in it goes on only then.
    pub fn stdin(&self) -> ExecStdin {
        ExecStdin { wire: Arc::clone(self.link.wire()), window: Arc::clone(&self.window) }
    }

    /// For signals and sizes while this stream is read.
    pub fn control(&self) -> ExecControl {
        ExecControl { wire: Arc::clone(self.link.wire()) }
    }

    /// Next event; `None` after the exit. Loses nothing when cancelled.
    pub async fn next(&mut self) -> Result<Option<SessionEvent>, AgentError> {
        if self.is_ended {
            return Ok(None);
        }
        let result = self.event().await;
        if matches!(result, Err(_) | Ok(SessionEvent::Exit(_))) {
            self.is_ended = true;
            self.window.close();
            self.link.wire().shut_down();
        }
        result.map(Some)
    }

    async fn event(&mut self) -> Result<SessionEvent, AgentError> {
        loop {
            let frame = self.link.frame().await?;
            match link::parse(&frame)? {
                AgentFrame::Stdout([]) | AgentFrame::StdinTaken(0) => {
                    return Err(AgentError::Protocol("a frame that says nothing".into()));
                }
                AgentFrame::Stdout(data) => return Ok(SessionEvent::Output(frame.slice_ref(data))),
                AgentFrame::Position(position) => return Ok(SessionEvent::Skipped(position)),
                AgentFrame::StdinTaken(bytes) => self.window.give_back(bytes as usize)?,
                AgentFrame::Exit(exit) if (0..256).contains(&exit.code) => return Ok(SessionEvent::Exit(exit)),
                AgentFrame::Exit(exit) => return Err(AgentError::Protocol(format!("exit code {}", exit.code))),
                frame => return Err(unexpected("attach", &frame)),
            }
        }
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        // Input and control handles share the connection and must not keep it.
        self.window.close();
        self.link.wire().shut_down();
    }
}

/// Bounds what an agent says of a session.
fn checked(session: Session) -> Result<Session, AgentError> {
    const MAX_COMMAND: usize = 1024;
    let code = session.ended.map_or(0, |exit| exit.code);
    if session.command.len() > MAX_COMMAND || !(0..256).contains(&code) {
        return Err(AgentError::Protocol("a session that cannot be".into()));
    }
    Ok(session)
}
