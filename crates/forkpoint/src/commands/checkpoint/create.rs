//! `forkpoint checkpoint create`.

use crate::{
    commands::{Context, Failure, arguments},
    output::{clean, human_bytes, text},
};
use forkpoint_domain::ids::SandboxId;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};

/// What to capture.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The sandbox
    sandbox: SandboxId,
    /// What to call the checkpoint
    #[arg(value_name = "NAME", required_unless_present = "name_flag", conflicts_with = "name_flag")]
    name: Option<String>,
    /// What to call the checkpoint
    #[arg(long = "name", id = "name_flag", value_name = "NAME")]
    name_flag: Option<String>,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Capture only what is below this path; can be repeated
    #[arg(long = "include", value_name = "PATH")]
    include_paths: Vec<String>,
    /// Leave out this path, or what this pattern matches; can be repeated
    #[arg(long = "exclude", value_name = "PATH|PATTERN")]
    exclude_paths: Vec<String>,
    /// Leave out the environment
    #[arg(long)]
    no_env: bool,
    /// A label; the value is JSON where it reads as such, else text; can be repeated
    #[arg(long, value_parser = arguments::pair, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
    /// Keep it this long, like 30d; 0: for ever
    #[arg(long, value_name = "TIME", value_parser = arguments::seconds)]
    keep_for: Option<u64>,
    /// Let retention leave it alone
    #[arg(long)]
    pin: bool,
    /// Answer only when every byte is in the vault and was read back
    #[arg(long)]
    wait_verified: bool,
}

impl Args {
    fn request(self) -> Value {
        let mut body = json!({"name": self.name.or(self.name_flag), "include_env": !self.no_env});
        arguments::set(&mut body, "description", self.description);
        if !self.include_paths.is_empty() {
            body["include_paths"] = json!(self.include_paths);
        }
        if !self.exclude_paths.is_empty() {
            body["exclude_paths"] = json!(self.exclude_paths);
        }
        if !self.metadata.is_empty() {
            body["metadata"] = arguments::json_object(&self.metadata);
        }
        arguments::set(&mut body, "retention_seconds", self.keep_for);
        arguments::set(&mut body, "pinned", self.pin.then_some(true));
        arguments::set(&mut body, "wait", self.wait_verified.then_some("verified"));
        body
    }
}

/// Captures and prints the id.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let path = format!("/sandbox/{}/checkpoints", args.sandbox);
    let answer = client.create(&path, &args.request()).await?;
    context.output.value_or(&answer, || {
        context.output.line(&clean(&text(&answer, "id")))?;
        if context.output.terminal && std::io::stderr().is_terminal() {
            let size = human_bytes(answer.get("size_bytes").and_then(Value::as_u64).unwrap_or(0));
            let (files, pause) = (clean(&text(&answer, "file_count")), clean(&text(&answer, "pause_ms")));
            writeln!(std::io::stderr().lock(), "{files} files, {size}, the sandbox stood still for {pause} ms")?;
        }
        Ok(())
    })?;
    Ok(0)
}
