//! Commands that go on without a host: a table of them, each with the latest of its output.

mod keeper;
mod scrollback;
mod viewer;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, Command, ErrorKind, Exit, MAX_SCROLLBACK, Open, PtySize, Session as Told};
use rustix::process::{Pid, Signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{kill, spawn, terminal};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::Failure;
use scrollback::Scrollback;
pub(crate) use viewer::attach;

/// Sessions that run at the same time.
const MOST: usize = 64;
/// Ended sessions that are remembered; the oldest goes first.
const MOST_ENDED: usize = 16;
/// Bytes of a command that are told.
const MAX_COMMAND: usize = 1024;

type Id = [u8; 16];

/// All sessions, oldest first.
#[derive(Default)]
pub(crate) struct Sessions {
    table: RefCell<Vec<Rc<Session>>>,
    /// Ids of those that are being started.
    starting: RefCell<Vec<Id>>,
}

impl Sessions {
    fn find(&self, id: &Id) -> Result<Rc<Session>, Failure> {
        let found = self.table.borrow().iter().find(|session| session.id == *id).map(Rc::clone);
        found.ok_or_else(|| Failure::new(ErrorKind::NotFound, "no session has this id: it was closed or never opened"))
    }

    /// Takes a place among the running ones, given up when dropped.
    fn reserve(&self, id: Id) -> Result<Starting<'_>, Failure> {
        let table = self.table.borrow();
        let mut starting = self.starting.borrow_mut();
        if starting.contains(&id) || table.iter().any(|session| session.id == id) {
            return Err(Failure::new(ErrorKind::Exists, "a session has this id already"));
        }
        let running = table.iter().filter(|session| session.ended.get().is_none()).count();
        if running + starting.len() >= MOST {
            let message = format!("{MOST} terminals and background commands run already; end one first");
            return Err(Failure::new(ErrorKind::Busy, message));
        }
        starting.push(id);
        Ok(Starting { sessions: self, id })
    }

    /// Forgets the oldest of the ended ones over their number.
    fn forget_old(&self) {
        let mut table = self.table.borrow_mut();
        let ended = table.iter().filter(|session| session.ended.get().is_some()).count();
        let mut surplus = ended.saturating_sub(MOST_ENDED);
        table.retain(|session| {
            let goes = surplus > 0 && session.ended.get().is_some();
            surplus -= usize::from(goes);
            !goes
        });
    }
}

struct Starting<'a> {
    sessions: &'a Sessions,
    id: Id,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.sessions.starting.borrow_mut().retain(|id| *id != self.id);
    }
}

/// One command, shared by its keeper, which reads its output, and its viewers.
struct Session {
    id: Id,
    pid: Pid,
    command: Vec<u8>,
    started: Instant,
    /// Killed when nobody looked on for so long.
    linger: Option<Duration>,
    scrollback: RefCell<Scrollback>,
    /// `None` when the command takes no input or no more.
    input: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    /// The terminal's master, for its size and its foreground group; `None` without and after the end.
    terminal: RefCell<Option<OwnedFd>>,
    size: Cell<Option<PtySize>>,
    /// Who looks on, and up to where in the output each has been served; `None` for who waits for the end only.
    viewers: RefCell<Vec<(u64, Option<u64>)>>,
    next_viewer: Cell<u64>,
    /// When the last viewer left.
    alone_since: Cell<Instant>,
    ended: Cell<Option<Exit>>,
    /// Wakes all viewers: there is output, or the end.
    told: Notify,
    /// Wakes the keeper: a viewer came, went or took output.
    heard: Notify,
}

impl Session {
    fn describe(&self) -> Told {
        Told {
            id: self.id,
            pid: self.pid.as_raw_nonzero().get().unsigned_abs(),
            pty: self.size.get(),
            command: self.command.clone(),
            age_ms: self.started.elapsed().as_millis() as u64,
            written: self.scrollback.borrow().end(),
            viewers: self.viewers.borrow().len() as u32,
            ended: self.ended.get(),
        }
    }

    /// Signals what has the terminal now, or the command's own group.
    fn signal(&self, agent: &Agent, signal: Signal) {
        if self.ended.get().is_some() {
            return;
        }
        let foreground = self.terminal.borrow().as_ref().and_then(|master| rustix::termios::tcgetpgrp(master).ok());
        match foreground {
            // Processes can make a group of their own session the terminal's, and no other.
            Some(group) => drop(rustix::process::kill_process_group(group, signal)),
            None => kill::group(agent, self.pid, signal),
        }
    }

    /// Sets the terminal's size. With the size that it has, its program is told to draw again: who
    /// has just attached may see only a part of what is on the screen.
    fn resize(&self, agent: &Agent, size: PtySize) {
        let same = self.size.get() == Some(size);
        if let Some(master) = &*self.terminal.borrow() {
            self.size.set(Some(size));
            if !same {
                terminal::resize(master, size.rows, size.cols);
            }
        }
        if same {
            self.signal(agent, Signal::WINCH);
        }
    }

    fn kill(&self, agent: &Agent) {
        if self.ended.get().is_none() {
            kill::session(agent, self.pid);
        }
    }
}

/// Starts a command that goes on by itself.
pub(crate) async fn open(agent: &Rc<Agent>, request: Open) -> Result<Told, Failure> {
    let Open { id, mut exec, scrollback, linger_ms } = request;
    let place = agent.sessions.reserve(id)?;
    let command = shown_command(&exec.command);
    let (timeout, size) = (exec.timeout_ms.map(Duration::from_millis), exec.pty);
    exec.merge = true;
    let started = spawn::spawn(agent, exec).await?;
    let now = Instant::now();
    let session = Rc::new(Session {
        id,
        pid: started.pid,
        command,
        started: now,
        linger: linger_ms.map(Duration::from_millis),
        scrollback: RefCell::new(Scrollback::new(scrollback.min(MAX_SCROLLBACK) as usize)),
        input: RefCell::new(started.input.map(Rc::new)),
        terminal: RefCell::new(started.terminal),
        size: Cell::new(size),
        viewers: RefCell::default(),
        next_viewer: Cell::default(),
        alone_since: Cell::new(now),
        ended: Cell::default(),
        told: Notify::new(),
        heard: Notify::new(),
    });
    drop(place);
    agent.sessions.table.borrow_mut().push(Rc::clone(&session));
    let told = session.describe();
    let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
    tokio::task::spawn_local(keeper::keep(Rc::clone(agent), session, started.stdout, started.status, deadline));
    Ok(told)
}

/// Sends all sessions.
pub(crate) async fn list(agent: &Agent, mut connection: Connection) -> io::Result<()> {
    let all: Vec<Told> = agent.sessions.table.borrow().iter().map(|session| session.describe()).collect();
    for session in all {
        connection.send(&AgentFrame::Session(session)).await?;
    }
    connection.send(&AgentFrame::End { truncated: false }).await
}

/// Kills what is left of a session and forgets it. Its viewers learn its end.
pub(crate) fn close(agent: &Agent, id: &Id) -> Result<(), Failure> {
    let session = agent.sessions.find(id)?;
    session.kill(agent);
    agent.sessions.table.borrow_mut().retain(|other| other.id != *id);
    Ok(())
}

fn shown_command(command: &Command) -> Vec<u8> {
    let mut shown = match command {
        Command::Shell(text) => text.clone(),
        Command::Argv(argv) => argv.iter().flat_map(|part| [part.as_slice(), b"\0"].concat()).collect(),
    };
    shown.truncate(MAX_COMMAND);
    shown
}
