//! `forkpoint sandbox`: makes, shows, uses and removes sandboxes.

mod create;
mod exec;
mod show;
mod watch;

pub(crate) use create::Shape;
pub(crate) use show::{fields as show_fields, name};

use super::{Context, Failure, arguments, copy};
use crate::output::Cell;
use forkpoint_domain::ids::SandboxId;
use serde_json::{Value, json};

/// What to do with sandboxes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make sandboxes and print their ids
    Create(create::Args),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls,
    /// Show a sandbox
    Get {
        /// Which
        id: SandboxId,
    },
    /// Show in which state a sandbox is and how long it may live
    Status {
        /// Which
        id: SandboxId,
    },
    /// Start stopped sandboxes again, with the files they had
    Start {
        /// Which
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SandboxId>,
    },
    /// End everything that runs in sandboxes; their files stay
    Stop {
        /// Which
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SandboxId>,
    },
    /// Let a sandbox live longer
    Extend {
        /// Which
        id: SandboxId,
        /// By how much: seconds, or like 10m, 2h
        #[arg(value_parser = arguments::seconds, value_name = "TIME")]
        by: u64,
    },
    /// Remove sandboxes and their files; their checkpoints stay
    #[command(visible_alias = "delete")]
    Rm {
        /// Which
        #[arg(required = true, value_name = "ID")]
        ids: Vec<SandboxId>,
    },
    /// Run a command in a sandbox; ends with the command's exit code
    Exec(exec::Args),
    /// Copy files and directories into or out of a sandbox
    Cp(copy::Args),
    /// Print what happens to files as it happens
    Watch(watch::Args),
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let output = context.output;
    match command {
        Command::Create(args) => return create::run(args, context).await,
        Command::Exec(args) => return exec::run(args, context).await,
        Command::Watch(args) => return watch::run(args, context).await,
        Command::Cp(args) => return Box::pin(copy::run(args, context)).await,
        Command::Ls => {
            let answer = client.get("/sandboxes", &[]).await?;
            output.value_or(&answer, || show::list(output, &answer))?;
        }
        Command::Get { id } => {
            let answer = client.get(&format!("/sandbox/{id}"), &[]).await?;
            output.value_or(&answer, || show::fields(output, &answer))?;
        }
        Command::Status { id } => {
            let answer = client.get(&format!("/sandbox/{id}/status"), &[]).await?;
            output.value_or(&answer, || show::fields(output, &answer))?;
        }
        Command::Extend { id, by } => {
            let answer = client.post(&format!("/sandbox/{id}/extend"), &json!({"additional_seconds": by})).await?;
            output.value_or(&answer, || {
                let rows = [vec![Cell::text(&answer, "sandbox_id"), Cell::time(&answer, "expires_at")]];
                output.table(&["ID", "EXPIRES"], &rows)
            })?;
        }
        Command::Start { ids } => return each(context, ids, Change::Start).await,
        Command::Stop { ids } => return each(context, ids, Change::Stop).await,
        Command::Rm { ids } => return each(context, ids, Change::Remove).await,
    }
    Ok(0)
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Start,
    Stop,
    Remove,
}

/// Changes several sandboxes. One that refuses does not keep the others from being tried; the first
/// refusal is the command's end.
async fn each(context: &Context, ids: Vec<SandboxId>, change: Change) -> Result<u8, Failure> {
    let client = context.client()?;
    let single = ids.len() == 1;
    let mut answers = Vec::new();
    let mut refused: Vec<(SandboxId, crate::client::ClientError)> = Vec::new();
    for id in ids {
        let answer = match change {
            Change::Start => client.post(&format!("/sandbox/{id}/start"), &json!({})).await,
            Change::Stop => client.post(&format!("/sandbox/{id}/stop"), &json!({})).await,
            Change::Remove => client.delete(&format!("/sandbox/{id}")).await,
        };
        match answer {
            Ok(answer) => {
                if !context.output.json {
                    context.output.line(&id.to_string())?;
                }
                answers.push(answer);
            }
            Err(error) => refused.push((id, error)),
        }
    }
    if context.output.json && !answers.is_empty() {
        let value = if single { answers.remove(0) } else { Value::Array(answers) };
        context.output.value(&value)?;
    }
    match refused.len() {
        0 => Ok(0),
        _ if single => Err(refused.remove(0).1.into()),
        count => {
            let (id, error) = refused.remove(0);
            let more = if count > 1 { format!("; and {} more", count - 1) } else { String::new() };
            Err(Failure::Other(format!("{id}: {error}{more}")))
        }
    }
}
