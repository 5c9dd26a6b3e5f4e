//! Starts `forkpoint-jail` and waits until the agent inside listens.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::process::{Signal, pidfd_send_signal};

use crate::process;
use crate::report::{Line, MAX_LINE_BYTES, READY, StepError};
use crate::spec::{Spec, encode_order};

/// How long a launch may take from the first call until the agent is ready.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long the remains of a failed launch are waited for after they were killed.
const CLEANUP: Duration = Duration::from_secs(5);

/// Launches sandboxes with one jail program and one agent program.
#[derive(Debug, Clone)]
pub struct Launcher {
    jail: PathBuf,
    agent: PathBuf,
    deadline: Duration,
}

/// A sandbox whose agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The agent's process id on the host; inside it is 1. Its death ends the whole sandbox.
    pub pid: u32,
    /// The agent's start time, see [`process::start_time`].
    pub start_time: u64,
}

/// Why a launch failed. Nothing of the sandbox runs any more, unless `StillRunning` says so.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("sandbox order: {0}")]
    Spec(String),
    #[error("start {}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("talk to the jail")]
    Channel(#[source] io::Error),
    /// The jail or the agent's start failed at a step.
    #[error("{0}")]
    Step(StepError),
    #[error("the jail ended before it had built the sandbox")]
    JailEnded,
    #[error("the agent ended before it was ready")]
    AgentEnded,
    #[error("unexpected report {0:?}, must be one line of JSON from the jail and then {READY:?} from the agent")]
    Report(String),
    #[error("not ready after {0:?}")]
    Deadline(Duration),
    #[error("{0}; and its remains did not end within {CLEANUP:?} of being killed")]
    StillRunning(Box<LaunchError>),
}

impl Launcher {
    /// Both programs by absolute path. The agent need not be reachable inside: it is started by descriptor.
    pub fn new(jail_bin: impl Into<PathBuf>, agent_bin: impl Into<PathBuf>) -> Self {
        Self { jail: jail_bin.into(), agent: agent_bin.into(), deadline: DEADLINE }
    }

    /// The same with another deadline than 20 seconds.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Builds the sandbox in the network namespace `netns` and returns once its agent has said that it listens.
    ///
    /// Blocks; the deadline bounds it. After an error everything that was started has been killed and has ended; the
    /// control group is the caller's to remove. The sandbox does not depend on the calling process afterwards.
    pub fn launch(&self, spec: &Spec, netns: BorrowedFd<'_>) -> Result<Launched, LaunchError> {
        let deadline = Instant::now() + self.deadline;
        spec.check().map_err(LaunchError::Spec)?;
        let order = order_file(&encode_order(spec, &self.agent).map_err(LaunchError::Spec)?)?;
        let (report, report_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(channel)?;
        // The three standard descriptors carry all that the jail needs. So nothing has to be made inheritable in
        // this process, where another thread might start a program at the same moment.
        let jail = Command::new(&self.jail)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(order))
            .stdout(Stdio::from(report_end))
            .stderr(Stdio::from(netns.try_clone_to_owned().map_err(LaunchError::Channel)?))
            .spawn()
            .map_err(|source| LaunchError::Start { program: self.jail.clone(), source })?;
        let mut launch = Launch { jail, report: Lines::new(report), started: None };
        launch.finish(deadline).map_err(|error| match error {
            LaunchError::Deadline(_) => launch.undo(LaunchError::Deadline(self.deadline)),
            error => launch.undo(error),
        })
    }
}

/// A launch under way.
struct Launch {
    jail: Child,
    report: Lines,
    started: Option<Launched>,
}

