//! Building a template by its recipe: as one JSON answer, or as a stream of events while it goes on.

use super::{
    execute::{text::Text, uncached},
    quantity::Quantity,
    templates::TemplateView,
};
use crate::http::{
    App,
    body::Json,
    error::{ApiError, ApiResult},
    patience::{DRIP_EVERY, patiently},
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use forkpoint_domain::{
    limits::{parse_cpus, parse_memory},
    recipe::Recipe,
    template::TemplateName,
};
use forkpoint_engine::{
    Caller, Error, Settings,
    operations::build::{BuildEvent, BuildTemplate, RecipeFile},
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, convert::Infallible, time::Duration};
use utoipa::ToSchema;

/// A recipe and what lies beside it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BuildTemplate)]
pub(super) struct BuildBody {
    /// The recipe, in TOML.
    #[schema(example = "[base]\ntemplate = \"default\"\n\n[[step]]\nrun = \"pip install requests\"\n")]
    recipe: String,
    /// What the template is called; default: as the recipe says.
    name: Option<String>,
    /// The template that stands for a base on the server's machine.
    base: Option<String>,
    /// What lies beside the recipe, by relative path.
    #[serde(default)]
    files: BTreeMap<String, FileBody>,
    /// Run every step, whatever earlier builds left. Default false.
    #[serde(alias = "noCache")]
    #[schema(default = false)]
    no_cache: Option<bool>,
    /// Go on when the client goes away, which else ends the build. Default false.
    #[serde(alias = "keepGoing")]
    #[schema(default = false)]
    keep_going: Option<bool>,
    /// Whether to answer with server-sent events while it goes on. Default false.
    #[schema(default = false)]
    stream: Option<bool>,
    /// Processor share of each step; default `"1"`.
    cpus: Option<Quantity>,
    /// Memory limit of each step; default `"1Gi"`.
    memory: Option<Quantity>,
}

/// Something that lies beside a recipe.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RecipeFile)]
pub(super) struct FileBody {
    /// What is in it, in base64; missing: it is a directory.
    content: Option<String>,
    /// Permission bits as an octal text. Default `"0644"`.
    #[schema(default = "0644")]
    mode: Option<String>,
}

/// A template that was built.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BuiltTemplate)]
pub(super) struct Built {
    /// The template.
    template: TemplateView,
    /// Whether it was there already, made by this very recipe.
    unchanged: bool,
    /// For how many steps an earlier build's outcome stood.
    cached_steps: usize,
    /// How long it took.
    duration_ms: u64,
}

/// One event.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Build { id: String, template: String, steps: usize },
    Waiting,
    Step { step: usize, line: usize, title: &'a str, cached: bool },
    Stdout { step: usize, data: &'a str },
    Stderr { step: usize, data: &'a str },
    StepDone { step: usize, duration_ms: u64 },
    Publishing,
    Template(Box<Built>),
    Error { error: Value },
    Done,
}

impl BuildBody {
    fn read(self) -> ApiResult<(BuildTemplate, bool)> {
        let recipe = Recipe::parse(&self.recipe).map_err(Error::Recipe)?;
        let name = |field: &str, text: Option<String>| {
            let parsed = text.as_deref().map(TemplateName::parse).transpose();
            parsed.map_err(|invalid| ApiError::invalid(field, invalid.problem))
        };
        let mut files = BTreeMap::new();
        for (path, file) in self.files {
            let shown: String = path.chars().take(100).collect();
            let file = file.read(&shown)?;
            files.insert(path, file);
        }
        let request = BuildTemplate {
            recipe,
            name: name("name", self.name)?,
            base: name("base", self.base)?,
            files,
            use_cache: !self.no_cache.unwrap_or(false),
            keep_going: self.keep_going.unwrap_or(false),
            cpu_millis: self.cpus.map(|text| parse_cpus(&text.0)).transpose()?,
            memory_bytes: self.memory.map(|text| parse_memory(&text.0)).transpose()?,
        };
        Ok((request, self.stream.unwrap_or(false)))
    }
}

impl FileBody {
    fn read(self, path: &str) -> ApiResult<RecipeFile> {
        let field = |part: &str| format!("files.{path}.{part}");
        let Some(content) = self.content else {
            return match self.mode {
                None => Ok(RecipeFile::Directory),
                Some(_) => Err(ApiError::invalid(field("mode"), "goes with 'content'; a directory has mode 0755")),
            };
        };
        let content =
            BASE64_STANDARD.decode(content).map_err(|_| ApiError::invalid(field("content"), "is not base64"))?;
        let mode = match self.mode.as_deref() {
            None => 0o644,
            Some(text) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .ok_or_else(|| ApiError::invalid(field("mode"), "must be an octal text up to 0777"))?,
        };
        Ok(RecipeFile::File { content: content.into(), mode })
    }
}

/// Builds a template by a recipe
///
/// Each step runs in a sandbox of its own; what it leaves is kept and stands for the step as long as base, recipe up
/// to there and files are the same. A client that goes away ends the build, unless `keep_going`; finished steps stay.
/// With `stream`, `text/event-stream` of lines `data: {…}`: `build` (`id`, `template`, `steps`), `waiting` (for
/// another build of the same template), `step` (`step`, `line`, `title`, `cached`), `stdout` and `stderr` (`step`,
/// `data`), `step_done` (`step`, `duration_ms`), `publishing`, then `template` (as the answer without `stream`) or
/// `error` (`error` as in refusals; for a step that failed with `code` `step_failed` and the recipe's `line` and
/// `step` in its details), last `done`.
#[utoipa::path(post, path = "/templates", tag = "templates",
    request_body(content = BuildBody, description = "What to build"),
    responses((status = 201, description = "Sandboxes can be made from it; with `stream` (status 200) the events of its making",
               content((Built = "application/json"), (String = "text/event-stream")))))]
pub(super) async fn build_template(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<BuildBody>,
) -> ApiResult {
    let (request, streaming) = body.read()?;
    let mut events = app.platform.build_template(&caller, request).await?;
    if streaming {
        return Ok(answer(events, app.platform.settings().clone()));
    }
    let settings = app.platform.settings().clone();
    patiently(app.patience(), StatusCode::CREATED, async move {
        while let Some(event) = events.next().await {
            match event {
                BuildEvent::Done { template, unchanged, cached_steps, duration } => {
                    return Ok(built(*template, unchanged, cached_steps, duration, &settings));
                }
                BuildEvent::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        Err(Error::Unavailable(NO_END.to_owned()).into())
    })
    .await
}

/// What a build is told to have come to that ended without a word.
const NO_END: &str = "the build was interrupted; nothing is left of it but its finished steps";

fn built(
    template: forkpoint_engine::ports::templates::TemplateInfo,
    unchanged: bool,
    cached_steps: usize,
    duration: Duration,
    settings: &Settings,
) -> Built {
    Built { template: TemplateView::new(template, settings), unchanged, cached_steps, duration_ms: millis(duration) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Begins the response now; each event is sent as it comes. Dropping the response drops the events.
fn answer(events: BoxStream<'static, BuildEvent>, settings: Settings) -> Response {
    let running =
        Running { events, settings, number: 0, stdout: Text::default(), stderr: Text::default(), ended: false };
    let pieces = stream::unfold(running, |mut running| async {
        if running.ended {
            return None;
        }
        let piece = running.next_piece().await;
        Some((Ok::<_, Infallible>(piece), running))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    uncached(&mut response);
    response
}

struct Running {
    events: BoxStream<'static, BuildEvent>,
    settings: Settings,
    /// The step whose output comes.
    number: usize,
    stdout: Text,
    stderr: Text,
    ended: bool,
}

impl Running {
    async fn next_piece(&mut self) -> Bytes {
        let mut piece = Vec::new();
        while piece.is_empty() {
            tokio::select! {
                event = self.events.next() => self.tell(event, &mut piece),
                () = tokio::time::sleep(DRIP_EVERY) => piece.extend_from_slice(b": keep-alive\n\n"),
            }
        }
        piece.into()
    }

    fn tell(&mut self, event: Option<BuildEvent>, piece: &mut Vec<u8>) {
        if let Some(BuildEvent::Output { number, is_error, data }) = event {
            self.number = number;
            let text = if is_error { self.stderr.push(&data) } else { self.stdout.push(&data) };
            let data = text.as_str();
            match (data.is_empty(), is_error) {
                (true, _) => {}
                (_, true) => write(piece, &Told::Stderr { step: number, data }),
                (_, false) => write(piece, &Told::Stdout { step: number, data }),
            }
            return;
        }
        self.flush(piece);
        let end = match event {
            Some(BuildEvent::Begun { build, template, steps }) => {
                return write(piece, &Told::Build { id: build.to_string(), template: template.to_string(), steps });
            }
            Some(BuildEvent::Waiting) => return write(piece, &Told::Waiting),
            Some(BuildEvent::Step { number, line, title, cached }) => {
                return write(piece, &Told::Step { step: number, line, title: &title, cached });
            }
            Some(BuildEvent::StepDone { number, duration }) => {
                return write(piece, &Told::StepDone { step: number, duration_ms: millis(duration) });
            }
            Some(BuildEvent::Publishing) => return write(piece, &Told::Publishing),
            // Told above.
            Some(BuildEvent::Output { .. }) => return,
            Some(BuildEvent::Done { template, unchanged, cached_steps, duration }) => {
                Told::Template(Box::new(built(*template, unchanged, cached_steps, duration, &self.settings)))
            }
            Some(BuildEvent::Failed(error)) => failed(error),
            None => failed(Error::Unavailable(NO_END.to_owned())),
        };
        write(piece, &end);
        write(piece, &Told::Done);
        self.ended = true;
    }

    /// Gives up characters that never became whole.
    fn flush(&mut self, piece: &mut Vec<u8>) {
        let step = self.number;
        if let Some(data) = self.stdout.finish() {
            write(piece, &Told::Stdout { step, data });
        }
        if let Some(data) = self.stderr.finish() {
            write(piece, &Told::Stderr { step, data });
        }
    }
}

fn failed(error: Error) -> Told<'static> {
    let mut envelope = ApiError::from(error).envelope(None);
    Told::Error { error: envelope["error"].take() }
}

fn write(piece: &mut Vec<u8>, told: &Told<'_>) {
    let start = piece.len();
    piece.extend_from_slice(b"data: ");
    match serde_json::to_writer(&mut *piece, told) {
        Ok(()) => piece.extend_from_slice(b"\n\n"),
        Err(error) => {
            tracing::error!(%error, "an event did not serialise");
            piece.truncate(start);
        }
    }
}
