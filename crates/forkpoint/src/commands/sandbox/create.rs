//! `forkpoint sandbox create`.

use super::show;
use crate::{
    commands::{Context, Failure, arguments},
    output::{clean, text},
};
use forkpoint_domain::ids::CheckpointId;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};

/// What a new sandbox shall be like; also for forks.
#[derive(Debug, clap::Args)]
pub(crate) struct Shape {
    /// Processor share, like 1, 0.5 or 500m
    #[arg(long)]
    cpus: Option<String>,
    /// Memory limit, like 512Mi or 1Gi
    #[arg(long)]
    memory: Option<String>,
    /// How long it may live: seconds, or like 10m, 2h
    #[arg(long, value_parser = arguments::seconds, value_name = "TIME")]
    timeout: Option<u64>,
    /// A variable of its environment; can be repeated
    #[arg(long, short, value_parser = arguments::pair, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// What to call it
    #[arg(long)]
    name: Option<String>,
    /// A label; can be repeated
    #[arg(long, value_parser = arguments::pair, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
}

impl Shape {
    /// The fields that were given, as a request.
    pub(crate) fn request(&self) -> Value {
        let mut body = json!({});
        arguments::set(&mut body, "cpus", self.cpus.clone());
        arguments::set(&mut body, "memory", self.memory.clone());
        arguments::set(&mut body, "timeout_seconds", self.timeout);
        if !self.env.is_empty() {
            body["env"] = arguments::text_object(&self.env);
        }
        if !self.metadata.is_empty() {
            body["metadata"] = arguments::text_object(&self.metadata);
        }
        if let Some(name) = &self.name {
            body["metadata"]["name"] = json!(name);
        }
        body
    }
}

/// How to make sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The root file system to start from
    #[arg(long)]
    template: Option<String>,
    /// How many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Start from this checkpoint
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<CheckpointId>,
    #[command(flatten)]
    shape: Shape,
}

/// Makes them and prints the ids.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let mut body = args.shape.request();
    arguments::set(&mut body, "template", args.template);
    arguments::set(&mut body, "count", args.count);
    arguments::set(&mut body, "checkpoint_id", args.from.map(|id| id.to_string()));
    let answer = client.create("/sandbox/create", &body).await?;
    context.output.value_or(&answer, || {
        let several = answer.get("sandboxes").and_then(Value::as_array);
        for sandbox in several.map_or_else(|| vec![&answer], |list| list.iter().collect()) {
            context.output.line(&clean(&show::id(sandbox)))?;
            let startup = text(sandbox, "startup_ms");
            if context.output.terminal && std::io::stderr().is_terminal() && !startup.is_empty() {
                writeln!(std::io::stderr().lock(), "{} in {startup} ms", clean(&text(sandbox, "state")))?;
            }
        }
        Ok(())
    })?;
    Ok(0)
}
