//! Watching files, as server-sent events.

use crate::http::{
    App,
    error::ApiResult,
    extract::{Id, Query},
    hold::Hold,
    native::execute::uncached,
    patience::DRIP_EVERY,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use forkpoint_domain::{ids::SandboxId, path::SandboxPath};
use forkpoint_engine::{
    Caller,
    ports::watch::{ChangeKind, Watch, WatchEvent},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;
use std::convert::Infallible;

/// The most bytes of events that are put together into one piece of the response.
const PIECE: usize = 32 * 1024;

/// One event.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Watching { path: &'a str, recursive: bool, polled: bool },
    Changed { kind: &'static str, path: &'a str },
    Overflow,
    Gone,
    Error { error: &'a str },
    Done,
}

/// Watches a file or directory
///
/// `text/event-stream` of lines `data: {…}`: first `watching` (from now on changes are told; with `polled` the sandbox
/// is looked at every second, since its kernel has no room for another watch, and what comes and goes in between is
/// not seen), then `changed` with `kind` (`created`, `modified`, `attributes`, `removed`) and `path` as things happen;
/// `overflow` when changes were lost because they were read too slowly: look at the files anew. A rename is a removal
/// and a creation. It ends with `gone` when the watched directory is removed or moved, or `error` when the sandbox
/// stopped, was restored, or the server ends; last `done`. Closing the connection ends the watch.
#[utoipa::path(get, path = "/sandbox/{id}/files/watch", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"),
           ("path" = String, Query, description = "Absolute path of a file or directory"),
           ("recursive" = Option<bool>, Query, description = "Whether what lies deeper is watched too; default false")),
    responses((status = 200, description = "What happens", body = String, content_type = "text/event-stream")))]
pub(in super::super) async fn watch_files(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    hold: Option<Extension<Hold>>,
    Id(id): Id<SandboxId>,
    query: Query,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.required("path")?)?;
    let recursive = query.flag("recursive")?.unwrap_or(false);
    let watch = app.platform.watch_files(&caller, id, &path, recursive).await?;
    let mut first = Vec::new();
    write(&mut first, &Told::Watching { path: path.as_str(), recursive, polled: watch.polled });
    let running = Running { watch, hold: hold.map(|Extension(hold)| hold), ended: false };
    let pieces = stream::unfold(running, |mut running| async {
        if running.ended {
            return None;
        }
        let piece = running.next_piece().await;
        Some((piece, running))
    });
    let pieces = stream::once(async { Bytes::from(first) }).chain(pieces).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    uncached(&mut response);
    Ok(response)
}

struct Running {
    watch: Watch,
    hold: Option<Hold>,
    ended: bool,
}

impl Running {
    async fn next_piece(&mut self) -> Bytes {
        let mut piece = Vec::new();
        let ending = async {
            match &self.hold {
                Some(hold) => hold.ending.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = self.watch.events.next() => Some(event),
            () = tokio::time::sleep(DRIP_EVERY) => None,
            () = ending => Some(Some(WatchEvent::Lost("the server is ending".to_owned()))),
        };
        match event {
            None => piece.extend_from_slice(b": keep-alive\n\n"),
            Some(event) => self.tell(event, &mut piece),
        }
        // What has come meanwhile goes along.
        while !self.ended
            && piece.len() < PIECE
            && let Some(event) = self.watch.events.next().now_or_never()
        {
            self.tell(event, &mut piece);
        }
        piece.into()
    }

    fn tell(&mut self, event: Option<WatchEvent>, piece: &mut Vec<u8>) {
        let last = match &event {
            Some(WatchEvent::Changed { path, kind }) => {
                return write(piece, &Told::Changed { kind: word(*kind), path });
            }
            Some(WatchEvent::Overflow) => return write(piece, &Told::Overflow),
            Some(WatchEvent::Gone) => Told::Gone,
            Some(WatchEvent::Lost(error)) => Told::Error { error },
            None => Told::Error { error: "the sandbox ended the watch" },
        };
        write(piece, &last);
        write(piece, &Told::Done);
        self.ended = true;
    }
}

fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Removed => "removed",
    }
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