impl Launch {
    fn finish(&mut self, deadline: Instant) -> Result<Launched, LaunchError> {
        let launched = match self.line(deadline, LaunchError::JailEnded)? {
            Line::Started { pid, start_time } => Launched { pid, start_time },
            Line::Failed { error } => return Err(LaunchError::Step(error)),
        };
        self.started = Some(launched);
        match self.report.next(deadline)? {
            Some(line) if is_ready(&line) => {}
            Some(line) => match Line::parse(&line) {
                Some(Line::Failed { error }) => return Err(LaunchError::Step(error)),
                _ => return Err(unexpected(&line)),
            },
            None => return Err(LaunchError::AgentEnded),
        }
        // The jail ends as soon as it has let the agent go, so this only collects it.
        self.jail.wait().map_err(LaunchError::Channel)?;
        Ok(launched)
    }

    fn line(&mut self, deadline: Instant, ended: LaunchError) -> Result<Line, LaunchError> {
        let line = self.report.next(deadline)?.ok_or(ended)?;
        Line::parse(&line).ok_or_else(|| unexpected(&line))
    }

    /// Ends everything that was started and returns `error`.
    ///
    /// After a failed step the jail collects what it forked and ends by itself. Otherwise killing it is enough before
    /// the agent runs: what it forked waits for its word and ends without it.
    fn undo(&mut self, error: LaunchError) -> LaunchError {
        let deadline = Instant::now() + CLEANUP;
        let mut gone = true;
        if let Some(Launched { pid, start_time }) = self.started
            && let Ok(Some(agent)) = process::open(pid, start_time)
        {
            let _ = pidfd_send_signal(&agent, Signal::KILL);
            gone = matches!(wait_readable(agent.as_fd(), deadline), Ok(true));
        }
        let by_itself = matches!(error, LaunchError::Step(_)) && self.report_ends(deadline);
        if !by_itself {
            let _ = self.jail.kill();
        }
        let _ = self.jail.wait();
        // An agent that ran has ended or not, whoever else may hold its end of the report.
        gone &= self.started.is_some() || self.report_ends(deadline);
        if gone { error } else { LaunchError::StillRunning(Box::new(error)) }
    }

    /// Waits until no process of the launch holds the report any more.
    fn report_ends(&mut self, deadline: Instant) -> bool {
        while !self.report.ended && Instant::now() < deadline {
            // Whatever else is said no longer counts.
            let _ = self.report.next(deadline);
            self.report.buffer.clear();
        }
        self.report.ended
    }
}

/// Lines of bounded length out of a pipe.
struct Lines {
    pipe: OwnedFd,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    fn new(pipe: OwnedFd) -> Self {
        Self { pipe, buffer: Vec::new(), ended: false }
    }

    /// The next line without its newline; `None` at the end.
    fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, LaunchError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(unexpected(&self.buffer));
            }
            if !wait_readable(self.pipe.as_fd(), deadline).map_err(LaunchError::Channel)? {
                return Err(LaunchError::Deadline(Duration::ZERO));
            }
            let mut chunk = [0; MAX_LINE_BYTES];
            match rustix::io::read(&self.pipe, &mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return if self.buffer.is_empty() { Ok(None) } else { Err(unexpected(&self.buffer)) };
                }
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(channel(error)),
            }
        }
    }
}

/// Waits until `descriptor` can be read or its other side is gone; `false` if the deadline came first.
pub(crate) fn wait_readable(descriptor: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file without a name that holds the order, at its beginning.
fn order_file(order: &[u8]) -> Result<OwnedFd, LaunchError> {
    let mut file = File::from(memfd_create("order", MemfdFlags::CLOEXEC).map_err(channel)?);
    file.write_all(order).map_err(LaunchError::Channel)?;
    seek(&file, SeekFrom::Start(0)).map_err(channel)?;
    Ok(file.into())
}

/// The agent may say more behind the word, such as its port.
fn is_ready(line: &[u8]) -> bool {
    line.strip_prefix(READY.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b' ')
}

fn channel(error: rustix::io::Errno) -> LaunchError {
    LaunchError::Channel(error.into())
}

fn unexpected(line: &[u8]) -> LaunchError {
    LaunchError::Report(String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned())
}
