//! Reads a session's output for as long as its command runs, whether or not anybody looks on.
//!
//! With viewers, the one that reads fastest sets the pace, so that a command cannot write faster
//! than it is seen; a slower one skips what is no longer kept. Viewers that all have stopped to
//! read hold the command up for [`STALL`] only.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use forkpoint_protocol::Exit;
use rustix::io::Errno;
use rustix::process::WaitStatus;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::super::{GRACE, TIMED_OUT, drain, kill};
use super::Session;
use crate::agent::{Agent, SCRATCH};

/// How far output may be ahead of the fastest viewer.
const AHEAD: u64 = 64 * 1024;
/// How long viewers that do not read hold a command up.
const STALL: Duration = Duration::from_secs(10);

struct Keeper {
    agent: Rc<Agent>,
    session: Rc<Session>,
    /// `None` after its end.
    output: Option<AsyncFd<OwnedFd>>,
    /// Bytes that the command had written when it exited and that were not read yet.
    owed: u64,
    deadline: Option<Instant>,
    timed_out: bool,
    /// Killed because nobody looked on.
    abandoned: bool,
    /// Exit status and when it came.
    ended: Option<(Option<WaitStatus>, Instant)>,
    /// Since when all viewers are behind.
    held_since: Option<Instant>,
}

/// Serves a session to the end of its command.
pub(super) async fn keep(
    agent: Rc<Agent>,
    session: Rc<Session>,
    output: AsyncFd<OwnedFd>,
    mut status: oneshot::Receiver<WaitStatus>,
    deadline: Option<Instant>,
) {
    let mut keeper = Keeper {
        agent,
        session,
        output: Some(output),
        owed: 0,
        deadline,
        timed_out: false,
        abandoned: false,
        ended: None,
        held_since: None,
    };
    let mut timer = std::pin::pin!(sleep_until(Instant::now()));
    while !keeper.is_settled() {
        let now = Instant::now();
        keeper.kill_if_due(now);
        let may_read = keeper.may_read(now);
        let next = keeper.next_time(now);
        if let Some(next) = next {
            timer.as_mut().reset(next);
        }
        let waits_for_group = keeper.timed_out && keeper.ended.is_some();
        tokio::select! {
            ended = &mut status, if keeper.ended.is_none() => keeper.on_exit(ended.ok()),
            () = &mut timer, if next.is_some() => {}
            () = readable(keeper.output.as_ref()), if may_read => keeper.read(),
            () = keeper.session.heard.notified() => {}
            () = keeper.agent.reaper.reaped(), if waits_for_group => {}
        }
    }
    keeper.finish();
}

async fn readable(output: Option<&AsyncFd<OwnedFd>>) {
    match output {
        Some(output) => match output.readable().await {
            Ok(mut guard) => guard.retain_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Keeper {
    /// As for an exec: what the command itself wrote is kept, its background children's later
    /// output only while the grace lasts.
    fn is_settled(&self) -> bool {
        let Some((_, at)) = self.ended else {
            return false;
        };
        let is_over = Instant::now() >= at + GRACE;
        let is_read = self.output.is_none() || (is_over && self.owed == 0);
        let is_gone = !self.timed_out || is_over || kill::is_group_gone(self.session.pid);
        is_read && is_gone
    }

    fn kill_if_due(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) && !self.timed_out {
            self.timed_out = true;
            self.session.kill(&self.agent);
        }
        if self.linger_end().is_some_and(|end| now >= end) && !self.abandoned {
            self.abandoned = true;
            self.session.kill(&self.agent);
        }
    }

    /// When it is killed because nobody looks on.
    fn linger_end(&self) -> Option<Instant> {
        let linger = self.session.linger.filter(|_| self.session.viewers.borrow().is_empty())?;
        self.session.alone_since.get().checked_add(linger)
    }

    fn may_read(&mut self, now: Instant) -> bool {
        let end = self.session.scrollback.borrow().end();
        let viewers = self.session.viewers.borrow();
        let fastest = viewers.iter().filter_map(|(_, at)| *at).max();
        let keeps_up = fastest.is_none_or(|at| end.saturating_sub(at) < AHEAD);
        if keeps_up {
            self.held_since = None;
            return true;
        }
        now >= *self.held_since.get_or_insert(now) + STALL
    }

    /// The next moment at which something is due.
    fn next_time(&self, now: Instant) -> Option<Instant> {
        let grace = self.ended.map(|(_, at)| at + GRACE);
        let running = self.ended.is_none();
        let deadline = self.deadline.filter(|_| running);
        let linger = self.linger_end().filter(|_| running);
        let stall = self.held_since.map(|since| since + STALL);
        [grace, deadline, linger, stall].into_iter().flatten().filter(|time| *time > now).min()
    }

    fn on_exit(&mut self, status: Option<WaitStatus>) {
        self.ended = Some((status, Instant::now()));
        if let Some(output) = &self.output {
            self.owed = rustix::io::ioctl_fionread(output.get_ref()).unwrap_or(0);
        }
    }

    fn read(&mut self) {
        let Some(output) = &self.output else { return };
        let mut scratch = self.agent.scratch.borrow_mut();
        let read = output.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut scratch[..SCRATCH])?));
        match read {
            Ok(len) if len > 0 => {
                self.owed = self.owed.saturating_sub(len as u64);
                self.session.scrollback.borrow_mut().push(&scratch[..len]);
                self.session.told.notify_waiters();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.owed = 0,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            // A terminal reports its end as EIO, when nobody has it open any more.
            _ => self.output = None,
        }
    }

    fn finish(self) {
        // Background children that hold the pipe live on and must not die of a broken one.
        if let Some(output) = self.output {
            drain::adopt(&self.agent, output);
        }
        let status = self.ended.and_then(|(status, _)| status);
        let signal = status.and_then(WaitStatus::terminating_signal);
        let code = match (self.timed_out, signal) {
            (true, _) => TIMED_OUT,
            (false, Some(signal)) => 128 + signal,
            (false, None) => status.and_then(WaitStatus::exit_status).unwrap_or(255),
        };
        let session = self.session;
        let exit = Exit { code, signal, timed_out: self.timed_out, stdout_truncated: false, stderr_truncated: false };
        session.ended.set(Some(exit));
        *session.input.borrow_mut() = None;
        *session.terminal.borrow_mut() = None;
        session.told.notify_waiters();
        self.agent.sessions.forget_old();
    }
}
