//! `forkpoint sandbox exec`: runs a command, passes its output through, and ends with its exit code.

use crate::{
    client::{Client, ExecEvent},
    commands::{Context, Failure, arguments, shell},
};
use forkpoint_domain::ids::SandboxId;
use serde_json::{Value, json};
use std::{
    io::{self, Read as _, Write},
    time::Duration,
};

/// The most that is sent as a command's input: JSON can make each byte six, and a request has at most 64 MiB.
const MAX_STDIN_BYTES: u64 = 10 * 1024 * 1024;

/// How long a command on a terminal goes on when nobody is attached, for the server to be started anew meanwhile.
const LINGER_MS: u64 = 60_000;

/// What to run and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A variable of its environment; can be repeated
    #[arg(long, short, value_parser = arguments::pair, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// The directory to run it in
    #[arg(long, visible_alias = "working-dir", value_name = "PATH")]
    cwd: Option<String>,
    /// The user to run it as
    #[arg(long, short)]
    user: Option<String>,
    /// End it after this time: seconds, or like 500ms, 10m
    #[arg(long, value_parser = arguments::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Print the output when the command has ended, not as it comes
    #[arg(long)]
    no_stream: bool,
    /// Give it this program's standard input, up to 10 MiB of text
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Run it on a terminal, with this one's keys and size (as `-it`); it ends a minute after this program is gone,
    /// and Ctrl-P Ctrl-Q leaves it
    #[arg(long, short = 't', conflicts_with = "no_stream")]
    tty: bool,
    /// The sandbox
    id: SandboxId,
    /// The command: one argument is a line for the shell, several are a program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    fn request(&self) -> Value {
        let mut body = json!({
            "command": match self.command.as_slice() {
                [line] => json!(line),
                argv => json!(argv),
            },
        });
        if !self.env.is_empty() {
            body["env"] = arguments::text_object(&self.env);
        }
        arguments::set(&mut body, "working_dir", self.cwd.clone());
        arguments::set(&mut body, "user", self.user.clone());
        let millis = self.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        arguments::set(&mut body, "timeout", millis);
        body
    }
}

/// Runs it.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let mut request = args.request();
    if args.tty {
        if context.output.json {
            return Err(Failure::Usage("--tty and --json do not go together".to_owned()));
        }
        shell::require_screen()?;
        shell::shape(&mut request, &args.env);
        request["linger_ms"] = json!(LINGER_MS);
        let id = args.id.to_string();
        let terminal = client.create_terminal(&id, &request).await?;
        return shell::interact(&client, &id, &terminal, shell::Own::Yes).await;
    }
    if args.stdin {
        let read = tokio::task::spawn_blocking(read_stdin).await;
        request["stdin"] = json!(read.map_err(|error| Failure::Other(format!("read standard input: {error}")))??);
    }
    let id = args.id.to_string();
    if context.output.json || args.no_stream {
        let answer = client.execute(&id, request).await?;
        if context.output.json {
            context.output.value(&answer)?;
        } else {
            pass(&mut io::stdout().lock(), &answer, "stdout")?;
            pass(&mut io::stderr().lock(), &answer, "stderr")?;
        }
        let code = answer.get("exit_code").and_then(Value::as_i64);
        return code.map(exit_code).ok_or_else(|| Failure::Other("the server's answer holds no exit code".to_owned()));
    }
    stream(&client, &id, request).await
}

/// Passes output through as it comes, until the command has ended.
async fn stream(client: &Client, id: &str, request: Value) -> Result<u8, Failure> {
    let mut events = client.execute_stream(id, request).await?;
    let mut code = None;
    while let Some(event) = events.next().await? {
        match event {
            ExecEvent::Stdout { data } => write_now(&mut io::stdout().lock(), &data)?,
            ExecEvent::Stderr { data } => write_now(&mut io::stderr().lock(), &data)?,
            ExecEvent::Exit { code: ended } => code = Some(exit_code(ended)),
            ExecEvent::Error { error } => {
                return Err(Failure::Other(format!("the command did not end by itself: {error}")));
            }
            ExecEvent::Done => break,
            ExecEvent::Unknown => {}
        }
    }
    code.ok_or_else(|| Failure::Other("the connection ended before the command did".to_owned()))
}

/// A pipe's buffer would hold output back: what came is written out at once.
fn write_now(to: &mut impl Write, data: &str) -> io::Result<()> {
    to.write_all(data.as_bytes())?;
    to.flush()
}

fn pass(to: &mut impl Write, answer: &Value, stream: &str) -> io::Result<()> {
    write_now(to, answer.get(stream).and_then(Value::as_str).unwrap_or_default())
}

/// The code to end with; one that no process on this side can have becomes 255.
fn exit_code(code: i64) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

fn read_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_end(&mut bytes).map_err(Failure::io("read standard input"))?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(Failure::Other(format!(
            "standard input has more than {MAX_STDIN_BYTES} bytes; copy it as a file (`forkpoint sandbox cp - ID:/path`)"
        )));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::Other("standard input is not UTF-8; copy it as a file (`forkpoint sandbox cp - ID:/path`)".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_no_process_can_have_become_255() {
        for (code, ended) in [(0, 0), (7, 7), (255, 255), (256, 255), (-1, 255)] {
            assert_eq!(exit_code(code), ended);
        }
    }
}
