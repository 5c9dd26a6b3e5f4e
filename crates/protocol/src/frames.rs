//! What follows a request on its connection, both ways.

use serde::{Deserialize, Serialize};

use crate::PtySize;

/// From host to agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostFrame<'a> {
    /// Content of a file being written.
    Data(&'a [u8]),
    /// The content is complete.
    End,
    /// Input for the command, within [`crate::STDIN_WINDOW`].
    Stdin(&'a [u8]),
    /// The command's input is at its end.
    StdinEof,
    /// Signal for the command's process group.
    Signal(i32),
    /// The terminal has a new size.
    Resize { rows: u16, cols: u16 },
    /// Kill the command or give up the operation.
    Cancel,
}

/// From agent to host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentFrame<'a> {
    /// Done, nothing to tell.
    Ok,
    /// The request failed; nothing follows.
    Error { kind: ErrorKind, message: String },
    /// The command runs; its pid as seen inside.
    Started { pid: u32 },
    /// The command wrote this to its standard output (or terminal).
    Stdout(&'a [u8]),
    /// The command wrote this to its standard error.
    Stderr(&'a [u8]),
    /// So many bytes of `Stdin` left the agent's buffer; the host may send as many more.
    StdinTaken(u32),
    /// The command ended; nothing follows.
    Exit(Exit),
    /// Description of a file.
    Entry(Entry),
    /// Some entries of a listing.
    Entries(Vec<Entry>),
    /// Content of a file being read.
    Data(&'a [u8]),
    /// The listing or the content is complete; nothing follows.
    End {
        /// There was more than the limit of the request.
        truncated: bool,
    },
    /// Some processes of the sandbox.
    Processes(Vec<Process>),
    /// What the sandbox uses.
    Usage(Usage),
    /// A session as it is now.
    Session(Session),
    /// The next `Stdout` starts at this byte of all that the session ever wrote.
    Position(u64),
    /// From now on changes are told.
    Watching {
        /// By looking again and again, since the kernel has no room for another watch: what comes
        /// and goes in between is not seen.
        polled: bool,
    },
    /// Some changes in the order in which they happened; at most [`crate::MAX_CHANGES`], never none.
    Changes(Vec<Change>),
    /// Changes were lost: there were more than were fetched in time.
    Overflow,
}

/// What happened to a file. A rename is a removal and a creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Absolute, as asked for or below what was asked for.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is there now.
    Created,
    /// Its content was written to.
    Modified,
    /// Mode, owner, times or link count changed.
    Attributes,
    /// It is no longer there.
    Removed,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status 0 to 255; 128 + n for signal n; 124 when the time was over.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It was killed because its time was over.
    pub timed_out: bool,
    /// Standard output was longer than the limit.
    pub stdout_truncated: bool,
    /// Standard error was longer than the limit.
    pub stderr_truncated: bool,
}

/// A command that goes on without a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// As given to `Open`.
    pub id: [u8; 16],
    /// Pid of the command, as seen inside.
    pub pid: u32,
    /// Size of its terminal, if it has one.
    pub pty: Option<PtySize>,
    /// The command's text or arguments, these each ended by NUL; cut at 1024 bytes.
    pub command: Vec<u8>,
    /// Time since it was started.
    pub age_ms: u64,
    /// Bytes it ever wrote.
    pub written: u64,
    /// Hosts that are attached.
    pub viewers: u32,
    /// How it ended, if it has.
    pub ended: Option<Exit>,
}

/// A file of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute, as asked for or found below what was asked for.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Name of the owner by the sandbox's `/etc/passwd`; empty when unknown.
    pub user: String,
    /// Name of the group by the sandbox's `/etc/group`; empty when unknown.
    pub group: String,
    /// Last change of the content, nanoseconds since 1970 (UTC).
    pub modified_ns: i64,
    /// What a symbolic link says.
    pub target: Option<Vec<u8>>,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    BlockDevice,
    CharDevice,
}

/// A process of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub uid: u32,
    /// State letter as in `/proc/<pid>/stat`.
    pub state: char,
    pub threads: u32,
    pub resident_bytes: u64,
    /// Processor time used, user and system.
    pub cpu_ms: u64,
    /// Arguments, each ended by NUL, or the process's name; cut at 4096 bytes.
    pub command: Vec<u8>,
}

/// What the sandbox uses, as seen from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub processes: u32,
    pub threads: u32,
    /// Sum over all processes; shared pages count once for each.
    pub resident_bytes: u64,
    /// Of the file system that holds `/`.
    pub disk_total_bytes: u64,
    pub disk_free_bytes: u64,
    /// Since the agent started.
    pub uptime_ms: u64,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    NotFound,
    PermissionDenied,
    Exists,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    /// The disk or the quota is full.
    NoSpace,
    /// A name, an argument, a file or a tree is over a limit.
    TooLarge,
    /// The request itself makes no sense.
    Invalid,
    NoSuchUser,
    /// The program of a command is not there.
    NoSuchCommand,
    /// Out of processes, descriptors, memory or request slots; trying again can help.
    Busy,
    Other,
}
