//! What a host can ask of an agent.
//!
//! Paths are bytes as the kernel takes them, absolute, without NUL. They are resolved inside the
//! sandbox, by the agent, as the sandbox's root user.

use serde::{Deserialize, Serialize};

use crate::Token;

/// The request of a connection. Any of them can be answered with [`crate::AgentFrame::Error`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Answered with `Ok`.
    Ping,
    /// Runs a command: `Started`, then `Stdout` and `Stderr` in any number, last `Exit`.
    /// The host may send `Stdin`, `StdinEof`, `Signal`, `Resize` and `Cancel`.
    Exec(Exec),
    /// Sends a signal to the whole process group of a running exec. Answered with `Ok`;
    /// `NotFound` when no exec with that pid runs.
    Signal {
        /// As told by `Started`.
        pid: u32,
        /// Signal number, 1 to 31.
        signal: i32,
    },
    /// Reads a regular file: `Entry`, then `Data` in any number, last `End`.
    ReadFile {
        path: Vec<u8>,
        /// First byte wanted.
        offset: u64,
        /// Most bytes wanted; `None` reads to the end.
        len: Option<u64>,
    },
    /// Writes a file from the host's `Data` frames up to its `End`; answered with the `Entry` as it
    /// is then. `Cancel` or a lost connection leaves the old file.
    WriteFile(WriteFile),
    /// Lists a directory: `Entries` in any number, last `End`. Symbolic links are not followed
    /// below `path`. In order of names; a directory is followed by what is in it.
    List {
        path: Vec<u8>,
        /// Levels below `path`; 1 lists only its own entries, 0 means 1.
        depth: u32,
        /// Most entries wanted; at most [`crate::MAX_ENTRIES`].
        limit: u32,
    },
    /// Answered with the `Entry`.
    Stat {
        path: Vec<u8>,
        /// Describe what a symbolic link leads to, not the link.
        follow: bool,
    },
    /// Makes a directory; answered with its `Entry`. With `parents`, an existing directory is fine.
    Mkdir {
        path: Vec<u8>,
        /// Permission bits; `None` is 0755.
        mode: Option<u32>,
        /// Make missing parents too.
        parents: bool,
        /// `user[:group]` by name or number; `None` is the default user.
        owner: Option<String>,
    },
    /// Renames, across mounts by copying; answered with the new `Entry`.
    Move {
        from: Vec<u8>,
        to: Vec<u8>,
        /// Replace an existing file (or an empty directory by a directory).
        overwrite: bool,
    },
    /// Copies a file or a whole tree with modes, owners and times; answered with the new `Entry`.
    /// Symbolic links are copied as links. An existing directory at `to` is merged into.
    Copy {
        from: Vec<u8>,
        to: Vec<u8>,
        /// Replace existing files; else the first one is an error of kind `Exists`.
        overwrite: bool,
    },
    /// Removes a file, a link or a directory. Answered with `Ok`.
    Remove {
        path: Vec<u8>,
        /// Remove what is in the directory too.
        recursive: bool,
    },
    /// Finds what matches an absolute pattern: `Entries` in any number, last `End`. `*` and `?` do
    /// not cross `/`, `**` does, `{a,b}` and `[a-z]` work. Symbolic links below the pattern's
    /// literal beginning are not followed.
    Glob {
        pattern: String,
        /// Most entries wanted; at most [`crate::MAX_ENTRIES`].
        limit: u32,
    },
    /// Answered with `Processes` in any number, last `End`.
    Processes,
    /// Answered with `Usage`.
    Usage,
    /// Makes a restored memory image a sandbox of its own. Answered with `Ok`.
    Refresh(Refresh),
    /// Starts a command that outlives this connection and is attached to by its id: answered with
    /// its `Session`. `Exists` when the id is taken, `Busy` when there are too many sessions.
    Open(Open),
    /// Looks on at a session: its `Session`, then `Position`, then `Stdout` in any number (with
    /// `Position` again where some was skipped for a host that read too slowly), last `Exit`.
    ///
    /// The host may send `Stdin`, `StdinEof` (of no effect on a terminal), `Signal`, `Resize` and
    /// `Cancel`, as for `Exec`;
    /// `Signal` goes to the terminal's foreground group where there is one. A lost connection
    /// leaves the session as it is. Any number of hosts may be attached at the same time.
    Attach {
        /// As given to `Open`.
        id: [u8; 16],
        /// Output from this position on, as far as it is kept; `None` is all that is kept. A
        /// position that is not reached yet is the end; with `u64::MAX` no output is sent at all.
        from: Option<u64>,
    },
    /// Answered with a `Session` for each, oldest first, last `End`.
    Sessions,
    /// Kills a session's processes if any are left and forgets the session. Answered with `Ok`;
    /// `NotFound` when there is none with this id.
    Close {
        /// As given to `Open`.
        id: [u8; 16],
    },
    /// Tells what happens to a file, or to what is in a directory: `Watching`, then `Changes` and
    /// `Overflow` in any number, last `End` when the directory itself is gone. `Cancel` or a lost
    /// connection ends it.
    Watch {
        /// A symbolic link is followed.
        path: Vec<u8>,
        /// Of a directory, also what lies deeper. Symbolic links below are not followed.
        recursive: bool,
    },
}

