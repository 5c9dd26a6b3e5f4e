//! The commands of the client, and how each one ends.

mod arguments;
mod bench;
mod checkpoint;
mod completions;
mod copy;
mod failure;
mod fork;
mod key;
mod log;
mod profile;
mod register;
mod sandbox;
mod shell;
mod template;

use crate::{
    client::{Client, ClientError, Connection},
    output::Output,
    profile::Profiles,
};
use clap::{Args, Subcommand};
use failure::Failure;
use std::{io::Write as _, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// A command that speaks to a server, or that prepares for it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, use and remove sandboxes
    #[command(visible_alias = "sb")]
    Sandbox(Group<sandbox::Command>),
    /// Open a terminal in a sandbox
    Shell(Single<shell::Args>),
    /// Make, compare and restore checkpoints
    #[command(visible_alias = "cp")]
    Checkpoint(Group<checkpoint::Command>),
    /// Look at what sandboxes start from; import, publish and remove it
    #[command(visible_alias = "tp")]
    Template(Group<template::Command>),
    /// Start new sandboxes from a sandbox as it is now, or from a checkpoint
    Fork(Single<fork::Args>),
    /// Draw how sandboxes and checkpoints came from each other
    Log(Single<log::Args>),
    /// Make an organisation and its first API key
    Register(Single<register::Args>),
    /// Make, list and revoke API keys
    Key(Group<key::Command>),
    /// Remember servers and keys by name
    Profile(Group<profile::Command>),
    /// Measure a server
    Bench(bench::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Measure the kernel's floor (the bench starts this by itself)
    #[command(hide = true)]
    BenchFloor(bench::FloorArgs),
}

/// Flags of the client and a command of a group.
#[derive(Debug, Args)]
pub(crate) struct Group<C: Subcommand> {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: C,
}

/// Flags of the client and the arguments of one command.
#[derive(Debug, Args)]
pub(crate) struct Single<A: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    args: A,
}

/// Flags that every client command takes.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    connection: Connection,
    /// Print the API's JSON
    #[arg(long, global = true, help_heading = "Connection")]
    json: bool,
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    connection: Connection,
    output: Output,
}

impl Context {
    /// A client with a key.
    fn client(&self) -> Result<Client, Failure> {
        let client = self.client_without_key()?;
        client.require_key()?;
        Ok(client)
    }

    /// A client that need not have a key.
    fn client_without_key(&self) -> Result<Client, Failure> {
        let target = self.connection.resolve(environment, || match Profiles::path(environment) {
            Some(path) => Profiles::read(&path),
            None => Ok(Profiles::default()),
        })?;
        Ok(Client::new(target)?)
    }
}

/// One variable of the environment; one that is not text counts as missing.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs a command to its end. `early` and `early_json` are the flags given before the command.
pub(crate) fn main(command: Command, early: Connection, early_json: bool) -> ExitCode {
    // The floor is measured by a process with one thread: before any runtime starts.
    let ended = match command {
        Command::BenchFloor(args) => bench::floor_main(&args),
        Command::Completions(args) => completions::run(&args),
        command => run(command, early, early_json),
    };
    let failure = match ended {
        Ok(code) => return code.into(),
        Err(failure) => failure,
    };
    if failure.is_closed_pipe() {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    // Nothing is left to tell the error to when standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "error: {}", crate::output::clean(&failure.to_string()));
    failure.exit_code().into()
}

fn run(command: Command, early: Connection, early_json: bool) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::io("start the runtime"))?;
    let ended = runtime.block_on(async {
        if let Command::Bench(args) = command {
            // Cleans up behind itself, so it handles interruption itself.
            return Box::pin(bench::run(args, early)).await;
        }
        // Listened to before the command begins: it may come at any moment from then on.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::io("listen to signals"))?;
        tokio::select! {
            biased;
            // Dropping the command closes its connections, which ends what it runs.
            _ = interrupt.recv() => Ok(130),
            ended = Box::pin(dispatch(command, early, early_json)) => ended,
        }
    });
    // A read of standard input cannot be interrupted; it must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn dispatch(command: Command, early: Connection, early_json: bool) -> Result<u8, Failure> {
    let context = |common: Common| Context {
        connection: common.connection.or(early),
        output: Output::new(common.json || early_json),
    };
    match command {
        Command::Sandbox(group) => sandbox::run(group.command, &context(group.common)).await,
        Command::Shell(command) => Box::pin(shell::run(command.args, &context(command.common))).await,
        Command::Checkpoint(group) => Box::pin(checkpoint::run(group.command, &context(group.common))).await,
        Command::Template(group) => Box::pin(template::run(group.command, &context(group.common))).await,
        Command::Fork(command) => fork::run(command.args, &context(command.common)).await,
        Command::Log(command) => log::run(command.args, &context(command.common)).await,
        Command::Register(command) => register::run(command.args, &context(command.common)).await,
        Command::Key(group) => key::run(group.command, &context(group.common)).await,
        Command::Profile(group) => profile::run(group.command, &context(group.common)),
        Command::Bench(_) | Command::Completions(_) | Command::BenchFloor(_) => {
            Err(Failure::from(ClientError::Settings("this command runs without a client".to_owned())))
        }
    }
}
