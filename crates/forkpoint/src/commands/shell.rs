//! `forkpoint shell`: a terminal in a sandbox that outlives the connection to it.

mod attach;
mod detach;
mod screen;

pub(crate) use attach::{Own, interact};
pub(crate) use screen::require as require_screen;

use super::{Context, Failure, arguments};
use crate::output::{Cell, text};
use forkpoint_domain::ids::{SandboxId, TerminalId};
use serde_json::{Value, json};

/// A shell, or another program, on a terminal in a sandbox
///
/// Ctrl-P Ctrl-Q leaves it running; `--list` and `--attach` find it again. When the connection is lost, or the server
/// starts anew, it connects again and goes on where it was. It ends with the program's exit code.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Attach to this terminal instead of starting one
    #[arg(long, value_name = "TERMINAL", conflicts_with_all = ["command", "env", "cwd", "user", "list", "end"])]
    attach: Option<TerminalId>,
    /// List the terminals and background commands of the sandbox
    #[arg(long, conflicts_with_all = ["command", "env", "cwd", "user", "end"])]
    list: bool,
    /// End this terminal and everything that runs in it
    #[arg(long, value_name = "TERMINAL", conflicts_with_all = ["command", "env", "cwd", "user"])]
    end: Option<TerminalId>,
    /// A variable of its environment; can be repeated
    #[arg(long, short, value_parser = arguments::pair, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// The directory to start in
    #[arg(long, visible_alias = "working-dir", value_name = "PATH")]
    cwd: Option<String>,
    /// The user to run it as
    #[arg(long, short)]
    user: Option<String>,
    /// The sandbox
    id: SandboxId,
    /// What to run instead of the user's shell: one argument is a line for a shell, several are a program and its
    /// arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Does it.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let sandbox = args.id.to_string();
    if args.list {
        let answer = client.get(&format!("/sandbox/{sandbox}/terminals"), &[]).await?;
        context.output.value_or(&answer, || list(context, &answer))?;
        return Ok(0);
    }
    if let Some(terminal) = args.end {
        let answer = client.delete(&format!("/sandbox/{sandbox}/terminals/{terminal}")).await?;
        context.output.value_or(&answer, || context.output.line(&terminal.to_string()))?;
        return Ok(0);
    }
    if let Some(terminal) = args.attach {
        return interact(&client, &sandbox, &terminal.to_string(), Own::No).await;
    }
    screen::require()?;
    let mut request = json!({});
    match args.command.as_slice() {
        [] => {}
        [line] => request["command"] = json!(line),
        argv => request["command"] = json!(argv),
    }
    arguments::set(&mut request, "working_dir", args.cwd.clone());
    arguments::set(&mut request, "user", args.user.clone());
    shape(&mut request, &args.env);
    let terminal = client.create_terminal(&sandbox, &request).await?;
    interact(&client, &sandbox, &terminal, Own::Yes).await
}

/// Adds to a request for a terminal what this one's is like.
pub(crate) fn shape(request: &mut Value, env: &[(String, String)]) {
    let (cols, rows) = screen::size();
    request["cols"] = json!(cols);
    request["rows"] = json!(rows);
    let mut all = Vec::new();
    // Programs inside should draw for the terminal that shows them.
    for name in ["TERM", "COLORTERM"] {
        let plain = |text: &String| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte))
        };
        if let Some(value) = std::env::var(name).ok().filter(plain) {
            all.push((name.to_owned(), value));
        }
    }
    all.extend_from_slice(env);
    request["env"] = arguments::text_object(&all);
}

fn list(context: &Context, answer: &Value) -> std::io::Result<()> {
    let terminals = answer.get("terminals").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = terminals
        .iter()
        .map(|one| {
            let ended = text(one, "exit_code");
            let state = if ended.is_empty() { "running".to_owned() } else { format!("exit {ended}") };
            vec![
                Cell::text(one, "id"),
                Cell::Text(state),
                Cell::time(one, "created_at"),
                Cell::text(one, "viewers"),
                Cell::text(one, "command"),
            ]
        })
        .collect();
    context.output.table(&["ID", "STATE", "STARTED", "VIEWERS", "COMMAND"], &rows)
}
