//! Terminals and background commands: started by a request, attached to by a WebSocket, again and again.

mod socket;

use super::execute::{CommandBody, read_timeout, read_user, read_working_dir};
use crate::http::{
    App, Hold,
    body::Json,
    error::{ApiError, ApiResult},
    extract::{Id, Query},
    patience::{json, patiently},
    time::Time,
};
use axum::{
    Extension,
    extract::{FromRequestParts, Path, State, ws::WebSocketUpgrade},
    http::{StatusCode, request::Parts},
    response::Response,
};
use forkpoint_domain::ids::{SandboxId, TerminalId};
use forkpoint_engine::{
    Caller,
    operations::terminals::{DEFAULT_SCROLLBACK, MAX_SIDE, NewTerminal, check_size},
    ports::terminal::{Terminal, TerminalSize},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The largest message taken from a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
const DEFAULT_SIZE: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// What to start.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateTerminal)]
pub(super) struct TerminalBody {
    /// A string for `bash -c`, or an array of program and arguments; default: the user's own shell.
    command: Option<CommandBody>,
    /// Whether it has a terminal; without, it is a background command, whose two outputs come as one. Default true.
    #[schema(default = true)]
    tty: Option<bool>,
    /// Height in characters, 1 to 1000.
    #[schema(default = 24)]
    rows: Option<u16>,
    /// Width in characters, 1 to 1000.
    #[schema(default = 80)]
    cols: Option<u16>,
    /// Environment variables laid over the sandbox's. `TERM` is `xterm-256color` if nothing else is said.
    env: Option<BTreeMap<String, String>>,
    /// Absolute directory it starts in (alias `cwd`); default `/workspace`.
    #[serde(alias = "workingDir", alias = "cwd")]
    #[schema(default = "/workspace")]
    working_dir: Option<String>,
    /// User name or `uid[:gid]`; default: the sandbox's own user.
    user: Option<String>,
    /// After how many milliseconds it is killed (exit code 124); default: never.
    #[serde(alias = "timeout_ms", alias = "timeoutMs")]
    timeout: Option<u64>,
    /// The latest bytes of output kept for who attaches later; at most 1 MiB.
    #[serde(alias = "scrollbackBytes")]
    #[schema(default = 262_144)]
    scrollback_bytes: Option<u32>,
    /// Kill it when nobody was attached for so many milliseconds; default: never.
    #[serde(alias = "lingerMs")]
    linger_ms: Option<u64>,
}

impl TerminalBody {
    fn read(self) -> ApiResult<NewTerminal> {
        let tty = self.tty.unwrap_or(true);
        if !tty && (self.rows.is_some() || self.cols.is_some()) {
            let field = if self.rows.is_some() { "rows" } else { "cols" };
            return Err(ApiError::invalid(field, "needs a terminal: leave it out, or tty"));
        }
        let size =
            TerminalSize { rows: self.rows.unwrap_or(DEFAULT_SIZE.rows), cols: self.cols.unwrap_or(DEFAULT_SIZE.cols) };
        Ok(NewTerminal {
            command: self.command.map(CommandBody::read).transpose()?,
            env: self.env.unwrap_or_default(),
            working_dir: read_working_dir(self.working_dir)?,
            user: read_user(self.user)?,
            timeout_ms: read_timeout(self.timeout)?,
            size: tty.then_some(size),
            scrollback: self.scrollback_bytes.unwrap_or(DEFAULT_SCROLLBACK),
            linger_ms: self.linger_ms,
        })
    }
}

/// A terminal or background command.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Terminal)]
pub(super) struct TerminalView {
    /// Its name for ever.
    #[schema(value_type = String, example = "term-01890a5d-ac96-774b-bcce-b302099a8057")]
    id: TerminalId,
    /// In which sandbox.
    #[schema(value_type = String)]
    sandbox_id: SandboxId,
    /// What runs in it, cut at 1024 bytes.
    command: String,
    /// Pid of its command, as seen inside.
    pid: u32,
    /// Whether it has a terminal.
    tty: bool,
    /// Height in characters.
    rows: Option<u16>,
    /// Width in characters.
    cols: Option<u16>,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// Bytes it ever wrote.
    output_bytes: u64,
    /// How many are attached.
    viewers: u32,
    /// Whether its command runs.
    running: bool,
    /// Its exit code, once it has ended; 128 + n when signal n ended it, 124 on time-out.
    exit_code: Option<i32>,
    /// Whether the time limit ended it.
    timed_out: bool,
}

impl TerminalView {
    fn new(sandbox_id: SandboxId, terminal: Terminal) -> Self {
        Self {
            id: terminal.id,
            sandbox_id,
            command: terminal.command,
            pid: terminal.pid,
            tty: terminal.size.is_some(),
            rows: terminal.size.map(|size| size.rows),
            cols: terminal.size.map(|size| size.cols),
            created_at: Time(terminal.started_at),
            output_bytes: terminal.written,
            viewers: terminal.viewers,
            running: terminal.ended.is_none(),
            exit_code: terminal.ended.map(|exit| exit.code),
            timed_out: terminal.ended.is_some_and(|exit| exit.timed_out),
        }
    }
}

/// The sandbox and the terminal in a route's path.
#[derive(Debug)]
pub(super) struct Ids(SandboxId, TerminalId);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path((sandbox, terminal)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("id", "is not valid UTF-8 once percent-decoded"))?;
        Ok(Self(sandbox.parse()?, terminal.parse()?))
    }
}

