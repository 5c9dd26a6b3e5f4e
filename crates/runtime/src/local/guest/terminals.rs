//! Terminals and background commands as the agent's sessions.

use super::{GONE, Running, agent_command, agent_env, guest_error};
use crate::agent_client::{self as agent, ExecControl, ExecStdin, OpenSpec, Session, SessionEvent, SessionStream};
use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::ids::TerminalId;
use forkpoint_engine::ports::{
    guest::{ExecExit, GuestError},
    terminal::{Attached, Terminal, TerminalEvent, TerminalInput, TerminalSize, TerminalSpec},
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::sync::Mutex;

pub(super) fn open_spec(terminal: TerminalSpec) -> OpenSpec {
    let mut exec = agent::ExecSpec::new(agent_command(terminal.command));
    exec.env = agent_env(terminal.env);
    exec.cwd = terminal.working_dir.map(|path| path.as_str().as_bytes().to_vec());
    exec.user = terminal.user;
    exec.timeout_ms = terminal.timeout_ms;
    exec.stdin = true;
    exec.pty = terminal.size.map(|size| agent::PtySize { rows: size.rows, cols: size.cols });
    OpenSpec {
        id: terminal.id.uuid().into_bytes(),
        exec,
        scrollback: terminal.scrollback,
        linger_ms: terminal.linger_ms,
    }
}

pub(super) fn terminal(session: Session) -> Terminal {
    // The sandbox may say any number.
    let age = SignedDuration::from_millis(i64::try_from(session.age_ms).unwrap_or(i64::MAX));
    Terminal {
        id: TerminalId::from_uuid(uuid::Uuid::from_bytes(session.id)),
        pid: session.pid,
        command: readable(&session.command),
        size: session.pty.map(|size| TerminalSize { rows: size.rows, cols: size.cols }),
        started_at: Timestamp::now().checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH),
        written: session.written,
        viewers: session.viewers,
        ended: session.ended.map(exit),
    }
}

/// A command's text; arguments, each ended by NUL, with blanks between.
fn readable(command: &[u8]) -> String {
    let command = command.strip_suffix(b"\0").unwrap_or(command);
    String::from_utf8_lossy(command).replace('\0', " ")
}

fn exit(exit: agent::Exit) -> ExecExit {
    ExecExit { code: exit.code, timed_out: exit.timed_out, output_truncated: false }
}

pub(super) fn attached(stream: SessionStream, running: Arc<Running>) -> Attached {
    let input = Input { stdin: Mutex::new(stream.stdin()), control: stream.control() };
    Attached {
        terminal: terminal(stream.session().clone()),
        position: stream.position(),
        events: events(stream, running),
        input: Arc::new(input),
    }
}

fn events(stream: SessionStream, running: Arc<Running>) -> BoxStream<'static, TerminalEvent> {
    stream::unfold(Some((stream, running)), |state| async {
        let (mut stream, running) = state?;
        let next = tokio::select! {
            // What the agent has said already comes first.
            biased;
            next = stream.next() => next,
            () = running.gone.cancelled() => return Some((TerminalEvent::Lost(GONE.into()), None)),
        };
        let event = match next {
            Ok(Some(SessionEvent::Output(data))) => TerminalEvent::Output(data),
            Ok(Some(SessionEvent::Skipped(position))) => TerminalEvent::Skipped(position),
            Ok(Some(SessionEvent::Exit(ended))) => return Some((TerminalEvent::Exit(exit(ended)), None)),
            Ok(None) => return None,
            Err(_) if running.gone.is_cancelled() => return Some((TerminalEvent::Lost(GONE.into()), None)),
            Err(error) => return Some((TerminalEvent::Lost(error.to_string()), None)),
        };
        Some((event, Some((stream, running))))
    })
    .boxed()
}

#[derive(Debug)]
struct Input {
    stdin: Mutex<ExecStdin>,
    control: ExecControl,
}

#[async_trait]
impl TerminalInput for Input {
    async fn write(&self, data: Bytes) -> Result<(), GuestError> {
        self.stdin.lock().await.write(&data).await.map_err(guest_error)
    }

    async fn end(&self) -> Result<(), GuestError> {
        self.stdin.lock().await.end().await.map_err(guest_error)
    }

    async fn resize(&self, size: TerminalSize) -> Result<(), GuestError> {
        self.control.resize(size.rows, size.cols).await.map_err(guest_error)
    }

    async fn signal(&self, signal: i32) -> Result<(), GuestError> {
        self.control.signal(signal).await.map_err(guest_error)
    }
}
