//! `forkpoint checkpoint`: makes, lists, compares, restores, moves, verifies and removes checkpoints.

mod create;
mod diff;
mod export;
mod import;
mod verify;

use super::{
    Context, Failure,
    arguments::{self, ObjectId},
};
use crate::{
    client::ClientError,
    output::{Cell, Output, clean, text},
};
use forkpoint_domain::ids::{CheckpointId, SandboxId};
use serde_json::{Value, json};
use std::io;

/// What to do with checkpoints.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Capture a sandbox and print the checkpoint's id
    Create(create::Args),
    /// List checkpoints, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this sandbox
        #[arg(long, value_name = "ID")]
        sandbox: Option<SandboxId>,
        /// Only those with this text in their name
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
    },
    /// Show a checkpoint
    Get {
        /// Which
        id: CheckpointId,
    },
    /// Put a sandbox back to a checkpoint
    Restore(RestoreArgs),
    /// Make a second checkpoint of the same content
    Clone {
        /// Which
        id: CheckpointId,
        /// The new one's name
        name: String,
    },
    /// Show what differs between two checkpoints
    #[command(visible_alias = "compare")]
    Diff {
        /// The earlier one
        from: CheckpointId,
        /// The later one
        to: CheckpointId,
        /// Show text files by line, as a unified diff
        #[arg(long, short = 'c')]
        content: bool,
    },
    /// Change how long a checkpoint is kept
    Keep(KeepArgs),
    /// Remove the layer of a verified checkpoint from the server's machine; it comes back when it is needed
    Evict {
        /// Which
        id: CheckpointId,
    },
    /// Store a checkpoint again whose durability is failed
    Retry {
        /// Which
        id: CheckpointId,
        /// Answer only when every byte is in the vault and was read back
        #[arg(long)]
        wait_verified: bool,
    },
    /// Write a checkpoint as an OCI image layout
    Export(export::Args),
    /// Make a checkpoint of what export wrote, here or on another server
    Import(import::Args),
    /// Prove that a checkpoint is what its checksum says, or that a file is in it
    Verify(verify::Args),
    /// Remove checkpoints; sandboxes made from them stay
    #[command(visible_alias = "delete")]
    Rm {
        /// Which
        #[arg(required = true, value_name = "ID")]
        ids: Vec<CheckpointId>,
    },
}

/// How long to keep which.
#[derive(Debug, clap::Args)]
pub(crate) struct KeepArgs {
    /// Which
    id: CheckpointId,
    /// Keep it this long from now, like 30d; 0: for ever
    #[arg(long = "for", value_name = "TIME", value_parser = arguments::seconds)]
    retention: Option<u64>,
    /// Let retention leave it alone
    #[arg(long, conflicts_with = "unpin")]
    pin: bool,
    /// Let retention remove it again when its time is over
    #[arg(long)]
    unpin: bool,
}

/// What to restore, where to, and what of it.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The checkpoint, and the sandbox to put it into unless that is the one it was taken from
    #[arg(required = true, num_args = 1..=2, value_name = "CHECKPOINT|SANDBOX")]
    ids: Vec<ObjectId>,
    /// The sandbox to put it into
    #[arg(long, value_name = "ID")]
    sandbox: Option<SandboxId>,
    /// Leave the files as they are
    #[arg(long)]
    no_files: bool,
    /// Leave the environment as it is
    #[arg(long)]
    no_env: bool,
    /// Only put back what is missing; leave files that exist
    #[arg(long)]
    keep_existing: bool,
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let command = match command {
        // Need no server, or say themselves what they need.
        Command::Export(args) => return export::run(args, context).await,
        Command::Import(args) => return import::run(args, context).await,
        Command::Verify(args) => return verify::run(args, context).await,
        command => command,
    };
    let client = context.client()?;
    let output = context.output;
    match command {
        Command::Create(args) => return create::run(args, context).await,
        Command::Ls { sandbox, name } => {
            let sandbox = sandbox.map(|id| id.to_string());
            let filters = [("sandbox_id", sandbox.as_deref()), ("name", name.as_deref())];
            let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let answer = client.get("/checkpoints", &query).await?;
            output.value_or(&answer, || list(output, &answer))?;
        }
        Command::Get { id } => {
            let answer = client.get(&format!("/checkpoints/{id}"), &[]).await?;
            output.value_or(&answer, || super::sandbox::show_fields(output, &answer))?;
        }
        Command::Restore(args) => return restore(args, context).await,
        Command::Clone { id, name } => {
            let answer = client.create(&format!("/checkpoints/{id}/clone"), &json!({"name": name})).await?;
            output.value_or(&answer, || output.line(&clean(&text(&answer, "id"))))?;
        }
        Command::Keep(KeepArgs { id, retention, pin, unpin }) => {
            if retention.is_none() && !pin && !unpin {
                return Err(Failure::Usage("say how: --for TIME, --pin or --unpin".to_owned()));
            }
            let mut body = json!({});
            arguments::set(&mut body, "retention_seconds", retention);
            arguments::set(&mut body, "pinned", (pin || unpin).then_some(pin));
            let answer = client.patch(&format!("/checkpoints/{id}"), &body).await?;
            let until = text(&answer, "expires_at");
            let until = if until.is_empty() { "for ever".to_owned() } else { until };
            output.value_or(&answer, || output.line(&clean(&until)))?;
        }
        Command::Evict { id } => {
            let answer = client.post(&format!("/checkpoints/{id}/evict"), &json!({})).await?;
            output.value_or(&answer, || output.line(&id.to_string()))?;
        }
        Command::Retry { id, wait_verified } => {
            let mut body = json!({});
            arguments::set(&mut body, "wait", wait_verified.then_some("verified"));
            let answer = client.post(&format!("/checkpoints/{id}/retry"), &body).await?;
            output.value_or(&answer, || output.line(&clean(&text(&answer, "durability"))))?;
        }
        Command::Diff { from, to, content } => {
            let body = json!({"checkpoint_id_1": from.to_string(), "checkpoint_id_2": to.to_string()});
            let path = if content { "/checkpoints/compare?content=true" } else { "/checkpoints/compare" };
            let answer = client.post(path, &body).await?;
            output.value_or(&answer, || diff::lines(&answer).iter().try_for_each(|line| output.line(line)))?;
        }
        Command::Rm { ids } => return remove(ids, context).await,
        Command::Export(_) | Command::Import(_) | Command::Verify(_) => {}
    }
    Ok(0)
}

