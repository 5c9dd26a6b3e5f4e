//! Runs one command for one connection: output and exit status out, input and signals in.
//!
//! One task serves an exec, with the shared scratch buffer instead of buffers of its own. It reads
//! output only when the socket has taken all that was read before; so a slow host slows the command
//! down and costs no memory. Frames from the host are always taken, so that a signal or a
//! cancellation never waits behind output or input.

mod child;
pub(crate) mod drain;
mod input;
mod kill;
mod output;
pub(crate) mod session;
mod spawn;
mod terminal;
pub(crate) mod watch;

use std::future::pending;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, ErrorKind, Exec, Exit, HostFrame, codec};
use rustix::process::{Pid, WaitStatus};
use tokio::time::{Instant, sleep_until};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::Failure;
use input::Input;
use output::Output;

/// How long pipes that background children hold may delay the answer after the command's exit.
/// Also how long, after a timeout, the rest of the killed processes may take to be gone.
const GRACE: Duration = Duration::from_millis(200);
/// Exit code of a command whose time was over.
const TIMED_OUT: i32 = 124;

/// Signals a running exec's process group.
pub(crate) fn signal(agent: &Agent, pid: u32, signal: i32) -> Result<(), Failure> {
    let running = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| agent.reaper.is_running(*pid));
    let Some(pid) = running else {
        return Err(Failure::new(ErrorKind::NotFound, format!("no exec with pid {pid} is running")));
    };
    let signal = kill::named(signal).ok_or_else(|| Failure::invalid(format!("signal {signal}: must be 1 to 31")))?;
    kill::group(agent, pid, signal);
    Ok(())
}

/// Serves an exec from its start to its exit.
pub(crate) async fn run(agent: &Rc<Agent>, mut connection: Connection, request: Exec) -> io::Result<()> {
    let timeout = request.timeout_ms.map(Duration::from_millis);
    let detach = request.detach;
    let limit = request.output_limit;
    let started = match spawn::spawn(agent, request).await {
        Ok(started) => started,
        Err(failure) => return connection.fail(failure).await,
    };
    let mut session = Session {
        agent,
        pid: started.pid,
        input: Input::new(started.input, started.terminal.is_some()),
        terminal: started.terminal,
        stdout: Some(Output::new(started.stdout, codec::Payload::Stdout, limit)),
        stderr: started.stderr.map(|fd| Output::new(fd, codec::Payload::Stderr, limit)),
        connection: Some(connection),
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        timed_out: false,
        detach,
        ended: None,
        truncated: (false, false),
    };
    session.push(&AgentFrame::Started { pid: session.pid.as_raw_nonzero().get().unsigned_abs() });
    session.serve(started.status).await;
    session.finish().await
}

struct Session<'a> {
    agent: &'a Rc<Agent>,
    pid: Pid,
    input: Input,
    /// The terminal's master, for its size.
    terminal: Option<std::os::fd::OwnedFd>,
    /// `None` after its end.
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// `None` after it was lost.
    connection: Option<Connection>,
    deadline: Option<Instant>,
    timed_out: bool,
    detach: bool,
    /// Exit status and when it came.
    ended: Option<(Option<WaitStatus>, Instant)>,
    truncated: (bool, bool),
}

