//! Commands and files inside one running sandbox. Whatever comes back is untrusted.

use super::terminal::{Attached, Terminal, TerminalSpec};
use super::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::{ids::TerminalId, path::SandboxPath};
use futures::stream::BoxStream;
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt};

/// What a stream of bytes into a sandbox is made of.
pub type ByteStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// Runs commands and works on files in one sandbox, by its agent.
#[async_trait]
pub trait Guest: Send + Sync + fmt::Debug + 'static {
    /// Starts a command. Dropping the answer kills it with its process group.
    async fn exec(&self, command: ExecSpec) -> Result<BoxStream<'static, ExecEvent>, GuestError>;

    /// Starts a command that goes on while nobody looks on, until it ends or the sandbox's processes do.
    async fn open_terminal(&self, terminal: TerminalSpec) -> Result<Terminal, GuestError>;

    /// All terminals, those that have ended lately too; oldest first.
    async fn terminals(&self) -> Result<Vec<Terminal>, GuestError>;

    /// Looks on at a terminal, from a position in its output on; `None`: from the oldest that is kept.
    async fn attach_terminal(&self, id: TerminalId, from: Option<u64>) -> Result<Attached, GuestError>;

    /// Kills a terminal's processes, if any are left, and forgets it.
    async fn close_terminal(&self, id: TerminalId) -> Result<(), GuestError>;

    /// Opens a regular file for reading, from `offset` for at most `length` bytes.
    async fn read(&self, path: &SandboxPath, offset: u64, length: Option<u64>) -> Result<FileContent, GuestError>;

    /// Writes a whole file beside and moves it into place; makes parent directories.
    async fn write(&self, path: &SandboxPath, mode: Option<u32>, content: ByteStream) -> Result<FileEntry, GuestError> {
        self.write_as(path, mode, None, content).await
    }

    /// The same with an owner, `user[:group]` by name or number; `None`: the sandbox user.
    async fn write_as(
        &self,
        path: &SandboxPath,
        mode: Option<u32>,
        owner: Option<&str>,
        content: ByteStream,
    ) -> Result<FileEntry, GuestError>;

    /// Looks at one path, not following a final symbolic link.
    async fn stat(&self, path: &SandboxPath) -> Result<FileEntry, GuestError>;

    /// Lists a directory.
    async fn list(&self, path: &SandboxPath, recursive: bool) -> Result<Listing, GuestError>;

    /// Finds what matches an absolute pattern (`*` inside one part, `**` across).
    async fn glob(&self, pattern: &str) -> Result<Listing, GuestError>;

    /// Makes a directory; with `recursive` its parents too, and an existing one is fine.
    async fn make_directory(&self, path: &SandboxPath, recursive: bool) -> Result<(), GuestError> {
        self.make_directory_as(path, recursive, None).await
    }

    /// The same with an owner of what is made, `user[:group]` by name or number; `None`: the sandbox user.
    async fn make_directory_as(
        &self,
        path: &SandboxPath,
        recursive: bool,
        owner: Option<&str>,
    ) -> Result<(), GuestError>;

    /// Renames, or moves across file systems.
    async fn rename(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError>;

    /// Copies a file or a whole tree.
    async fn copy(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError>;

    /// Watches a file, or what is in a directory; with `recursive` also what lies deeper.
    async fn watch(&self, path: &SandboxPath, recursive: bool) -> Result<Watch, GuestError>;

    /// Removes a file, or with `recursive` a whole tree.
    async fn remove(&self, path: &SandboxPath, recursive: bool) -> Result<(), GuestError>;
}

/// What is to be run.
#[derive(Clone)]
pub struct ExecSpec {
    /// The command.
    pub command: Command,
    /// Environment laid over the agent's defaults (PATH, HOME, USER, …).
    pub env: BTreeMap<String, String>,
    /// Where it starts; `None`: `/workspace`.
    pub working_dir: Option<SandboxPath>,
    /// User name or `uid[:gid]`; `None`: the sandbox user.
    pub user: Option<String>,
    /// After how many milliseconds its process group is killed; `None`: never.
    pub timeout_ms: Option<u64>,
    /// What it reads; `None`: nothing, at once at its end.
    pub stdin: Option<Bytes>,
    /// The most bytes kept of each of its two outputs.
    pub output_limit: u64,
}

impl fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The command line and environment may hold secrets.
        f.debug_struct("ExecSpec")
            .field("user", &self.user)
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

/// A command in one of its two forms.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// A string for a shell.
    Shell(String),
    /// Program and arguments; not empty.
    Argv(Vec<String>),
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Command(hidden)")
    }
}

/// What a running command tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output, unmodified.
    Stdout(Bytes),
    /// Error output, unmodified.
    Stderr(Bytes),
    /// It ended; nothing follows.
    Exit(ExecExit),
    /// Its sandbox went away or was restored under it; nothing follows.
    Lost(String),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecExit {
    /// Exit code; 128 + n for signal n; 124 on time-out.
    pub code: i32,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Whether output beyond the limit was dropped.
    pub output_truncated: bool,
}

/// An open file.
pub struct FileContent {
    /// What it is.
    pub entry: FileEntry,
    /// Its bytes from the offset asked for.
    pub content: ByteStream,
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileContent").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Absolute path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Last change of content.
    pub modified_at: Timestamp,
    /// Where a symbolic link points.
    pub target: Option<String>,
}

/// The kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO, socket or device.
    Other,
}

/// Found entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Ordered by path.
    pub entries: Vec<FileEntry>,
    /// Whether there were more than are listed at once.
    pub truncated: bool,
}

/// Why something inside failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The path or directory does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The user does not exist.
    #[error("{0}")]
    NoSuchUser(String),
    /// The command does not exist or cannot be run; with the exit code a shell gives (127 or 126).
    #[error("{message}")]
    NoSuchCommand {
        /// What the agent says.
        message: String,
        /// 127: not found; 126: not executable.
        code: i32,
    },
    /// There is something already.
    #[error("{0}")]
    Exists(String),
    /// The sandbox's own disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// The sandbox has no processes, memory or descriptors left.
    #[error("{0}")]
    Exhausted(String),
    /// The request makes no sense for what is there (e.g. reading a directory).
    #[error("{0}")]
    Refused(String),
    /// This server has no descriptors or memory left to reach the agent; nothing was asked of it.
    #[error("the server has no {0} left to reach the sandbox; nothing was done")]
    Unreached(&'static str),
    /// The agent could not be reached or broke the protocol.
    #[error("sandbox does not answer: {0}")]
    Lost(String),
}
