//! Doing one step inside its sandbox.

use super::{Build, RecipeFile, events::BuildEvent, events::Teller, keys};
use crate::{
    Error, Platform, Result,
    ports::guest::{Command, ExecEvent, ExecSpec, GuestError},
};
use bytes::Bytes;
use forkpoint_domain::{
    Invalid,
    ids::SandboxId,
    path::SandboxPath,
    recipe::{Action, RunCommand},
};
use futures::{StreamExt as _, stream};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// How long package managers may take, in seconds.
const PACKAGES_SECONDS: u64 = 1800;
/// The most bytes of each of a command's outputs that are told.
const OUTPUT_LIMIT: u64 = 64 << 20;
/// So much of a failed command's last output is told with its failure.
const TAIL_BYTES: usize = 600;

/// Lists are fetched anew and not kept: what lies in a template would be old when it is used. The sandbox has only
/// its own privileges to lose, so apt need not give them up first.
const APT: &str = r#"set -eu
command -v apt-get >/dev/null || { echo "there is no apt-get in this base; packages cannot be installed" >&2; exit 127; }
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get -q -o APT::Sandbox::User=root update
apt-get -q -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 install --yes --no-install-recommends -- "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
"#;

/// Why a step did not come about.
#[derive(Debug)]
pub(super) enum Trouble {
    /// By its own fault.
    Step(String),
    /// Something inside the sandbox refused.
    Guest(GuestError),
    /// By no fault of the step.
    Other(Error),
}

impl From<GuestError> for Trouble {
    fn from(error: GuestError) -> Self {
        Self::Guest(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Guest(error) => Self::Guest(error),
            Error::Invalid(invalid) => Self::Step(invalid.to_string()),
            error => Self::Other(error),
        }
    }
}

impl From<Invalid> for Trouble {
    fn from(invalid: Invalid) -> Self {
        Self::Step(invalid.to_string())
    }
}

/// How long an action may take.
pub(super) trait Patience {
    fn patience(&self) -> Duration;
}

impl Patience for Action {
    fn patience(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Run { timeout_seconds, .. } => *timeout_seconds,
            Self::Packages { .. } | Self::Pip { .. } | Self::Npm { .. } => PACKAGES_SECONDS,
            Self::Write { .. } | Self::Copy { .. } => 600,
        })
    }
}

impl Platform {
    /// Does a step.
    pub(super) async fn act(
        &self,
        build: &Build,
        id: SandboxId,
        number: usize,
        teller: &Teller,
    ) -> Result<(), Trouble> {
        let action = &build.steps[number - 1].action;
        let root = || "root".to_owned();
        let (command, user, working_dir, env) = match action {
            Action::Write { path, content, mode, owner } => {
                let content = Bytes::copy_from_slice(content.as_bytes());
                return self.place(id, path, mode.unwrap_or(0o644), owner, content).await;
            }
            Action::Copy { from, path, mode, owner } => {
                return self.copy_in(build, id, (from, path), *mode, owner).await;
            }
            Action::Packages { packages } => {
                let script = ["/bin/sh", "-c", APT, "apt"];
                (argv(&script, packages), root(), None, BTreeMap::new())
            }
            Action::Pip { packages } => {
                let pip =
                    ["python3", "-m", "pip", "install", "--no-cache-dir", "--no-input", "--progress-bar=off", "--"];
                (argv(&pip, packages), root(), None, BTreeMap::new())
            }
            Action::Npm { packages } => {
                let npm = ["npm", "install", "--global", "--no-audit", "--no-fund", "--"];
                (argv(&npm, packages), root(), None, BTreeMap::new())
            }
            Action::Run { command, user, working_dir, env, .. } => {
                let command = match command {
                    RunCommand::Shell(text) => Command::Shell(text.clone()),
                    RunCommand::Argv(argv) => Command::Argv(argv.clone()),
                };
                (command, user.clone(), working_dir.as_deref(), env.clone())
            }
        };
        let spec = ExecSpec {
            command,
            env,
            working_dir: working_dir.map(|dir| SandboxPath::parse("working_dir", dir)).transpose()?,
            user: Some(user),
            timeout_ms: u64::try_from(action.patience().as_millis()).ok(),
            stdin: None,
            output_limit: OUTPUT_LIMIT,
        };
        self.follow(build, id, spec, number, teller).await
    }

