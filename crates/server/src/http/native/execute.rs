//! Running a command: as one JSON answer, or as a stream of events while it runs.

mod json;
mod sse;
pub(super) mod text;

use crate::{
    http::{
        App,
        body::Json,
        error::{ApiError, ApiResult},
        extract::Id,
        patience::DRIP_EVERY,
    },
    metrics::ExecOutcome,
};
use axum::{Extension, extract::State, response::Response};
use forkpoint_domain::{ids::SandboxId, path::SandboxPath, sandbox::MAX_TIMEOUT_SECONDS};
use forkpoint_engine::{
    Caller,
    ports::guest::{Command, ExecEvent, ExecExit, ExecSpec},
};
use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use serde::{Deserialize, Deserializer, de};
use std::{borrow::Cow, collections::BTreeMap, fmt};
use tokio::time::Instant;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        OneOfBuilder, RefOr,
        schema::{ArrayBuilder, Object, Schema, Type},
    },
};

/// The most bytes kept of each of a command's two outputs.
const OUTPUT_LIMIT: usize = 8 * 1024 * 1024;
/// How long a command may be silent before its response begins; what fails earlier has its proper status.
const QUIET: std::time::Duration = DRIP_EVERY;

/// What to run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExecuteCommand)]
pub(super) struct ExecBody {
    /// A string for `bash -c`, or an array of program and arguments without a shell.
    command: CommandBody,
    /// Environment variables laid over the sandbox's.
    env: Option<BTreeMap<String, String>>,
    /// Absolute directory it starts in (alias `cwd`); default `/workspace`.
    #[serde(alias = "workingDir", alias = "cwd")]
    #[schema(default = "/workspace")]
    working_dir: Option<String>,
    /// User name or `uid[:gid]`; default: the sandbox's own user.
    user: Option<String>,
    /// After how many milliseconds it is killed with all its processes (exit code 124); default: never.
    #[serde(alias = "timeout_ms", alias = "timeoutMs")]
    timeout: Option<u64>,
    /// Whether to answer with server-sent events while it runs. Default false.
    #[schema(default = false)]
    stream: Option<bool>,
    /// What it reads; default: nothing.
    stdin: Option<String>,
}

/// A command in one of its two forms.
pub(super) struct CommandBody(Command);

impl<'de> Deserialize<'de> for CommandBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> de::Visitor<'de> for Either {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string for a shell, or an array of strings (program and arguments)")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Command, E> {
                Ok(Command::Shell(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Command, E> {
                Ok(Command::Shell(text))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<Command, A::Error> {
                let mut argv = Vec::new();
                while let Some(part) = parts.next_element::<String>()? {
                    argv.push(part);
                }
                Ok(Command::Argv(argv))
            }
        }

        deserializer.deserialize_any(Either).map(Self)
    }
}

impl PartialSchema for CommandBody {
    fn schema() -> RefOr<Schema> {
        let either = OneOfBuilder::new()
            .item(Object::with_type(Type::String))
            .item(ArrayBuilder::new().items(Object::with_type(Type::String)).min_items(Some(1)));
        Schema::OneOf(either.build()).into()
    }
}

impl ToSchema for CommandBody {
    fn name() -> Cow<'static, str> {
        "Command".into()
    }
}

impl ExecBody {
    fn read(self) -> ApiResult<ExecSpec> {
        Ok(ExecSpec {
            command: self.command.read()?,
            env: self.env.unwrap_or_default(),
            working_dir: read_working_dir(self.working_dir)?,
            user: read_user(self.user)?,
            timeout_ms: read_timeout(self.timeout)?,
            stdin: self.stdin.map(Into::into),
            output_limit: OUTPUT_LIMIT as u64,
        })
    }
}

impl CommandBody {
    /// The command, which is not empty.
    pub(super) fn read(self) -> ApiResult<Command> {
        let empty = match &self.0 {
            Command::Shell(text) => text.is_empty(),
            Command::Argv(argv) => argv.first().is_none_or(String::is_empty),
        };
        if empty {
            return Err(ApiError::invalid("command", "must not be empty"));
        }
        let has_nul = match &self.0 {
            Command::Shell(text) => text.contains('\0'),
            Command::Argv(argv) => argv.iter().any(|part| part.contains('\0')),
        };
        if has_nul {
            return Err(ApiError::invalid("command", "must not contain a NUL byte"));
        }
        Ok(self.0)
    }
}

