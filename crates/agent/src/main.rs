//! The agent: process 1 of every sandbox. It reaps, runs commands and works on files for the host.
//!
//! It is one static program with one thread (and a few more while file work goes on), since it
//! stands in the sandbox's own process and memory limits. It trusts nobody who has not shown the
//! token, and expects everything around it, from `/etc/passwd` to `/proc`, to be made by an enemy;
//! the worst that such an enemy can reach is a wrong answer about its own sandbox.

mod agent;
mod blocking;
mod connection;
mod environment;
mod exec;
mod failure;
mod files;
mod identity;
mod processes;
mod reaper;
mod server;
mod startup;
mod sys;
mod users;

use std::process::ExitCode;

use crate::agent::Agent;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sys::print_error(&format!("forkpoint-agent: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), startup::StartError> {
    let limits = startup::harden()?;
    let config = startup::read_config()?;
    let listener = startup::listen(config.listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|source| startup::StartError::step("start the event loop", source))?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let agent = Agent::new(&config, limits)?;
        agent.reaper.start()?;
        let listener = startup::announce(listener)?;
        server::serve(agent, listener, config.refuse_local).await;
        Ok(())
    })
}
