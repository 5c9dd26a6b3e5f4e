//! One step of a recipe: what is done, and what can be told to be wrong about it from its text alone.

use super::is_plain_relative;
use crate::path::SandboxPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Spanned;

/// How long a command may run unless it says otherwise, in seconds.
const DEFAULT_TIMEOUT_SECONDS: u64 = 600;
/// How long a command may be allowed to run, in seconds.
pub const MAX_TIMEOUT_SECONDS: u64 = 24 * 3600;
/// The most packages of one step.
const MAX_PACKAGES: usize = 500;

/// A step and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its first line, from 1 on.
    pub line: usize,
    /// What is done.
    pub action: Action,
}

/// What a step does. Its serialised form is part of the step's identity: nothing that decides the outcome is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Installs Debian packages by the sandbox's apt, as root: names, `name=version`, or paths of `.deb` files inside.
    Packages {
        /// Which.
        packages: Vec<String>,
    },
    /// Installs Python packages by the sandbox's pip, as root.
    Pip {
        /// As pip takes them.
        packages: Vec<String>,
    },
    /// Installs Node packages for everybody by the sandbox's npm, as root.
    Npm {
        /// As npm takes them.
        packages: Vec<String>,
    },
    /// Runs a command.
    Run {
        /// What.
        command: RunCommand,
        /// As whom.
        user: String,
        /// Where; `None`: where commands start in a sandbox.
        working_dir: Option<String>,
        /// Variables laid over the recipe's.
        env: BTreeMap<String, String>,
        /// After how many seconds it is killed.
        timeout_seconds: u64,
    },
    /// Writes a file whose content stands in the recipe.
    Write {
        /// Absolute path inside.
        path: String,
        /// What.
        content: String,
        /// Permission bits; `None`: 0644.
        mode: Option<u32>,
        /// `user[:group]`.
        owner: String,
    },
    /// Copies a file or directory from beside the recipe.
    Copy {
        /// Relative path beside the recipe.
        from: String,
        /// Absolute path inside that the file or directory then has.
        path: String,
        /// Permission bits of the files; `None`: as they were sent.
        mode: Option<u32>,
        /// `user[:group]`.
        owner: String,
    },
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunCommand {
    /// A string for a shell.
    Shell(String),
    /// Program and arguments.
    Argv(Vec<String>),
}

impl Action {
    /// What the step does, for people; one line.
    pub fn title(&self) -> String {
        let text = match self {
            Self::Packages { packages } => format!("packages {}", packages.join(" ")),
            Self::Pip { packages } => format!("pip {}", packages.join(" ")),
            Self::Npm { packages } => format!("npm {}", packages.join(" ")),
            Self::Run { command: RunCommand::Shell(text), .. } => format!("run {text}"),
            Self::Run { command: RunCommand::Argv(argv), .. } => format!("run {}", argv.join(" ")),
            Self::Write { path, .. } => format!("write {path}"),
            Self::Copy { from, path, .. } => format!("copy {from} to {path}"),
        };
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
        line.trim_end().to_owned()
    }
}

/// A step as it is written; which keys go together is found out afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    packages: Option<Spanned<Vec<String>>>,
    pip: Option<Spanned<Vec<String>>>,
    npm: Option<Spanned<Vec<String>>>,
    run: Option<Spanned<RunCommand>>,
    write: Option<Spanned<String>>,
    copy: Option<Spanned<String>>,
    content: Option<Spanned<String>>,
    to: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    working_dir: Option<Spanned<String>>,
    env: Option<Spanned<BTreeMap<String, String>>>,
    timeout_seconds: Option<Spanned<u64>>,
}

/// A problem and the place of the value that it is about; `None`: the step as a whole.
pub(super) type Problem = (Option<std::ops::Range<usize>>, String);

const KINDS: &str = "packages, pip, npm, run, write, copy";

