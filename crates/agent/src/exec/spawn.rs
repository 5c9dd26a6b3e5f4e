//! From an exec request to a running process with its pipes.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use forkpoint_protocol::{Command, ErrorKind, Exec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::child::{self, Plan, Stage};
use super::terminal;
use super::watch::watch;
use crate::agent::Agent;
use crate::environment::{self, Environment, c_string};
use crate::failure::{Failure, kind_of, shown};
use crate::users::{Account, Users};

/// The kernel's limit for one argument or variable (32 pages), with its NUL.
const MAX_ARGUMENT: usize = 32 * 4096;
/// From fork to exec. Far more than it takes; a stopped or starved child must not hold a request.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A command that has been exec'd.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) status: oneshot::Receiver<WaitStatus>,
    pub(super) input: Option<AsyncFd<OwnedFd>>,
    pub(super) stdout: AsyncFd<OwnedFd>,
    pub(super) stderr: Option<AsyncFd<OwnedFd>>,
    pub(super) terminal: Option<OwnedFd>,
}

/// Starts the command; returns when its program has taken over the process.
pub(super) async fn spawn(agent: &Agent, request: Exec) -> Result<Started, Failure> {
    let user = request.user.as_deref().unwrap_or(&agent.default_user);
    let account = Users::load().account(user)?;
    let is_default_user = account.uid != 0 && account.name == agent.default_user;
    let environment = Environment::new(request.env, &account, is_default_user, request.pty.is_some())?;
    let shown_command = match &request.command {
        Command::Shell(_) => "/bin/sh".to_owned(),
        Command::Argv(argv) => shown(argv.first().map_or(&b""[..], Vec::as_slice)),
    };
    let shown_directory = request.cwd.as_deref().map_or_else(|| "/".to_owned(), shown);
    let Program { names: programs, arguments } = Program::new(request.command, &environment.path)?;
    if arguments.iter().chain(&environment.variables).any(|text| text.as_bytes_with_nul().len() > MAX_ARGUMENT) {
        let message = format!(
            "one argument or variable can have at most {} bytes; write longer text to a file",
            MAX_ARGUMENT - 1
        );
        return Err(Failure::new(ErrorKind::TooLarge, message));
    }
    let wires = match request.pty {
        Some(size) => Wires::terminal(terminal::open(size, &account)?)?,
        None => Wires::pipes(agent.null.as_fd(), request.stdin, request.merge).map_err(no_pipe)?,
    };
    let (report, report_end) = pipe().map_err(no_pipe)?;
    // All that can fail in the agent comes before the fork, so that no child is left unwatched.
    let input = wires.input.map(|fd| watch(fd, Interest::WRITABLE)).transpose()?;
    let stdout = watch(wires.stdout, Interest::READABLE)?;
    let stderr = wires.stderr.map(|fd| watch(fd, Interest::READABLE)).transpose()?;
    let report = watch(report, Interest::READABLE)?;
    let plan = Plan {
        programs,
        arguments,
        variables: environment.variables,
        directories: environment::directories(request.cwd, &account)?,
        changes_user: !is_unprivileged(&account),
        account,
        stdio: wires.child.each_ref().map(AsRawFd::as_raw_fd),
        has_terminal: request.pty.is_some(),
        report: report_end.as_raw_fd(),
        files: agent.command_files,
    };
    let pid = child::start(plan).map_err(|errno| match errno {
        Errno::AGAIN | Errno::NOMEM => Failure::new(
            ErrorKind::Busy,
            "no process could be started: the sandbox is at its limit of processes or memory",
        ),
        errno => Failure::doing("start a process", errno),
    })?;
    let status = agent.reaper.adopt(pid);
    drop(report_end);
    drop(wires.child);
    let started = Started { pid, status, input, stdout, stderr, terminal: wires.terminal };
    match tokio::time::timeout(START_DEADLINE, outcome(report)).await {
        Ok(None) => Ok(started),
        Ok(Some((stage, errno))) => Err(explain(stage, errno, &shown_command, &shown_directory, user)),
        Err(_) => {
            if agent.reaper.is_running(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            Err(Failure::new(ErrorKind::Busy, format!("{shown_command} did not start in {START_DEADLINE:?}")))
        }
    }
}

/// Whether the agent is this user, and not root: then there is nothing to change, and no right to.
fn is_unprivileged(account: &Account) -> bool {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    !uid.is_root() && uid.as_raw() == account.uid && gid.as_raw() == account.gid
}

/// What to execute.
struct Program {
    /// Files to try in turn, each with what it is called as.
    names: Vec<(CString, CString)>,
    /// Arguments after the name.
    arguments: Vec<CString>,
}

impl Program {
    fn new(command: Command, path: &[u8]) -> Result<Program, Failure> {
        match command {
            Command::Shell(text) => Ok(Program {
                names: vec![(c"/bin/bash".into(), c"bash".into()), (c"/bin/sh".into(), c"sh".into())],
                arguments: vec![c"-c".into(), c_string(text)?],
            }),
            Command::Argv(argv) => Program::found_in(path, argv),
        }
    }

    fn found_in(path: &[u8], argv: Vec<Vec<u8>>) -> Result<Program, Failure> {
        let mut argv = argv.into_iter();
        let name = argv.next().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Failure::invalid("the command is empty: it needs at least a program"))?;
        let arguments = argv.map(c_string).collect::<Result<_, _>>()?;
        let called = c_string(name.clone())?;
        if name.contains(&b'/') {
            return Ok(Program { names: vec![(called.clone(), called)], arguments });
        }
        // An empty part of PATH means the working directory.
        let places = path.split(|byte| *byte == b':').map(|dir| match dir {
            [] => [b"./", &name[..]].concat(),
            dir => [dir, b"/", &name[..]].concat(),
        });
        let names = places.map(|place| Ok((c_string(place)?, called.clone()))).collect::<Result<_, Failure>>()?;
        Ok(Program { names, arguments })
    }
}

