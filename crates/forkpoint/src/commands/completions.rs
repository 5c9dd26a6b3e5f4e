//! `forkpoint completions`: prints what a shell needs to complete this command line.

use super::Failure;
use std::io::Write as _;

/// Which shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to print them for
    shell: clap_complete::Shell,
}

/// Prints the completions.
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command_line(), "forkpoint", &mut text);
    std::io::stdout().lock().write_all(&text)?;
    Ok(0)
}