/// A time limit for a command, in milliseconds.
pub(super) fn read_timeout(timeout: Option<u64>) -> ApiResult<Option<u64>> {
    let longest = MAX_TIMEOUT_SECONDS as u64 * 1000;
    if timeout.is_some_and(|timeout| !(1..=longest).contains(&timeout)) {
        let problem = format!("is in milliseconds and must be between 1 and {longest}");
        return Err(ApiError::invalid("timeout", problem));
    }
    Ok(timeout)
}

/// The user to run a command as.
pub(super) fn read_user(user: Option<String>) -> ApiResult<Option<String>> {
    if user.as_deref().is_some_and(|user| user.is_empty() || user.len() > 256 || user.contains('\0')) {
        return Err(ApiError::invalid("user", "must be a user name or uid[:gid] of at most 256 bytes"));
    }
    Ok(user)
}

/// The directory a command starts in; empty counts as missing.
pub(super) fn read_working_dir(dir: Option<String>) -> ApiResult<Option<SandboxPath>> {
    let dir = dir.filter(|dir| !dir.is_empty());
    Ok(dir.map(|dir| SandboxPath::parse("working_dir", &dir)).transpose()?)
}

/// Runs a command in a running sandbox
///
/// The answer comes when the command itself exits, whatever its exit code; a client that goes away ends it. With
/// `stream`, `text/event-stream` of lines `data: {…}`: `{"type":"stdout"|"stderr","data"}` as they come, then
/// `{"type":"exit","code"}` or, when the sandbox went away or was restored, `{"type":"error","error"}`, then
/// `{"type":"done"}`. Output beyond 8 MiB a stream is dropped (`output_truncated`).
#[utoipa::path(post, path = "/sandbox/{id}/execute", tag = "commands", params(("id" = String, Path, description = "Sandbox id")),
    request_body(content = ExecBody, description = "What to run"),
    responses((status = 200, description = "It ran; with `stream` the events of it running",
               content((json::ExecResult<'_> = "application/json"), (String = "text/event-stream")))))]
pub(super) async fn execute_command(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<ExecBody>,
) -> ApiResult {
    let begun = Instant::now();
    let streaming = body.stream.unwrap_or(false);
    let events = start(&app, caller, id, body.read()?).await?;
    let tally = Tally { app, outcome: ExecOutcome::Abandoned };
    Ok(if streaming { sse::answer(events, tally) } else { json::answer(events, tally, begun + QUIET).await })
}

type Events = BoxStream<'static, ExecEvent>;

/// Starts a command. A start that is slow becomes part of the events, so that the response can begin.
async fn start(app: &App, caller: Caller, id: SandboxId, spec: ExecSpec) -> ApiResult<Events> {
    let platform = app.platform.clone();
    let mut starting = Box::pin(async move { platform.exec(&caller, id, spec).await });
    match tokio::time::timeout(QUIET, &mut starting).await {
        Ok(Ok(events)) => Ok(events),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(starting
            .map(|started| match started {
                Ok(events) => events,
                Err(error) => stream::iter([ExecEvent::Lost(error.to_string())]).boxed(),
            })
            .flatten_stream()
            .boxed()),
    }
}

/// Counts a command once, when nothing more will be told of it.
struct Tally {
    app: App,
    outcome: ExecOutcome,
}

impl Tally {
    fn exited(&mut self, exit: &ExecExit) {
        self.outcome = if exit.timed_out { ExecOutcome::TimedOut } else { ExecOutcome::Exited };
    }

    fn lost(&mut self) {
        self.outcome = ExecOutcome::Lost;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.app.metrics.exec_ended(self.outcome);
    }
}

/// What a lost command is told with when its sandbox said nothing.
const NO_END: &str = "the sandbox ended the connection before the command's end was known";

/// A response of events must not be kept back by what lies between.
pub(super) fn uncached(response: &mut Response) {
    use axum::http::{HeaderName, HeaderValue, header};
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}
