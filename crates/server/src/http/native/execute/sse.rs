//! A running command as server-sent events.

use super::{Events, NO_END, OUTPUT_LIMIT, Tally, text::Text};
use crate::http::patience::DRIP_EVERY;
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use forkpoint_engine::ports::guest::ExecEvent;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use std::convert::Infallible;

/// One event. Published clients take only lines that begin with `data: ` and end at `done`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    Stdout { data: &'a str },
    Stderr { data: &'a str },
    Exit { code: i32, timed_out: bool, output_truncated: bool },
    Error { error: &'a str },
    Done,
}

/// Begins the response now; each event is sent as it comes. Dropping the response ends the command.
pub(super) fn answer(events: Events, tally: Tally) -> Response {
    let running = Running { events, tally, stdout: Channel::default(), stderr: Channel::default(), ended: false };
    let pieces = stream::unfold(running, |mut running| async {
        if running.ended {
            return None;
        }
        let piece = running.next_piece().await;
        Some((Ok::<_, Infallible>(piece), running))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    super::uncached(&mut response);
    response
}

struct Running {
    events: Events,
    tally: Tally,
    stdout: Channel,
    stderr: Channel,
    ended: bool,
}

/// One of the two outputs: what of a split character is held back, and how much may still come.
#[derive(Default)]
struct Channel {
    text: Text,
    sent: usize,
    truncated: bool,
}

impl Channel {
    fn push(&mut self, bytes: &[u8]) -> String {
        let room = OUTPUT_LIMIT - self.sent.min(OUTPUT_LIMIT);
        self.truncated |= bytes.len() > room;
        let bytes = &bytes[..bytes.len().min(room)];
        self.sent += bytes.len();
        self.text.push(bytes)
    }
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

    fn tell(&mut self, event: Option<ExecEvent>, piece: &mut Vec<u8>) {
        match event {
            Some(ExecEvent::Stdout(bytes)) => {
                let text = self.stdout.push(&bytes);
                if !text.is_empty() {
                    write(piece, &Told::Stdout { data: &text });
                }
            }
            Some(ExecEvent::Stderr(bytes)) => {
                let text = self.stderr.push(&bytes);
                if !text.is_empty() {
                    write(piece, &Told::Stderr { data: &text });
                }
            }
            Some(ExecEvent::Exit(exit)) => {
                self.tally.exited(&exit);
                self.flush(piece);
                let output_truncated = exit.output_truncated || self.stdout.truncated || self.stderr.truncated;
                write(piece, &Told::Exit { code: exit.code, timed_out: exit.timed_out, output_truncated });
                self.end(piece);
            }
            Some(ExecEvent::Lost(why)) => self.lose(&why, piece),
            None => self.lose(NO_END, piece),
        }
    }

    fn lose(&mut self, why: &str, piece: &mut Vec<u8>) {
        self.tally.lost();
        self.flush(piece);
        let why: String = why.chars().take(4096).collect();
        write(piece, &Told::Error { error: &why });
        self.end(piece);
    }

    /// Gives up characters that never became whole.
    fn flush(&mut self, piece: &mut Vec<u8>) {
        if let Some(data) = self.stdout.text.finish() {
            write(piece, &Told::Stdout { data });
        }
        if let Some(data) = self.stderr.text.finish() {
            write(piece, &Told::Stderr { data });
        }
    }

    fn end(&mut self, piece: &mut Vec<u8>) {
        write(piece, &Told::Done);
        self.ended = true;
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
