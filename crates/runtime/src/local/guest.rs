//! The Guest port by a sandbox's agent.

mod terminals;
mod watch;

use super::instance::Running;
use crate::agent_client::{self as agent, AgentError, Entry, EntryKind, ErrorKind, ExecStream, WriteSpec};
use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::{ids::TerminalId, path::SandboxPath};
use forkpoint_engine::ports::guest::{
    ByteStream, Command, ExecEvent, ExecExit, ExecSpec, FileContent, FileEntry, FileKind, Guest, GuestError, Listing,
};
use forkpoint_engine::ports::terminal::{Attached, Terminal, TerminalSpec};
use forkpoint_engine::ports::watch::Watch;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The most entries of one listing.
const MAX_ENTRIES: u32 = 20_000;
/// Deep enough for any path the kernel takes.
const ALL_LEVELS: u32 = 2048;

/// Speaks to the agent of one running sandbox. Every wait ends when the sandbox does.
#[derive(Debug)]
pub(super) struct AgentGuest {
    running: Arc<Running>,
}

impl AgentGuest {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running }
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, AgentError>>) -> Result<T, GuestError> {
        tokio::select! {
            result = call => result.map_err(guest_error),
            () = self.running.gone.cancelled() => Err(GuestError::Lost(GONE.into())),
        }
    }
}

/// How long after a command's time is up its agent may take to say so: one that has to get by without memory or
/// processor time, or that lies, must not hold up the caller.
const OVERDUE: Duration = Duration::from_secs(5);
/// What a command ends with whose time is up.
const TIMED_OUT: i32 = 124;

const GONE: &str = "the sandbox was stopped or restored meanwhile";

#[async_trait]
impl Guest for AgentGuest {
    async fn exec(&self, command: ExecSpec) -> Result<BoxStream<'static, ExecEvent>, GuestError> {
        let mut spec = agent::ExecSpec::new(agent_command(command.command));
        spec.env = agent_env(command.env);
        spec.cwd = command.working_dir.map(|path| path.as_str().as_bytes().to_vec());
        spec.user = command.user;
        spec.timeout_ms = command.timeout_ms;
        spec.stdin = command.stdin.is_some();
        spec.output_limit = command.output_limit;
        let mut stream = self.ask(self.running.agent.exec(spec)).await?;
        if let (Some(input), Some(mut stdin)) = (command.stdin, stream.take_stdin()) {
            tokio::spawn(async move {
                // A command that ends or closes its input before has had what it wanted.
                if stdin.write(&input).await.is_ok() {
                    let _ = stdin.close().await;
                }
            });
        }
        let timeout = command.timeout_ms.map(|timeout| Duration::from_millis(timeout).saturating_add(OVERDUE));
        let overdue = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(events(stream, self.running.clone(), overdue))
    }

    async fn open_terminal(&self, terminal: TerminalSpec) -> Result<Terminal, GuestError> {
        self.ask(self.running.agent.open_session(terminals::open_spec(terminal))).await.map(terminals::terminal)
    }

    async fn terminals(&self) -> Result<Vec<Terminal>, GuestError> {
        let all = self.ask(self.running.agent.sessions()).await?;
        Ok(all.into_iter().map(terminals::terminal).collect())
    }

    async fn attach_terminal(&self, id: TerminalId, from: Option<u64>) -> Result<Attached, GuestError> {
        let stream = self.ask(self.running.agent.attach(id.uuid().into_bytes(), from)).await?;
        Ok(terminals::attached(stream, self.running.clone()))
    }

    async fn close_terminal(&self, id: TerminalId) -> Result<(), GuestError> {
        self.ask(self.running.agent.close_session(id.uuid().into_bytes())).await
    }

    async fn read(&self, path: &SandboxPath, offset: u64, length: Option<u64>) -> Result<FileContent, GuestError> {
        let file = self.ask(self.running.agent.read_file(path.as_str().as_bytes(), offset, length)).await?;
        let entry = file_entry(file.meta());
        let content = file.into_stream().map_err(io::Error::other);
        Ok(FileContent { entry, content: until_gone(content, self.running.clone()) })
    }

    async fn write_as(
        &self,
        path: &SandboxPath,
        mode: Option<u32>,
        owner: Option<&str>,
        content: ByteStream,
    ) -> Result<FileEntry, GuestError> {
        let mut spec = WriteSpec::new(path.as_str().as_bytes());
        spec.mode = mode;
        spec.owner = owner.map(str::to_owned);
        self.ask(self.running.agent.write_file(spec, content)).await.map(|entry| file_entry(&entry))
    }

    async fn stat(&self, path: &SandboxPath) -> Result<FileEntry, GuestError> {
        self.ask(self.running.agent.stat(path.as_str().as_bytes(), false)).await.map(|entry| file_entry(&entry))
    }

    async fn list(&self, path: &SandboxPath, recursive: bool) -> Result<Listing, GuestError> {
        let depth = if recursive { ALL_LEVELS } else { 1 };
        self.ask(self.running.agent.list(path.as_str().as_bytes(), depth, MAX_ENTRIES)).await.map(listing)
    }

    async fn glob(&self, pattern: &str) -> Result<Listing, GuestError> {
        self.ask(self.running.agent.glob(pattern, MAX_ENTRIES)).await.map(listing)
    }

    async fn make_directory_as(
        &self,
        path: &SandboxPath,
        recursive: bool,
        owner: Option<&str>,
    ) -> Result<(), GuestError> {
        let owner = owner.map(str::to_owned);
        self.ask(self.running.agent.mkdir(path.as_str().as_bytes(), None, recursive, owner)).await.map(drop)
    }

    async fn rename(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError> {
        let (from, to) = (source.as_str().as_bytes(), destination.as_str().as_bytes());
        self.ask(self.running.agent.rename(from, to, true)).await.map(drop)
    }

    async fn copy(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError> {
        let (from, to) = (source.as_str().as_bytes(), destination.as_str().as_bytes());
        self.ask(self.running.agent.copy(from, to, true)).await.map(drop)
    }

    async fn watch(&self, path: &SandboxPath, recursive: bool) -> Result<Watch, GuestError> {
        let stream = self.ask(self.running.agent.watch(path.as_str().as_bytes(), recursive)).await?;
        Ok(watch::watch(stream, self.running.clone()))
    }

    async fn remove(&self, path: &SandboxPath, recursive: bool) -> Result<(), GuestError> {
        self.ask(self.running.agent.remove(path.as_str().as_bytes(), recursive)).await
    }
}

fn agent_command(command: Command) -> agent::Command {
    match command {
        Command::Shell(text) => agent::Command::Shell(text.into_bytes()),
        Command::Argv(argv) => agent::Command::Argv(argv.into_iter().map(String::into_bytes).collect()),
    }
}

fn agent_env(env: BTreeMap<String, String>) -> Vec<(Vec<u8>, Vec<u8>)> {
    env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect()
}

/// The events of a running command, ending with `Exit` or `Lost`. The agent keeps the command's time; at `overdue` it
/// is taken for one that cannot, and the stream ends as if it had. Dropping it then tells the agent to kill.
fn events(stream: ExecStream, running: Arc<Running>, overdue: Option<Instant>) -> BoxStream<'static, ExecEvent> {
    stream::unfold(Some((stream, running)), move |state| async move {
        let (mut stream, running) = state?;
        let next = tokio::select! {
            // What the agent has said already comes first: a caller who reads slowly must not lose it. One that
            // talks on and on meets the limit of output.
            biased;
            next = stream.next() => next,
            () = running.gone.cancelled() => return Some((ExecEvent::Lost(GONE.into()), None)),
            () = until(overdue) => {
                let exit = ExecExit { code: TIMED_OUT, timed_out: true, output_truncated: false };
                return Some((ExecEvent::Exit(exit), None));
            }
        };
        match next {
            Ok(Some(agent::ExecEvent::Stdout(data))) => Some((ExecEvent::Stdout(data), Some((stream, running)))),
            Ok(Some(agent::ExecEvent::Stderr(data))) => Some((ExecEvent::Stderr(data), Some((stream, running)))),
            Ok(Some(agent::ExecEvent::Exit(exit))) => {
                let output_truncated = exit.stdout_truncated || exit.stderr_truncated;
                let exit = ExecExit { code: exit.code, timed_out: exit.timed_out, output_truncated };
                Some((ExecEvent::Exit(exit), None))
            }
            Ok(None) => None,
            Err(error) => Some((ExecEvent::Lost(error.to_string()), None)),
        }
    })
    .boxed()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A file's content, cut with an error when its sandbox ends.
fn until_gone(
    content: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static,
    running: Arc<Running>,
) -> ByteStream {
    stream::unfold(Some((content.boxed(), running)), |state| async {
        let (mut content, running) = state?;
        let next = tokio::select! {
            biased;
            next = content.next() => next?,
            () = running.gone.cancelled() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, GONE)),
        };
        let rest = next.is_ok().then_some((content, running));
        Some((next, rest))
    })
    .boxed()
}