impl Session<'_> {
    /// Moves bytes until the command and its output are at their end, or nobody is interested.
    async fn serve(&mut self, mut status: tokio::sync::oneshot::Receiver<WaitStatus>) {
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let mut timer = std::pin::pin!(sleep_until(far));
        loop {
            if self.is_settled() || (self.connection.is_none() && !self.detach) {
                return;
            }
            let next = match (&self.ended, self.deadline) {
                (Some((_, at)), _) => *at + GRACE,
                (None, Some(deadline)) if !self.timed_out => deadline,
                _ => far,
            };
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            let may_read = self.connection.as_ref().is_none_or(Connection::is_flushed);
            let waits_for_group = self.timed_out && self.ended.is_some();
            tokio::select! {
                ended = &mut status, if self.ended.is_none() => self.on_exit(ended.ok()),
                () = &mut timer, if Instant::now() < next => self.on_time(),
                result = readable(self.connection.as_ref()) => self.on_frames(result),
                result = writable(self.connection.as_ref()), if !may_read => self.on_writable(result),
                () = Output::readable(self.stdout.as_ref()), if may_read => self.pump(false),
                () = Output::readable(self.stderr.as_ref()), if may_read => self.pump(true),
                () = self.input.writable() => self.on_input(),
                () = self.agent.reaper.reaped(), if waits_for_group => {}
            }
        }
    }

    /// Whether nothing more is to be waited for.
    fn is_settled(&self) -> bool {
        let Some((_, at)) = self.ended else {
            return false;
        };
        let is_over = Instant::now() >= at + GRACE;
        let outputs = [&self.stdout, &self.stderr];
        // What the command itself wrote is delivered however long that takes; its background
        // children's later output only while the grace lasts.
        let is_read = outputs.iter().all(|output| output.as_ref().is_none_or(|output| is_over && output.owed == 0));
        let is_gone = !self.timed_out || is_over || kill::is_group_gone(self.pid);
        let is_sent = self.connection.as_ref().is_none_or(Connection::is_flushed);
        is_read && is_gone && is_sent
    }

    fn on_exit(&mut self, status: Option<WaitStatus>) {
        self.ended = Some((status, Instant::now()));
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.owe();
        }
    }

    fn on_time(&mut self) {
        if self.ended.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.timed_out = true;
            kill::session(self.agent, self.pid);
        }
    }

    fn on_frames(&mut self, ready: io::Result<()>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if ready.and_then(|()| connection.fill()).is_ok_and(|open| open) {
            loop {
                let Some(connection) = &mut self.connection else {
                    return;
                };
                match connection.received() {
                    Ok(None) => return,
                    Ok(Some(frame)) if self.on_frame(&frame) => {}
                    _ => break,
                }
            }
        }
        self.lose();
    }

    /// False when the host is not to be listened to any more.
    fn on_frame(&mut self, frame: &[u8]) -> bool {
        match codec::decode(frame) {
            Ok(HostFrame::Stdin(data)) => {
                let Some(discarded) = self.input.push(data) else {
                    return false;
                };
                self.acknowledge(discarded);
            }
            Ok(HostFrame::StdinEof) => self.input.end(),
            Ok(HostFrame::Signal(number)) => {
                if let Some(signal) = kill::named(number) {
                    kill::group(self.agent, self.pid, signal);
                }
            }
            Ok(HostFrame::Resize { rows, cols }) => {
                if let Some(terminal) = &self.terminal {
                    terminal::resize(terminal, rows, cols);
                }
            }
            Ok(HostFrame::Cancel) => kill::session(self.agent, self.pid),
            Ok(HostFrame::Data(_) | HostFrame::End) | Err(_) => return false,
        }
        true
    }

    fn on_input(&mut self) {
        let taken = self.input.write();
        self.acknowledge(taken);
    }

    fn on_writable(&mut self, ready: io::Result<()>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if ready.and_then(|()| connection.flush()).is_err() {
            self.lose();
        }
    }

    fn pump(&mut self, is_stderr: bool) {
        let (output, truncated) = match is_stderr {
            false => (&mut self.stdout, &mut self.truncated.0),
            true => (&mut self.stderr, &mut self.truncated.1),
        };
        let Some(open) = output else { return };
        let mut scratch = self.agent.scratch.borrow_mut();
        match open.pump(self.connection.as_mut(), &mut scratch) {
            Ok(true) => *truncated |= open.is_truncated,
            Ok(false) => *output = None,
            Err(_) => self.lose(),
        }
    }

    fn acknowledge(&mut self, taken: usize) {
        if taken > 0 {
            self.push(&AgentFrame::StdinTaken(taken as u32));
        }
    }

    fn push(&mut self, frame: &AgentFrame<'_>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if connection.push(frame).is_err() {
            self.lose();
        }
    }

    /// The host is gone; an attached command goes with it.
    fn lose(&mut self) {
        self.connection = None;
        self.input.end();
        if !self.detach {
            kill::session(self.agent, self.pid);
        }
    }

    async fn finish(self) -> io::Result<()> {
        // Background children that hold the pipes live on and must not die of a broken one.
        for output in [self.stdout, self.stderr].into_iter().flatten() {
            drain::adopt(self.agent, output.into_inner());
        }
        let (Some(mut connection), Some((status, _))) = (self.connection, self.ended) else {
            return Ok(());
        };
        let signal = status.and_then(WaitStatus::terminating_signal);
        let code = match (self.timed_out, signal) {
            (true, _) => TIMED_OUT,
            (false, Some(signal)) => 128 + signal,
            // The reaper drops no status; were one lost, it must not look like success.
            (false, None) => status.and_then(WaitStatus::exit_status).unwrap_or(255),
        };
        let (stdout_truncated, stderr_truncated) = self.truncated;
        let exit = Exit { code, signal, timed_out: self.timed_out, stdout_truncated, stderr_truncated };
        connection.send(&AgentFrame::Exit(exit)).await
    }
}

async fn readable(connection: Option<&Connection>) -> io::Result<()> {
    match connection {
        Some(connection) => connection.readable().await,
        None => pending().await,
    }
}

async fn writable(connection: Option<&Connection>) -> io::Result<()> {
    match connection {
        Some(connection) => connection.writable().await,
        None => pending().await,
    }
}