impl RawStep {
    pub(super) fn check(self) -> Result<Action, Problem> {
        let kinds = [
            ("packages", self.packages.as_ref().map(Spanned::span)),
            ("pip", self.pip.as_ref().map(Spanned::span)),
            ("npm", self.npm.as_ref().map(Spanned::span)),
            ("run", self.run.as_ref().map(Spanned::span)),
            ("write", self.write.as_ref().map(Spanned::span)),
            ("copy", self.copy.as_ref().map(Spanned::span)),
        ];
        let mut given = kinds.into_iter().filter_map(|(name, span)| Some((name, span?)));
        let Some((kind, _)) = given.next() else {
            return Err((None, format!("says nothing to do; a step has exactly one of {KINDS}")));
        };
        if let Some((other, span)) = given.next() {
            let problem = format!("'{kind}' and '{other}' are two steps; a step has exactly one of {KINDS}");
            return Err((Some(span), problem));
        }
        self.refuse_strangers(kind)?;
        let Self { packages, pip, npm, run, write, copy, content, to, mode, owner, .. } = self;
        let owner = owner.map_or_else(|| Ok("root".to_owned()), |owner| who("owner", owner))?;
        let mode = mode.map(read_mode).transpose()?;
        if let Some(names) = packages {
            return Ok(Action::Packages { packages: names_of("packages", names, is_package)? });
        }
        if let Some(names) = pip {
            return Ok(Action::Pip { packages: names_of("pip", names, is_argument)? });
        }
        if let Some(names) = npm {
            return Ok(Action::Npm { packages: names_of("npm", names, is_argument)? });
        }
        if let Some(path) = write {
            let path = inside("write", path)?;
            let content = content.ok_or_else(|| (None, "'write' needs 'content'".to_owned()))?.into_inner();
            return Ok(Action::Write { path, content, mode, owner });
        }
        if let Some(from) = copy {
            let to = to.ok_or_else(|| (None, "'copy' needs 'to', an absolute path inside".to_owned()))?;
            let span = from.span();
            let from = from.into_inner();
            let from = from.trim_start_matches("./").trim_end_matches('/').to_owned();
            if from != "." && !is_plain_relative(&from) {
                let problem = "'copy' must be a relative path below the recipe's directory, without '..'";
                return Err((Some(span), problem.to_owned()));
            }
            return Ok(Action::Copy { from, path: inside("to", to)?, mode, owner });
        }
        // By now it is the only one left.
        let run = run.ok_or_else(|| (None, format!("says nothing to do; a step has exactly one of {KINDS}")))?;
        let command = command("run", run)?;
        let user = self.user.map_or_else(|| Ok("root".to_owned()), |user| who("user", user))?;
        let working_dir = self.working_dir.map(|dir| inside("working_dir", dir)).transpose()?;
        let env = self.env.map_or_else(|| Ok(BTreeMap::new()), variables)?;
        let timeout_seconds = match self.timeout_seconds {
            None => DEFAULT_TIMEOUT_SECONDS,
            Some(time) if (1..=MAX_TIMEOUT_SECONDS).contains(time.get_ref()) => time.into_inner(),
            Some(time) => {
                let problem = format!("'timeout_seconds' must be between 1 and {MAX_TIMEOUT_SECONDS}");
                return Err((Some(time.span()), problem));
            }
        };
        Ok(Action::Run { command, user, working_dir, env, timeout_seconds })
    }

    /// Refuses keys that mean nothing for this kind of step.
    fn refuse_strangers(&self, kind: &str) -> Result<(), Problem> {
        let known: &[&str] = match kind {
            "run" => &["user", "working_dir", "env", "timeout_seconds"],
            "write" => &["content", "mode", "owner"],
            "copy" => &["to", "mode", "owner"],
            _ => &[],
        };
        let given = [
            ("content", self.content.as_ref().map(Spanned::span)),
            ("to", self.to.as_ref().map(Spanned::span)),
            ("mode", self.mode.as_ref().map(Spanned::span)),
            ("owner", self.owner.as_ref().map(Spanned::span)),
            ("user", self.user.as_ref().map(Spanned::span)),
            ("working_dir", self.working_dir.as_ref().map(Spanned::span)),
            ("env", self.env.as_ref().map(Spanned::span)),
            ("timeout_seconds", self.timeout_seconds.as_ref().map(Spanned::span)),
        ];
        for (name, span) in given {
            if let Some(span) = span
                && !known.contains(&name)
            {
                let rest = if known.is_empty() { "no other key".to_owned() } else { known.join(", ") };
                return Err((Some(span), format!("'{name}' means nothing for '{kind}', which takes {rest}")));
            }
        }
        Ok(())
    }
}