/// Starts a terminal or a background command
///
/// It goes on while nobody is attached, until its command ends or the sandbox's processes do. A sandbox has at most
/// 64 that run; of those that have ended, the last 16 are remembered.
#[utoipa::path(post, path = "/sandbox/{id}/terminals", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id")), request_body = TerminalBody,
    responses((status = 201, description = "It runs", body = TerminalView)))]
pub(super) async fn create_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<TerminalBody>,
) -> ApiResult {
    let new = body.read()?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::CREATED, async move {
        Ok(TerminalView::new(id, platform.open_terminal(&caller, id, new).await?))
    })
    .await
}

/// All terminals of a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TerminalList {
    /// Oldest first.
    terminals: Vec<TerminalView>,
}

/// Lists terminals and background commands
///
/// Those that have ended lately too.
#[utoipa::path(get, path = "/sandbox/{id}/terminals", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id")),
    responses((status = 200, description = "All of them", body = TerminalList)))]
pub(super) async fn list_terminals(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
) -> ApiResult {
    let all = app.platform.terminals(&caller, id).await?;
    let terminals = all.into_iter().map(|one| TerminalView::new(id, one)).collect();
    Ok(json(StatusCode::OK, &TerminalList { terminals }))
}

/// Shows a terminal or background command
#[utoipa::path(get, path = "/sandbox/{id}/terminals/{terminal_id}", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id"), ("terminal_id" = String, Path, description = "Terminal id")),
    responses((status = 200, description = "As it is now", body = TerminalView)))]
pub(super) async fn get_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Ids(id, terminal): Ids,
) -> ApiResult {
    let found = app.platform.terminal(&caller, id, terminal).await?;
    Ok(json(StatusCode::OK, &TerminalView::new(id, found)))
}

/// It is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TerminalClosed {
    /// Always true here.
    success: bool,
    #[schema(value_type = String)]
    terminal_id: TerminalId,
}

/// Ends and forgets a terminal or background command
///
/// What is left of its processes is killed; who is attached learns of it.
#[utoipa::path(delete, path = "/sandbox/{id}/terminals/{terminal_id}", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id"), ("terminal_id" = String, Path, description = "Terminal id")),
    responses((status = 200, description = "It is gone", body = TerminalClosed)))]
pub(super) async fn close_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Ids(id, terminal): Ids,
) -> ApiResult {
    app.platform.close_terminal(&caller, id, terminal).await?;
    Ok(json(StatusCode::OK, &TerminalClosed { success: true, terminal_id: terminal }))
}

/// A signal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignalTerminal)]
pub(super) struct SignalBody {
    /// Its number, 1 to 31: 2 interrupts, 15 asks to end, 9 kills.
    #[schema(example = 15)]
    signal: i32,
}

/// It was sent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TerminalSignalled {
    /// Always true here.
    success: bool,
}

