//! `forkpoint sandbox watch`: prints what happens to files as it happens.

use crate::{
    commands::{Context, Failure},
    output::{clean, text},
};
use forkpoint_domain::ids::SandboxId;
use serde_json::Value;
use std::io::Write as _;

/// What to watch.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which sandbox
    id: SandboxId,
    /// A file or directory in it
    #[arg(default_value = "/workspace")]
    path: String,
    /// Also what lies deeper
    #[arg(long, short)]
    recursive: bool,
}

/// Watches until interrupted, or the directory or sandbox is gone. A line for each change: what happened, a tab, the
/// path; with --json each event as one line of JSON.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let recursive = if args.recursive { "true" } else { "false" };
    let query = [("path", args.path.as_str()), ("recursive", recursive)];
    let mut events = client.watch_stream(&args.id.to_string(), &query).await?;
    while let Some(event) = events.next().await? {
        let kind = event["type"].as_str().unwrap_or_default();
        if context.output.json && kind != "done" {
            context.output.line(&event.to_string())?;
        }
        match kind {
            "changed" if !context.output.json => {
                context.output.line(&format!("{}\t{}", clean(&text(&event, "kind")), clean(&text(&event, "path"))))?;
            }
            "watching" if event["polled"] == Value::Bool(true) => {
                note("the sandbox's kernel has no room for another watch; looking every second instead")?;
            }
            "overflow" => note("more happened than could be told; look at the files anew")?,
            "gone" => note("the directory is gone")?,
            "error" => return Err(Failure::Other(format!("the watch ended: {}", text(&event, "error")))),
            "done" => return Ok(0),
            _ => {}
        }
    }
    Err(Failure::Other("the connection ended before the watch did".to_owned()))
}

fn note(words: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr().lock(), "{words}")
}