pub(super) fn command(field: &str, given: Spanned<RunCommand>) -> Result<RunCommand, Problem> {
    let (empty, nul) = match given.get_ref() {
        RunCommand::Shell(text) => (text.trim().is_empty(), text.contains('\0')),
        RunCommand::Argv(argv) => {
            (argv.first().is_none_or(String::is_empty), argv.iter().any(|part| part.contains('\0')))
        }
    };
    match (empty, nul) {
        (true, _) => Err((Some(given.span()), format!("'{field}' must not be empty"))),
        (_, true) => Err((Some(given.span()), format!("'{field}' must not contain a NUL byte"))),
        _ => Ok(given.into_inner()),
    }
}

pub(super) fn variables(given: Spanned<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, Problem> {
    let span = given.span();
    let parsed = crate::env::Environment::parse("env", given.into_inner());
    parsed.map(|env| env.as_map().clone()).map_err(|invalid| (Some(span), invalid.to_string()))
}

/// `user[:group]`, by name or number.
pub(super) fn who(field: &str, given: Spanned<String>) -> Result<String, Problem> {
    let good = |part: &str| {
        !part.is_empty()
            && part.len() <= 64
            && !part.starts_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match given.get_ref().splitn(2, ':').all(good) {
        true => Ok(given.into_inner()),
        false => Err((Some(given.span()), format!("'{field}' must be user[:group], each a name or a number"))),
    }
}

/// An absolute path inside.
pub(super) fn inside(field: &str, given: Spanned<String>) -> Result<String, Problem> {
    match SandboxPath::parse(field, given.get_ref()) {
        Ok(path) if path.as_str() == "/" && field != "working_dir" && field != "to" => {
            Err((Some(given.span()), format!("'{field}' must be the path of a file")))
        }
        Ok(path) => Ok(path.as_str().to_owned()),
        Err(invalid) => Err((Some(given.span()), format!("'{field}' {}", invalid.problem))),
    }
}

fn read_mode(given: Spanned<String>) -> Result<u32, Problem> {
    let text = given.get_ref();
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o1777 && text.bytes().all(|c| c.is_ascii_digit()) => Ok(mode),
        _ => Err((Some(given.span()), "'mode' must be octal permission bits as text, like \"0755\"".to_owned())),
    }
}

fn names_of(field: &str, given: Spanned<Vec<String>>, is_good: impl Fn(&str) -> bool) -> Result<Vec<String>, Problem> {
    let refuse = |problem: String| Err((Some(given.span()), problem));
    let names = given.get_ref();
    if names.is_empty() || names.len() > MAX_PACKAGES {
        return refuse(format!("'{field}' must name 1 to {MAX_PACKAGES} packages"));
    }
    if let Some(bad) = names.iter().find(|name| !is_good(name)) {
        let bad: String = bad.chars().take(80).collect();
        return refuse(format!("'{field}': {bad:?} is no package name"));
    }
    Ok(given.into_inner())
}

/// `name[:arch][=version]`, or the absolute path of a `.deb` file. Nothing that apt would take for an option, a
/// pattern, or a package to be removed (`name-`).
fn is_package(text: &str) -> bool {
    if text.starts_with('/') {
        return text.ends_with(".deb") && SandboxPath::parse("packages", text).is_ok_and(|path| path.as_str() == text);
    }
    let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name_fits = name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.:".contains(c))
        && !name.ends_with('-')
        && (!name.ends_with('+') || name.ends_with("++"));
    let version_fits = version.is_none_or(|version| {
        version.starts_with(|c: char| c.is_ascii_digit())
            && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
    });
    name_fits && version_fits && text.len() <= 256
}

/// What pip and npm take: no option, nothing that cannot be an argument.
fn is_argument(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && text.len() <= 1024 && !text.chars().any(char::is_control)
}