    /// Runs a command to its end and tells what it writes.
    async fn follow(
        &self,
        build: &Build,
        id: SandboxId,
        spec: ExecSpec,
        number: usize,
        teller: &Teller,
    ) -> Result<(), Trouble> {
        let action = &build.steps[number - 1].action;
        let kind = action.title().split(' ').next().unwrap_or_default().to_owned();
        let (mut out, mut err) = (Tail::default(), Tail::default());
        let mut events = self.exec(&build.caller, id, spec).await?;
        while let Some(event) = events.next().await {
            let (is_error, data) = match event {
                ExecEvent::Stdout(data) => (false, data),
                ExecEvent::Stderr(data) => (true, data),
                ExecEvent::Lost(why) => return Err(GuestError::Lost(why).into()),
                ExecEvent::Exit(exit) if exit.timed_out => {
                    let seconds = action.patience().as_secs();
                    return Err(Trouble::Step(format!("{kind}: was killed after {seconds} seconds")));
                }
                ExecEvent::Exit(exit) if exit.code == 0 => return Ok(()),
                ExecEvent::Exit(exit) => {
                    let said = if err.is_empty() { out.text() } else { err.text() };
                    let said = if said.is_empty() { said } else { format!(": {said}") };
                    return Err(Trouble::Step(format!("{kind}: ended with exit code {}{said}", exit.code)));
                }
            };
            if is_error { &mut err } else { &mut out }.push(&data);
            teller.tell(BuildEvent::Output { number, is_error, data }).await;
        }
        Err(GuestError::Lost("the command's end is not known".into()).into())
    }

    async fn place(&self, id: SandboxId, path: &str, mode: u32, owner: &str, content: Bytes) -> Result<(), Trouble> {
        let path = SandboxPath::parse("path", path)?;
        let guest = self.guest(id)?;
        let content = stream::iter([Ok(content)]).boxed();
        guest.write_as(&path, Some(mode), Some(owner), content).await?;
        Ok(())
    }

    async fn copy_in(
        &self,
        build: &Build,
        id: SandboxId,
        (from, to): (&str, &str),
        mode: Option<u32>,
        owner: &str,
    ) -> Result<(), Trouble> {
        let guest = self.guest(id)?;
        for (rest, file) in keys::below(&build.files, from) {
            let path = match rest {
                "" => to.to_owned(),
                rest => format!("{}/{rest}", to.trim_end_matches('/')),
            };
            match file {
                RecipeFile::Directory => {
                    let path = SandboxPath::parse("to", &path)?;
                    guest.make_directory_as(&path, true, Some(owner)).await?;
                }
                RecipeFile::File { content, mode: sent } => {
                    self.place(id, &path, mode.unwrap_or(*sent), owner, content.clone()).await?;
                }
            }
        }
        Ok(())
    }

    /// Runs as the template's user, and starts its services.
    pub(super) async fn try_in(&self, build: &Build, id: SandboxId) -> Result<()> {
        if let Some(user) = &build.user {
            let spec = ExecSpec {
                command: Command::Shell("exit 0".to_owned()),
                env: BTreeMap::new(),
                working_dir: Some(SandboxPath::parse("working_dir", "/")?),
                user: Some(user.clone()),
                timeout_ms: Some(10_000),
                stdin: None,
                output_limit: 1024,
            };
            match self.exec(&build.caller, id, spec).await {
                Err(Error::Invalid(_)) => {
                    return Err(Invalid::new("user", format!("there is no user '{user}' after the last step")).into());
                }
                other => drop(other?),
            }
        }
        let env = build.base_env.clone().overlaid(&build.environment);
        let services = build.services.iter().map(|service| {
            let mut service = service.clone();
            service.user = service.user.or_else(|| build.user.clone());
            service
        });
        for service in services {
            self.start_service(id, &service, &env).await?;
        }
        Ok(())
    }
}

fn argv(before: &[&str], after: &[String]) -> Command {
    Command::Argv(before.iter().map(|part| (*part).to_owned()).chain(after.iter().cloned()).collect())
}

/// The end of what a command wrote.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, data: &[u8]) {
        self.0.extend(&data[data.len().saturating_sub(TAIL_BYTES)..]);
        let over = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..over);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(u8::is_ascii_whitespace)
    }

    /// Its last lines in one.
    fn text(&self) -> String {
        let (a, b) = self.0.as_slices();
        let text = String::from_utf8_lossy(&[a, b].concat()).into_owned();
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_however_much_came_before() {
        let mut tail = Tail::default();
        for number in 0..1000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"\x1b[31mE: no\n\n");
        assert_eq!(tail.text(), "line 998; line 999; [31mE: no");
        assert!(Tail::default().is_empty());
        let mut long = Tail::default();
        long.push(&[b'x'; 5000]);
        assert_eq!(long.text().len(), TAIL_BYTES);
    }
}