/// Both ends of a command's input and output.
struct Wires {
    child: [OwnedFd; 3],
    input: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Wires {
    fn pipes(null: BorrowedFd<'_>, with_input: bool, merge: bool) -> Result<Wires, Errno> {
        let (input_end, input) = match with_input {
            true => pipe().map(|(reader, writer)| (reader, Some(writer)))?,
            false => (rustix::io::fcntl_dupfd_cloexec(null, 3)?, None),
        };
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = match merge {
            true => (None, rustix::io::fcntl_dupfd_cloexec(&stdout_end, 3)?),
            false => pipe().map(|(reader, writer)| (Some(reader), writer))?,
        };
        Ok(Wires { child: [input_end, stdout_end, stderr_end], input, stdout, stderr, terminal: None })
    }

    fn terminal((master, slave): (OwnedFd, OwnedFd)) -> Result<Wires, Failure> {
        let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(no_pipe);
        Ok(Wires {
            child: [copy(&slave)?, copy(&slave)?, slave],
            input: Some(copy(&master)?),
            stdout: copy(&master)?,
            stderr: None,
            terminal: Some(master),
        })
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

fn no_pipe(errno: Errno) -> Failure {
    Failure::doing("open pipes for the command", errno)
}

/// What the child reports before its exec: nothing when that went well.
async fn outcome(report: AsyncFd<OwnedFd>) -> Option<(Stage, Errno)> {
    let mut bytes = [0u8; 8];
    loop {
        let read = report.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut bytes[..])?)).await;
        match read {
            Ok(8) => return child::parse_report(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

fn explain(stage: Stage, errno: Errno, command: &str, directory: &str, user: &str) -> Failure {
    let reason = |what: &str| Failure::doing(what, errno);
    match (stage, errno) {
        (Stage::Program, Errno::NOENT | Errno::NOTDIR) => {
            Failure::new(ErrorKind::NoSuchCommand, format!("{command}: command not found"))
        }
        (Stage::Program, Errno::NOEXEC) => Failure::new(ErrorKind::Invalid, format!("{command}: not a program")),
        (Stage::Program, Errno::TOOBIG) => {
            Failure::new(ErrorKind::TooLarge, format!("{command}: arguments and environment are too long together"))
        }
        (Stage::Program, _) => reason(&format!("run {command}")),
        (Stage::Directory, _) => {
            let Failure { message, .. } = reason(&format!("working directory {directory}"));
            Failure::new(kind_of(errno), message)
        }
        (Stage::User, Errno::AGAIN) => reason("start a process"),
        (Stage::User, _) => {
            let message = format!(
                "user `{}` cannot be used in this sandbox: {}",
                shown(user.as_bytes()),
                std::io::Error::from(errno)
            );
            Failure::new(ErrorKind::NoSuchUser, message)
        }
        (Stage::Setup, _) => reason("prepare the process"),
    }
}
