//! Forkpoint: sandboxes for code that can be checkpointed, forked and restored. One program: the server,
//! its doctor, and the commands of its client.

mod client;
mod commands;
mod config;
mod control;
mod doctor;
mod front;
mod gc;
mod output;
mod profile;
mod serve;
mod vault;
mod wire;

use clap::{Args, Parser, Subcommand};
use std::{future::Future, io::Write as _, process::ExitCode};

/// Returns memory to the system sooner and allocates with less waiting than the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "forkpoint", version, about, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    early: Early,
    #[command(subcommand)]
    command: Command,
}

/// The client's flags, accepted before the command too. The server and the doctor have flags of their own,
/// therefore these are not global.
#[derive(Debug, Args)]
struct Early {
    #[arg(long = "url", id = "early-url", hide = true)]
    url: Option<String>,
    #[arg(long = "key", id = "early-key", hide = true)]
    key: Option<client::ApiKey>,
    #[arg(long = "profile", id = "early-profile", hide = true)]
    profile: Option<String>,
    #[arg(long = "json", id = "early-json", hide = true)]
    json: bool,
}

// Parsed once, moved once: the size of a variant does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Args),
    /// Show what this host can do and what a data directory owns; repair or purge it
    Doctor(doctor::Args),
    /// Remove what may be removed now
    Gc(gc::Args),
    /// Check, measure, clean, repair and recover durable checkpoint data
    Vault(vault::Args),
    #[command(flatten)]
    Client(commands::Command),
}

fn main() -> ExitCode {
    let Cli { early, command } = Cli::parse();
    match command {
        Command::Serve(args) => host(serve::run(args)),
        Command::Doctor(args) => host(doctor::run(args)),
        Command::Gc(args) => host(gc::run(args)),
        Command::Vault(args) => host(vault::run(args)),
        Command::Client(command) => {
            let connection = client::Connection { url: early.url, key: early.key, profile: early.profile };
            commands::main(command, connection, early.json)
        }
    }
}

/// Runs a command of the host on a runtime with as many threads as processors.
fn host(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell the error to when standard error is closed.
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole command line, for the completions.
fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command_line().debug_assert();
    }
}
