//! One host looking on at a session: output to it, input from it.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use forkpoint_protocol::codec::{self, HEAD_ROOM, Payload};
use forkpoint_protocol::{AgentFrame, ErrorKind, HostFrame, PtySize, STDIN_WINDOW};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::super::kill;
use super::{Id, Session};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::Failure;

/// Hosts at one session at the same time.
const MOST: usize = 16;

/// Serves a host that looks on until it goes away or has been told the end.
pub(crate) async fn attach(agent: &Rc<Agent>, mut connection: Connection, id: Id, from: Option<u64>) -> io::Result<()> {
    let session = match agent.sessions.find(&id) {
        Ok(session) if session.viewers.borrow().len() < MOST => session,
        Ok(_) => {
            let message = format!("{MOST} viewers are attached already; one must leave first");
            return connection.fail(Failure::new(ErrorKind::Busy, message)).await;
        }
        Err(failure) => return connection.fail(failure).await,
    };
    let at = session.scrollback.borrow().entry(from);
    let sees = from != Some(u64::MAX);
    let seat = Seat::take(&session, sees.then_some(at));
    let mut viewer = Viewer { agent, seat, session, sees, at, typed: BytesMut::new(), eof: false };
    connection.push(&AgentFrame::Session(viewer.session.describe()))?;
    connection.push(&AgentFrame::Position(at))?;
    viewer.serve(&mut connection).await?;
    // The host may be sending input still and must get the end nevertheless.
    connection.finish().await
}

/// A viewer's place at its session, given up when dropped.
struct Seat {
    session: Rc<Session>,
    number: u64,
}

impl Seat {
    fn take(session: &Rc<Session>, at: Option<u64>) -> Seat {
        let number = session.next_viewer.replace(session.next_viewer.get() + 1);
        session.viewers.borrow_mut().push((number, at));
        session.heard.notify_one();
        Seat { session: Rc::clone(session), number }
    }

    fn moved(&self, to: u64) {
        for (number, at) in self.session.viewers.borrow_mut().iter_mut() {
            if *number == self.number {
                *at = Some(to);
            }
        }
        self.session.heard.notify_one();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.session.viewers.borrow_mut().retain(|(number, _)| *number != self.number);
        self.session.alone_since.set(Instant::now());
        self.session.heard.notify_one();
    }
}

struct Viewer<'a> {
    agent: &'a Rc<Agent>,
    session: Rc<Session>,
    seat: Seat,
    /// Gets output, not only the end.
    sees: bool,
    /// Output is sent up to here.
    at: u64,
    /// Input that waits for room.
    typed: BytesMut,
    /// The input ends after what waits.
    eof: bool,
}

impl Viewer<'_> {
    /// Returns after the session's end was sent, or with the error that lost the host.
    async fn serve(&mut self, connection: &mut Connection) -> io::Result<()> {
        loop {
            self.send(connection)?;
            if let Some(exit) = self.session.ended.get()
                && connection.is_flushed()
                && (!self.sees || self.at == self.session.scrollback.borrow().end())
            {
                return connection.send(&AgentFrame::Exit(exit)).await;
            }
            // Nothing waits between the look above and the listening here, so no news are missed.
            // The input is held for as long as something waits for it, since holding it keeps it open.
            let waits = !self.typed.is_empty();
            let input = self.session.input.borrow().clone().filter(|_| waits);
            tokio::select! {
                ready = connection.readable() => {
                    ready?;
                    self.receive(connection)?;
                }
                ready = connection.writable(), if !connection.is_flushed() => {
                    ready?;
                    connection.flush()?;
                }
                () = self.session.told.notified(), if connection.is_flushed() => {}
                () = writable(input.as_deref()), if waits => self.write(connection)?,
            }
        }
    }

    /// Sends output for as long as the socket takes it at once.
    fn send(&mut self, connection: &mut Connection) -> io::Result<()> {
        let scrollback = self.session.scrollback.borrow();
        let before = self.at;
        while self.sees && connection.is_flushed() && self.at < scrollback.end() {
            if self.at < scrollback.start() {
                self.at = scrollback.clean_start();
                connection.push(&AgentFrame::Position(self.at))?;
                continue;
            }
            let mut scratch = self.agent.scratch.borrow_mut();
            let len = scrollback.copy(self.at, &mut scratch[HEAD_ROOM..]);
            connection.push_payload(Payload::Stdout, &mut scratch, len)?;
            self.at += len as u64;
        }
        drop(scrollback);
        if self.at != before {
            self.seat.moved(self.at);
        }
        Ok(())
    }

    fn receive(&mut self, connection: &mut Connection) -> io::Result<()> {
        if !connection.fill()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(frame) = connection.received()? {
            match codec::decode(&frame) {
                Ok(HostFrame::Stdin(data)) => self.take(data, connection)?,
                Ok(HostFrame::StdinEof) => {
                    self.eof = true;
                    self.close_if_done();
                }
                Ok(HostFrame::Signal(number)) => {
                    if let Some(signal) = kill::named(number) {
                        self.session.signal(self.agent, signal);
                    }
                }
                Ok(HostFrame::Resize { rows, cols }) => self.session.resize(self.agent, PtySize { rows, cols }),
                Ok(HostFrame::Cancel) => self.session.kill(self.agent),
                Ok(HostFrame::Data(_) | HostFrame::End) | Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }

    /// Takes input within the window; what nobody will read counts as taken.
    fn take(&mut self, data: &[u8], connection: &mut Connection) -> io::Result<()> {
        if self.typed.len() + data.len() > STDIN_WINDOW {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.eof || self.session.input.borrow().is_none() {
            return acknowledge(connection, data.len());
        }
        self.typed.extend_from_slice(data);
        // Most input fits at once; a look at the socket less is felt in every key.
        self.write(connection)
    }

    fn write(&mut self, connection: &mut Connection) -> io::Result<()> {
        let Some(input) = self.session.input.borrow().clone() else {
            let dropped = std::mem::take(&mut self.typed).len();
            return acknowledge(connection, dropped);
        };
        let written = input.try_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, &self.typed)?));
        let done = match written {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            // The command has closed its input; it is not told more, and the host need not wait.
            Err(_) => {
                *self.session.input.borrow_mut() = None;
                self.typed.len()
            }
        };
        self.typed.advance(done);
        self.close_if_done();
        acknowledge(connection, done)
    }

    /// A terminal's input has no end but the one that is typed.
    fn close_if_done(&mut self) {
        if self.eof && self.typed.is_empty() && self.session.terminal.borrow().is_none() {
            *self.session.input.borrow_mut() = None;
            // Others whose input waits let go of it.
            self.session.told.notify_waiters();
        }
    }
}

fn acknowledge(connection: &mut Connection, taken: usize) -> io::Result<()> {
    match taken {
        0 => Ok(()),
        taken => connection.push(&AgentFrame::StdinTaken(taken as u32)),
    }
}

/// Resolves when input may be written, or is to be dropped since there is no input any more.
async fn writable(input: Option<&AsyncFd<OwnedFd>>) {
    let Some(input) = input else { return };
    match input.writable().await {
        Ok(mut guard) => guard.retain_ready(),
        Err(_) => pending().await,
    }
}
