//! What the project checks of itself: `cargo xtask check | tidy | openapi | torture`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod tidy;

use anyhow::{Context, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const USAGE: &str = "usage: cargo xtask COMMAND

  check     formatting, lints as errors, documentation, house rules (tests run by ./test)
  tidy      only the house rules
  openapi   writes openapi/native.json anew
  torture   [--seed N] [--cycles M] [--first C]: kills, fills and corrupts a server's store, and checks every
            checkpoint; as root";

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let outcome = match command.as_str() {
        "check" => check(),
        "tidy" => tidy(),
        "openapi" => openapi(),
        "torture" => torture(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> anyhow::Result<()> {
    tidy()?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
}

fn tidy() -> anyhow::Result<()> {
    let problems = tidy::problems(&root()?)?;
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("tidy: no problem");
        return Ok(());
    }
    bail!("{} problems", problems.len())
}

fn openapi() -> anyhow::Result<()> {
    cargo(
        &["test", "--package", "forkpoint-server", "--quiet", "--", "the_checked_in_description"],
        &[("UPDATE_OPENAPI", "1")],
    )
}

/// Builds the program, and what tortures it, and starts that with the rest of the command line.
fn torture() -> anyhow::Result<()> {
    cargo(&["build", "--workspace"], &[])?;
    let built = std::env::current_exe().context("find this program")?;
    let built = built.parent().context("find the programs")?;
    let status = Command::new(built.join("forkpoint-torture"))
        .arg("--program")
        .arg(built.join("forkpoint"))
        .args(std::env::args_os().skip(2))
        .status()
        .context("start forkpoint-torture")?;
    if status.success() { Ok(()) } else { bail!("it ended with {status}") }
}

fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).envs(variables.iter().copied()).current_dir(root()?);
    let status = command.status().context("start cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo {} failed", arguments.join(" ")) }
}

fn root() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("find the workspace")
}