fn listing(found: agent::Listing) -> Listing {
    Listing { entries: found.entries.iter().map(file_entry).collect(), truncated: found.truncated }
}

fn file_entry(entry: &Entry) -> FileEntry {
    FileEntry {
        path: String::from_utf8_lossy(&entry.path).into_owned(),
        kind: match entry.kind {
            EntryKind::File => FileKind::File,
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            EntryKind::Fifo | EntryKind::Socket | EntryKind::BlockDevice | EntryKind::CharDevice => FileKind::Other,
        },
        size: if entry.kind == EntryKind::File { entry.size } else { 0 },
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        // The sandbox may say any number.
        modified_at: Timestamp::from_nanosecond(i128::from(entry.modified_ns)).unwrap_or(Timestamp::UNIX_EPOCH),
        target: entry.target.as_ref().map(|target| String::from_utf8_lossy(target).into_owned()),
    }
}

/// Whether this process has no means left to make a connection.
fn is_short(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn guest_error(error: AgentError) -> GuestError {
    let message = error.to_string();
    let Some(kind) = error.kind() else {
        return match error {
            AgentError::Lost { during: agent::CONNECT, source } if is_short(&source) => {
                GuestError::Unreached("file descriptors or memory")
            }
            AgentError::Source(_) => GuestError::Refused("the content to be written did not come whole".into()),
            _ => GuestError::Lost(message),
        };
    };
    match kind {
        ErrorKind::NotFound => GuestError::NotFound(message),
        ErrorKind::NoSuchUser => GuestError::NoSuchUser(message),
        ErrorKind::NoSuchCommand => GuestError::NoSuchCommand { message, code: 127 },
        ErrorKind::Exists => GuestError::Exists(message),
        ErrorKind::NoSpace => GuestError::NoSpace(message),
        ErrorKind::Busy => GuestError::Exhausted(message),
        ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::TooLarge
        | ErrorKind::Invalid
        | ErrorKind::Other => GuestError::Refused(message),
    }
}