/// A command to run.
///
/// It gets a session and process group of its own. It is killed, with its whole session, when its
/// time is over, at `Cancel`, and, unless `detach` is set, when the connection is lost; a lost
/// connection also means a host process that died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    pub command: Command,
    /// The whole environment. `HOME`, `USER`, `LOGNAME`, `SHELL` and `PATH` are added where absent.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None`: `/workspace` if it is a directory, else the user's home, else `/`.
    pub cwd: Option<Vec<u8>>,
    /// `user[:group]` by name or number; `None` is the default user.
    pub user: Option<String>,
    /// Kill after so long; `None` never.
    pub timeout_ms: Option<u64>,
    /// Take input from the host; else it is `/dev/null`.
    pub stdin: bool,
    /// Run on a terminal of this size; all output then comes as `Stdout`.
    pub pty: Option<PtySize>,
    /// Bytes passed on per stream; what is over is read and dropped, and `Exit` says so.
    pub output_limit: u64,
    /// Send standard error into standard output, in the order written.
    pub merge: bool,
    /// Let the command live when the connection is lost.
    pub detach: bool,
}

impl Exec {
    /// Default of `output_limit`.
    pub const OUTPUT_LIMIT: u64 = 8 << 20;

    /// The command as the default user, in the default directory, with the default environment,
    /// without input, without a time limit.
    pub fn new(command: Command) -> Exec {
        Exec {
            command,
            env: Vec::new(),
            cwd: None,
            user: None,
            timeout_ms: None,
            stdin: false,
            pty: None,
            output_limit: Exec::OUTPUT_LIMIT,
            merge: false,
            detach: false,
        }
    }
}

/// A command that goes on without a host, with its latest output kept for whoever attaches.
///
/// Both outputs of a command without a terminal are merged. When it has ended, the session stays
/// for a while, so that its end can still be learned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Chosen by the host.
    pub id: [u8; 16],
    /// `output_limit`, `merge` and `detach` have no meaning here.
    pub exec: Exec,
    /// Bytes of output kept; at most [`crate::MAX_SCROLLBACK`].
    pub scrollback: u32,
    /// Kill it when no host was attached for so long; `None` never.
    pub linger_ms: Option<u64>,
}

/// How the command is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Text for `/bin/bash -c`, or `/bin/sh -c` where there is no bash.
    Shell(Vec<u8>),
    /// Program and arguments. A program without `/` is looked up in the `PATH` of the environment.
    Argv(Vec<Vec<u8>>),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    pub rows: u16,
    pub cols: u16,
}

/// Where and how to write a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteFile {
    /// A symbolic link is followed.
    pub path: Vec<u8>,
    /// Permission bits; `None` keeps those of an existing file, else 0644.
    pub mode: Option<u32>,
    /// `user[:group]` by name or number; `None` keeps the owner of an existing file, else the
    /// default user.
    pub owner: Option<String>,
    /// Make missing parent directories (0755, same owner).
    pub make_parents: bool,
    pub disposition: WriteDisposition,
}

impl WriteFile {
    /// Replaces the file at this path, with parents where missing, mode and owner by default.
    pub fn new(path: impl Into<Vec<u8>>) -> WriteFile {
        WriteFile {
            path: path.into(),
            mode: None,
            owner: None,
            make_parents: true,
            disposition: WriteDisposition::Replace,
        }
    }
}

/// What happens to a file that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteDisposition {
    /// It is replaced in one step when all data has come; readers see the old or the new.
    Replace,
    /// Data is added at its end as it comes.
    Append,
    /// Error of kind `Exists`.
    CreateNew,
}

/// What a fork of a memory image must not share with its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refresh {
    /// New host name; needs a sandbox that may set it.
    pub hostname: Option<Vec<u8>>,
    /// Mixed into the kernel's random pool; at most 4096 bytes.
    pub seed: Vec<u8>,
    /// Secret that connections after this one must show.
    pub token: Option<Token>,
}
