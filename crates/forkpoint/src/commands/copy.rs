//! `forkpoint sandbox cp`: copies files and whole directories into or out of a sandbox.

mod download;
mod host_tree;
mod place;
mod plan;
mod progress;
mod upload;

use super::{Context, Failure, arguments};
use place::Place;
use serde_json::json;

/// How many files move at once.
const PARALLEL: usize = 8;

/// From where to where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to copy: a path of this machine, `ID:/path` in a sandbox, or `-` for standard input.
    /// A directory is copied whole; with `/.` at its end, only what is in it
    #[arg(value_name = "SOURCE")]
    source: Place,
    /// Where to: a path of this machine, `ID:/path` in a sandbox, or `-` for standard output.
    /// If it is a directory, the copy is put into it
    #[arg(value_name = "DESTINATION")]
    destination: Place,
    /// Permission bits of the copy in octal, for standard input and single files
    #[arg(long, value_parser = arguments::octal_mode, value_name = "MODE")]
    mode: Option<u32>,
}

/// What was copied, and what was not.
#[derive(Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
    /// One line for each thing that was passed over, with the reason.
    passed_over: Vec<String>,
}

/// Copies.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let copied = match (args.source, args.destination) {
        (Place::Stream, Place::Sandbox { id, path }) => upload::stream(&client, &id, &path, args.mode).await?,
        (Place::Host(source), Place::Sandbox { id, path }) => {
            upload::tree(&client, &source, &id, &path, args.mode).await?
        }
        (Place::Sandbox { id, path }, Place::Stream) => download::stream(&client, &id, &path).await?,
        (Place::Sandbox { id, path }, Place::Host(destination)) => {
            download::tree(&client, &id, &path, &destination, args.mode).await?
        }
        (Place::Sandbox { .. }, Place::Sandbox { .. }) => {
            return Err(Failure::Usage("one side must be on this machine; copy by way of it".to_owned()));
        }
        _ => return Err(Failure::Usage("one side must be in a sandbox, like sb-<uuid>:/workspace".to_owned())),
    };
    let failed = !copied.passed_over.is_empty();
    if context.output.json {
        let value = json!({"files": copied.files, "bytes": copied.bytes, "passed_over": copied.passed_over});
        context.output.value(&value)?;
    }
    if failed {
        const SHOWN: usize = 20;
        let mut lines = copied.passed_over;
        let more = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Err(Failure::Other(format!("not copied: {}{more}", lines.join("; "))));
    }
    Ok(0)
}
