//! A running command, seen from the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forkpoint_protocol::codec::Payload;
use forkpoint_protocol::{AgentFrame, Exit, HostFrame, Request, STDIN_WINDOW};
use tokio::sync::Semaphore;

use super::error::{lost, unexpected};
use super::link::{self, Link, Wire};
use super::{AgentClient, AgentError, ExecSpec};

/// The agent's own limit for starting a program, and some.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(30);
/// Input sent in one frame.
const PIECE: usize = 64 * 1024;

/// What a running command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote this to standard output (or its terminal).
    Stdout(Bytes),
    /// It wrote this to standard error.
    Stderr(Bytes),
    /// It ended; the last event.
    Exit(Exit),
}

/// A running command. Dropping it before the exit kills the command and its process group, unless
/// it was started with `detach`.
///
/// Output is not read ahead: who does not call [`ExecStream::next`] slows the command down.
#[derive(Debug)]
pub struct ExecStream {
    link: Link,
    pid: u32,
    stdin: Option<ExecStdin>,
    window: Arc<Window>,
    /// Bytes that may still come, of standard output and standard error.
    left: (u64, u64),
    is_ended: bool,
}

impl ExecStream {
    pub(super) async fn start(client: &AgentClient, spec: ExecSpec) -> Result<ExecStream, AgentError> {
        let (limit, takes_input) = (spec.output_limit, spec.stdin || spec.pty.is_some());
        let mut link = Link::open(client, &Request::Exec(spec)).await?;
        let frame = link.answer(START_DEADLINE).await?;
        let pid = match link::parse(&frame)? {
            AgentFrame::Started { pid } => pid,
            frame => return Err(unexpected("exec", &frame)),
        };
        let window = Arc::new(Window::new());
        let stdin = takes_input.then(|| ExecStdin { wire: Arc::clone(link.wire()), window: Arc::clone(&window) });
        Ok(ExecStream { link, pid, stdin, window, left: (limit, limit), is_ended: false })
    }

    /// The command's pid inside the sandbox.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The command's input, once, if it was started with `stdin` or on a terminal.
    pub fn take_stdin(&mut self) -> Option<ExecStdin> {
        self.stdin.take()
    }

    /// For signals from elsewhere while this stream is read.
    pub fn control(&self) -> ExecControl {
        ExecControl { wire: Arc::clone(self.link.wire()) }
    }

    /// Next event; `None` after the exit. Loses nothing when cancelled. Input sent with
    /// [`ExecStdin`] goes on only while this is called.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, AgentError> {
        if self.is_ended {
            return Ok(None);
        }
        let result = self.event().await;
        if matches!(result, Err(_) | Ok(ExecEvent::Exit(_))) {
            self.is_ended = true;
            self.window.close();
            self.link.wire().shut_down();
        }
        result.map(Some)
    }

    async fn event(&mut self) -> Result<ExecEvent, AgentError> {
        loop {
            let frame = self.link.frame().await?;
            match link::parse(&frame)? {
                // They would spend nothing, and so could go on for ever.
                AgentFrame::Stdout([]) | AgentFrame::Stderr([]) | AgentFrame::StdinTaken(0) => {
                    return Err(AgentError::Protocol("a frame that says nothing".into()));
                }
                AgentFrame::Stdout(data) => {
                    spend(&mut self.left.0, data)?;
                    return Ok(ExecEvent::Stdout(frame.slice_ref(data)));
                }
                AgentFrame::Stderr(data) => {
                    spend(&mut self.left.1, data)?;
                    return Ok(ExecEvent::Stderr(frame.slice_ref(data)));
                }
                AgentFrame::StdinTaken(bytes) => self.window.give_back(bytes as usize)?,
                AgentFrame::Exit(exit) if (0..256).contains(&exit.code) => {
                    return Ok(ExecEvent::Exit(exit));
                }
                AgentFrame::Exit(exit) => {
                    return Err(AgentError::Protocol(format!("exit code {}", exit.code)));
                }
                frame => return Err(unexpected("exec", &frame)),
            }
        }
    }
}

impl Drop for ExecStream {
    fn drop(&mut self) {
        // Input and control handles share the connection and must not keep the command alive.
        self.window.close();
        self.link.wire().shut_down();
    }
}

/// A command's standard input. Dropping it leaves the input open; [`ExecStdin::close`] ends it.
#[derive(Debug)]
pub struct ExecStdin {
    pub(super) wire: Arc<Wire>,
    pub(super) window: Arc<Window>,
}

impl ExecStdin {
    /// Sends input; waits while the command reads slower. Input for a command that has closed its
    /// end is dropped. An error when the command or the connection is at its end.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), AgentError> {
        for piece in data.chunks(PIECE) {
            self.window.take(piece.len()).await?;
            self.wire.send_payload(Payload::HostStdin, piece).await?;
        }
        Ok(())
    }

    /// Tells the command that there is no more input.
    pub async fn close(self) -> Result<(), AgentError> {
        self.end().await
    }

    /// The same without giving up the handle; what is written after it is dropped.
    pub async fn end(&self) -> Result<(), AgentError> {
        self.wire.send(&HostFrame::StdinEof).await
    }
}

/// Acts on a running command from outside its stream.
#[derive(Debug, Clone)]
pub struct ExecControl {
    pub(super) wire: Arc<Wire>,
}

impl ExecControl {
    /// Signals (1 to 31) the command's process group.
    pub async fn signal(&self, signal: i32) -> Result<(), AgentError> {
        self.wire.send(&HostFrame::Signal(signal)).await
    }

    /// Kills the command and all processes of its session; the stream then ends with its exit.
    pub async fn kill(&self) -> Result<(), AgentError> {
        self.wire.send(&HostFrame::Cancel).await
    }

    /// Tells the command's terminal its new size.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), AgentError> {
        self.wire.send(&HostFrame::Resize { rows, cols }).await
    }
}

/// How much input may be on its way.
#[derive(Debug)]
pub(super) struct Window {
    room: Semaphore,
    /// Bytes sent and not yet taken by the command.
    sent: AtomicUsize,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { room: Semaphore::new(STDIN_WINDOW), sent: AtomicUsize::new(0) }
    }

    /// No more input is sent, also not what waits.
    pub(super) fn close(&self) {
        self.room.close();
    }

    async fn take(&self, bytes: usize) -> Result<(), AgentError> {
        let ended = |_| lost("send input")(std::io::ErrorKind::BrokenPipe.into());
        self.room.acquire_many(bytes as u32).await.map_err(ended)?.forget();
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn give_back(&self, bytes: usize) -> Result<(), AgentError> {
        let known = self.sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sent| sent.checked_sub(bytes));
        if known.is_err() {
            return Err(AgentError::Protocol(format!("{bytes} bytes of input taken that were not sent")));
        }
        self.room.add_permits(bytes);
        Ok(())
    }
}

fn spend(left: &mut u64, data: &[u8]) -> Result<(), AgentError> {
    let rest = left.checked_sub(data.len() as u64);
    *left = rest.ok_or_else(|| AgentError::Protocol("more output than the limit".into()))?;
    Ok(())
}
