//! Terminals and background commands: they live in the sandbox, not in a request, and anybody who may
//! change the sandbox can attach to them, again and again.

use crate::{
    Caller, Error, Platform, Result,
    ports::{
        guest::{Command, ExecExit, Guest, GuestError},
        terminal::{Attached, Terminal, TerminalEvent, TerminalSize, TerminalSpec},
    },
};
use forkpoint_domain::{
    Invalid,
    env::Environment,
    ids::{SandboxId, TerminalId},
    organization::KeyScope,
    path::SandboxPath,
};
use futures::StreamExt;
use std::{collections::BTreeMap, sync::Arc};

/// Output kept of a terminal when nothing else is asked for, in bytes.
pub const DEFAULT_SCROLLBACK: u32 = 256 * 1024;
/// The most output kept of a terminal, in bytes.
pub const MAX_SCROLLBACK: u32 = 1024 * 1024;
/// The largest width and height, in characters.
pub const MAX_SIDE: u16 = 1000;

/// A terminal or background command that is asked for.
#[derive(Clone)]
pub struct NewTerminal {
    /// What runs in it; `None`: the user's own shell.
    pub command: Option<Command>,
    /// Environment laid over the sandbox's.
    pub env: BTreeMap<String, String>,
    /// Where it starts; `None`: `/workspace`.
    pub working_dir: Option<SandboxPath>,
    /// User name or `uid[:gid]`; `None`: the sandbox user.
    pub user: Option<String>,
    /// After how many milliseconds it is killed; `None`: never.
    pub timeout_ms: Option<u64>,
    /// The terminal's size; `None`: a background command without a terminal.
    pub size: Option<TerminalSize>,
    /// Bytes of output kept.
    pub scrollback: u32,
    /// Kill it when nobody was attached for so many milliseconds; `None`: never.
    pub linger_ms: Option<u64>,
}

impl std::fmt::Debug for NewTerminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The command line and environment may hold secrets.
        f.debug_struct("NewTerminal").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What runs when nothing is named. `exec`, so that the shell itself is the session's leader.
const SHELL: &str = "exec \"${SHELL:-/bin/sh}\"";

impl Platform {
    /// Starts a terminal or background command.
    pub async fn open_terminal(&self, caller: &Caller, id: SandboxId, new: NewTerminal) -> Result<Terminal> {
        caller.require(KeyScope::Write)?;
        check(&new)?;
        let live = self.live(caller, id).await?;
        let over = Environment::parse("env", new.env)?;
        let spec = TerminalSpec {
            id: TerminalId::from_uuid(crate::platform::new_uuid()),
            command: new.command.unwrap_or_else(|| Command::Shell(SHELL.to_owned())),
            env: live.env.clone().overlaid(&over).as_map().clone(),
            working_dir: new.working_dir,
            user: new.user,
            timeout_ms: new.timeout_ms,
            size: new.size,
            scrollback: new.scrollback,
            linger_ms: new.linger_ms,
        };
        self.guest(id)?.open_terminal(spec).await.map_err(|error| match error {
            GuestError::NoSuchCommand { message, .. } => Invalid::new("command", message).into(),
            GuestError::NoSuchUser(message) => Invalid::new("user", message).into(),
            GuestError::NotFound(message) => Invalid::new("working_dir", message).into(),
            error => Error::from(error),
        })
    }

    /// All terminals of a sandbox, those that have ended lately too; oldest first.
    pub async fn terminals(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Terminal>> {
        Ok(self.terminal_guest(caller, id, KeyScope::Read).await?.terminals().await?)
    }

    /// One terminal.
    pub async fn terminal(&self, caller: &Caller, id: SandboxId, terminal: TerminalId) -> Result<Terminal> {
        let all = self.terminals(caller, id).await?;
        all.into_iter().find(|one| one.id == terminal).ok_or_else(|| Error::not_found("terminal", terminal))
    }

    /// Looks on at a terminal and acts on it, from a position in its output on; `None`: from the oldest that is kept.
    pub async fn attach_terminal(
        &self,
        caller: &Caller,
        id: SandboxId,
        terminal: TerminalId,
        from: Option<u64>,
    ) -> Result<Attached> {
        let guest = self.terminal_guest(caller, id, KeyScope::Write).await?;
        guest.attach_terminal(terminal, from).await.map_err(|error| missing(error, terminal))
    }

    /// Waits until a terminal's command has ended.
    pub async fn wait_for_terminal(&self, caller: &Caller, id: SandboxId, terminal: TerminalId) -> Result<ExecExit> {
        let mut attached = self.attach_terminal(caller, id, terminal, Some(u64::MAX)).await?;
        while let Some(event) = attached.events.next().await {
            match event {
                TerminalEvent::Exit(exit) => return Ok(exit),
                TerminalEvent::Lost(why) => return Err(GuestError::Lost(why).into()),
                TerminalEvent::Output(_) | TerminalEvent::Skipped(_) => {}
            }
        }
        Err(GuestError::Lost("it ended the connection before the command's end was known".into()).into())
    }

    /// Signals (1 to 31) what has the terminal, or the command's process group.
    pub async fn signal_terminal(
        &self,
        caller: &Caller,
        id: SandboxId,
        terminal: TerminalId,
        signal: i32,
    ) -> Result<()> {
        if !(1..=31).contains(&signal) {
            return Err(Invalid::new("signal", "must be a signal's number between 1 and 31, e.g. 2 for SIGINT").into());
        }
        let attached = self.attach_terminal(caller, id, terminal, Some(u64::MAX)).await?;
        if attached.terminal.ended.is_some() {
            return Err(Error::conflict("terminal_ended", format!("the command of {terminal} has ended already")));
        }
        Ok(attached.input.signal(signal).await?)
    }

    /// Kills a terminal's processes, if any are left, and forgets it.
    pub async fn close_terminal(&self, caller: &Caller, id: SandboxId, terminal: TerminalId) -> Result<()> {
        let guest = self.terminal_guest(caller, id, KeyScope::Write).await?;
        guest.close_terminal(terminal).await.map_err(|error| missing(error, terminal))
    }

    async fn terminal_guest(&self, caller: &Caller, id: SandboxId, scope: KeyScope) -> Result<Arc<dyn Guest>> {
        caller.require(scope)?;
        self.live(caller, id).await?;
        self.guest(id)
    }
}

fn missing(error: GuestError, terminal: TerminalId) -> Error {
    match error {
        GuestError::NotFound(_) => Error::not_found("terminal", terminal),
        error => error.into(),
    }
}

fn check(new: &NewTerminal) -> Result<()> {
    check_size(new.size)?;
    if new.scrollback > MAX_SCROLLBACK {
        return Err(Invalid::new("scrollback", format!("must be at most {MAX_SCROLLBACK} bytes")).into());
    }
    if new.size.is_none() && new.command.is_none() {
        return Err(Invalid::new("command", "is required without a terminal").into());
    }
    Ok(())
}

/// Refuses sizes that no program expects.
pub fn check_size(size: Option<TerminalSize>) -> Result<()> {
    for (name, side) in size.iter().flat_map(|size| [("cols", size.cols), ("rows", size.rows)]) {
        if !(1..=MAX_SIDE).contains(&side) {
            return Err(Invalid::new(name, format!("must be between 1 and {MAX_SIDE}")).into());
        }
    }
    Ok(())
}
