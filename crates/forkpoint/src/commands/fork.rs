//! `forkpoint fork`: new sandboxes from a sandbox as it is now, or from a checkpoint.

use super::{Context, Failure, arguments, arguments::ObjectId, sandbox::Shape};
use crate::output::text;
use serde_json::{Value, json};
use std::io::Write as _;

/// What to fork and what the forks shall be like.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A sandbox, which is captured first, or a checkpoint
    #[arg(value_name = "SANDBOX|CHECKPOINT")]
    source: ObjectId,
    /// How many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Make those forks of a sandbox that can be made when others cannot, instead of none
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    shape: Shape,
}

/// Forks and prints the new ids.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let mut body = args.shape.request();
    arguments::set(&mut body, "count", args.count);
    let answer = match args.source {
        ObjectId::Sandbox(id) => {
            if args.partial {
                body["partial"] = json!(true);
            }
            client.create(&format!("/sandbox/{id}/fork"), &body).await?
        }
        ObjectId::Checkpoint(_) if args.partial => {
            return Err(Failure::Usage("--partial goes with a sandbox, not with a checkpoint".to_owned()));
        }
        ObjectId::Checkpoint(id) => {
            body["checkpoint_id"] = json!(id.to_string());
            client.create("/sandbox/create", &body).await?
        }
    };
    let ids = forked_ids(&answer);
    context.output.value_or(&answer, || {
        let ids = ids.iter().map(|id| crate::output::clean(id)).collect::<Vec<_>>();
        context.output.line(&ids.join("\n"))
    })?;
    let failed = answer.get("failed").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for one in failed {
        let why = crate::output::clean(&text(&one["error"], "message"));
        writeln!(std::io::stderr().lock(), "fork {} was not made: {why}", text(one, "index"))?;
    }
    Ok(u8::from(!failed.is_empty()))
}

/// The new sandboxes of an answer to any way of forking.
fn forked_ids(answer: &Value) -> Vec<String> {
    let list = ["forks", "sandboxes"].into_iter().find_map(|name| answer.get(name).and_then(Value::as_array));
    let each = list.map_or_else(|| vec![answer], |list| list.iter().collect());
    each.into_iter()
        .filter_map(|one| {
            ["forked_id", "sandbox_id", "id"].into_iter().map(|name| text(one, name)).find(|id| !id.is_empty())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_found_in_every_answer() {
        let ids = |value: Value| forked_ids(&value).join(" ");
        assert_eq!(ids(json!({"parent_id":"sb-0","checkpoint_id":"cp-1","forked_id":"sb-1"})), "sb-1");
        assert_eq!(ids(json!({"forked_id":"sb-1","forks":[{"forked_id":"sb-1"},{"forked_id":"sb-2"}]})), "sb-1 sb-2");
        assert_eq!(ids(json!({"id":"sb-3","sandbox_id":"sb-3"})), "sb-3");
        assert_eq!(ids(json!({"sandboxes":[{"id":"sb-4"},{"id":"sb-5"}]})), "sb-4 sb-5");
    }
}