/// Sends a signal to a terminal or background command
///
/// To the process group that has the terminal, or the command's own.
#[utoipa::path(post, path = "/sandbox/{id}/terminals/{terminal_id}/signal", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id"), ("terminal_id" = String, Path, description = "Terminal id")),
    request_body = SignalBody, responses((status = 200, description = "It was sent", body = TerminalSignalled)))]
pub(super) async fn signal_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Ids(id, terminal): Ids,
    Json(body): Json<SignalBody>,
) -> ApiResult {
    app.platform.signal_terminal(&caller, id, terminal, body.signal).await?;
    Ok(json(StatusCode::OK, &TerminalSignalled { success: true }))
}

/// How it ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TerminalEnd {
    /// Its exit code; 128 + n when signal n ended it, 124 on time-out.
    exit_code: i32,
    /// Whether the time limit ended it.
    timed_out: bool,
}

/// Waits until a terminal's or background command's end
#[utoipa::path(get, path = "/sandbox/{id}/terminals/{terminal_id}/wait", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id"), ("terminal_id" = String, Path, description = "Terminal id")),
    responses((status = 200, description = "It has ended", body = TerminalEnd)))]
pub(super) async fn wait_for_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Ids(id, terminal): Ids,
) -> ApiResult {
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let exit = platform.wait_for_terminal(&caller, id, terminal).await?;
        Ok(TerminalEnd { exit_code: exit.code, timed_out: exit.timed_out })
    })
    .await
}

/// Attaches to a terminal or background command, by WebSocket
///
/// Binary messages are input and output. Text messages are JSON. From the client: `{"type":"resize","cols","rows"}`,
/// `{"type":"signal","signal"}`, `{"type":"eof"}` (ends the input of a command without terminal). From the server:
/// first `{"type":"attached","terminal","offset"}`, the offset being the position of the first output byte that
/// follows in all that was ever written; `{"type":"skipped","offset"}` when output was left out for a client that
/// reads too slowly; `{"type":"error","error"}` for a message that was not understood; last
/// `{"type":"exit","code","timed_out"}`, or `{"type":"closed","reason"}` when the sandbox went away or was restored
/// (close code 1001), or the server ends (close code 1012: connect again with `from`). Closing the WebSocket leaves
/// the terminal as it is. Several clients may be attached. The server pings every 20 seconds.
///
/// Where headers cannot be set, the key may be given as `token`.
#[utoipa::path(get, path = "/sandbox/{id}/terminals/{terminal_id}/ws", tag = "terminals",
    params(("id" = String, Path, description = "Sandbox id"), ("terminal_id" = String, Path, description = "Terminal id"),
           ("from" = Option<u64>, Query, description = "Position in the output to go on from; default: all that is kept"),
           ("cols" = Option<u32>, Query, description = "New width of the terminal; with `rows`"),
           ("rows" = Option<u32>, Query, description = "New height of the terminal; with `cols`"),
           ("token" = Option<String>, Query, description = "The key, where no header can be sent")),
    responses((status = 101, description = "The WebSocket begins")))]
pub(super) async fn attach_terminal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    hold: Option<Extension<Hold>>,
    Ids(id, terminal): Ids,
    query: Query,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|problem| {
        let message = format!("this route takes WebSockets only ({problem})");
        ApiError::invalid("upgrade", message)
    })?;
    let from = query.position("from")?;
    let size = read_size(&query)?;
    let attached = app.platform.attach_terminal(&caller, id, terminal, from).await?;
    if let Some(size) = size {
        // At its end, there is nothing to be resized; the events tell of it.
        let _ = attached.input.resize(size).await;
    }
    let view = TerminalView::new(id, attached.terminal.clone());
    let hold = hold.map(|Extension(hold)| hold);
    Ok(upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| socket::serve(socket, attached, view, hold)))
}

fn read_size(query: &Query) -> ApiResult<Option<TerminalSize>> {
    let side = |name| query.count(name, u32::from(MAX_SIDE)).map(|side| side.map(|side| side as u16));
    match (side("rows")?, side("cols")?) {
        (None, None) => Ok(None),
        (Some(rows), Some(cols)) => {
            let size = Some(TerminalSize { rows, cols });
            check_size(size)?;
            Ok(size)
        }
        (None, _) => Err(ApiError::invalid("rows", "must be given with cols")),
        (_, None) => Err(ApiError::invalid("cols", "must be given with rows")),
    }
}