fn list(output: Output, answer: &Value) -> io::Result<()> {
    let checkpoints = answer.get("checkpoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = checkpoints
        .iter()
        .map(|checkpoint| {
            vec![
                Cell::text(checkpoint, "id"),
                Cell::text(checkpoint, "name"),
                Cell::text(checkpoint, "sandbox_id"),
                Cell::text(checkpoint, "status"),
                Cell::text(checkpoint, "durability"),
                Cell::bytes(checkpoint, "size_bytes"),
                Cell::text(checkpoint, "file_count"),
                Cell::time(checkpoint, "created_at"),
            ]
        })
        .collect();
    output.table(&["ID", "NAME", "SANDBOX", "STATUS", "DURABILITY", "SIZE", "FILES", "CREATED"], &rows)
}

async fn restore(args: RestoreArgs, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let mut checkpoint = None;
    let mut sandbox = args.sandbox;
    for id in args.ids {
        let twice = match id {
            ObjectId::Checkpoint(id) => checkpoint.replace(id).is_some(),
            ObjectId::Sandbox(id) => sandbox.replace(id).is_some(),
        };
        if twice {
            return Err(Failure::Usage("give one checkpoint, and at most one sandbox".to_owned()));
        }
    }
    let checkpoint = checkpoint.ok_or_else(|| Failure::Usage("give the checkpoint (cp-…) to restore".to_owned()))?;
    let sandbox = match sandbox {
        Some(id) => id.to_string(),
        None => source_of(&client.get(&format!("/checkpoints/{checkpoint}"), &[]).await?)?.to_string(),
    };
    let body = json!({
        "checkpoint_id": checkpoint.to_string(),
        "restore_files": !args.no_files,
        "restore_env": !args.no_env,
        "overwrite": !args.keep_existing,
    });
    let answer = client.post(&format!("/sandbox/{sandbox}/checkpoints/restore"), &body).await?;
    context.output.value_or(&answer, || context.output.line(&sandbox))?;
    Ok(0)
}

/// The sandbox that a checkpoint was taken from.
fn source_of(checkpoint: &Value) -> Result<SandboxId, Failure> {
    text(checkpoint, "sandbox_id")
        .parse()
        .map_err(|_| Failure::Other("the server does not say which sandbox it was taken from: name one".to_owned()))
}

/// Removes several; one that refuses does not keep the others from being tried.
async fn remove(ids: Vec<CheckpointId>, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let single = ids.len() == 1;
    let mut answers = Vec::new();
    let mut refused: Option<(CheckpointId, ClientError)> = None;
    for id in ids {
        match client.delete(&format!("/checkpoints/{id}")).await {
            Ok(answer) => {
                if !context.output.json {
                    context.output.line(&id.to_string())?;
                }
                answers.push(answer);
            }
            Err(error) => refused = refused.or(Some((id, error))),
        }
    }
    if context.output.json && !answers.is_empty() {
        let value = if single { answers.remove(0) } else { Value::Array(answers) };
        context.output.value(&value)?;
    }
    match refused {
        None => Ok(0),
        Some((_, error)) if single => Err(error.into()),
        Some((id, error)) => Err(Failure::Other(format!("{id}: {error}"))),
    }
}
