//! Commands inside a sandbox that go on while nobody looks on: terminals and background commands.

use super::guest::{Command, ExecExit, GuestError};
use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::{ids::TerminalId, path::SandboxPath};
use futures::stream::BoxStream;
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What is to be started.
#[derive(Clone)]
pub struct TerminalSpec {
    /// Its name for ever.
    pub id: TerminalId,
    /// What runs in it.
    pub command: Command,
    /// Environment laid over the agent's defaults (PATH, HOME, USER, TERM, …).
    pub env: BTreeMap<String, String>,
    /// Where it starts; `None`: `/workspace`.
    pub working_dir: Option<SandboxPath>,
    /// User name or `uid[:gid]`; `None`: the sandbox user.
    pub user: Option<String>,
    /// After how many milliseconds it is killed; `None`: never.
    pub timeout_ms: Option<u64>,
    /// The terminal's size; `None`: no terminal, but pipes with both outputs in one.
    pub size: Option<TerminalSize>,
    /// The most bytes of output kept for whoever attaches later.
    pub scrollback: u32,
    /// Kill it when nobody was attached for so many milliseconds; `None`: never.
    pub linger_ms: Option<u64>,
}

impl fmt::Debug for TerminalSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The command line and environment may hold secrets.
        f.debug_struct("TerminalSpec").field("id", &self.id).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub cols: u16,
}

/// A terminal or background command as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Its name.
    pub id: TerminalId,
    /// Pid of its command, as seen inside.
    pub pid: u32,
    /// Its command for people, cut at 1024 bytes.
    pub command: String,
    /// Size; `None`: it has no terminal.
    pub size: Option<TerminalSize>,
    /// When it was started.
    pub started_at: Timestamp,
    /// Bytes it ever wrote.
    pub written: u64,
    /// How many are attached.
    pub viewers: u32,
    /// How it ended, if it has.
    pub ended: Option<ExecExit>,
}

/// A terminal being looked on. Dropping it leaves the terminal as it is.
pub struct Attached {
    /// As it was when this began.
    pub terminal: Terminal,
    /// Position of the first output in all that it ever wrote.
    pub position: u64,
    /// What it does, ending with `Exit` or `Lost`.
    pub events: BoxStream<'static, TerminalEvent>,
    /// What can be done to it while the events are read.
    pub input: Arc<dyn TerminalInput>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("terminal", &self.terminal.id).finish_non_exhaustive()
    }
}

/// What an attached terminal does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// Output, unmodified.
    Output(Bytes),
    /// Output was skipped, since it was read too slowly; the next output is at this position.
    Skipped(u64),
    /// Its command ended; nothing follows.
    Exit(ExecExit),
    /// Its sandbox went away or was restored under it; nothing follows.
    Lost(String),
}

/// Acts on an attached terminal. An error means that it, or the sandbox, is at its end.
#[async_trait]
pub trait TerminalInput: Send + Sync + fmt::Debug + 'static {
    /// Gives it input; waits while the command reads slower.
    async fn write(&self, data: Bytes) -> Result<(), GuestError>;

    /// Ends the input of a command without a terminal.
    async fn end(&self) -> Result<(), GuestError>;

    /// Gives the terminal another size; the same one makes its program draw again.
    async fn resize(&self, size: TerminalSize) -> Result<(), GuestError>;

    /// Signals (1 to 31) what has the terminal, or the command's process group.
    async fn signal(&self, signal: i32) -> Result<(), GuestError>;
}
