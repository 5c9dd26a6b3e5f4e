//! A command's outcome as one JSON object.

use super::{Events, NO_END, OUTPUT_LIMIT, Tally};
use crate::http::patience::{drip, to_bytes};
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use forkpoint_engine::ports::guest::{ExecEvent, ExecExit};
use futures::StreamExt as _;
use serde::Serialize;
use std::borrow::Cow;
use tokio::time::Instant;
use utoipa::ToSchema;

/// How a command went.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct ExecResult<'a> {
    /// Its exit code; 128 + n when signal n ended it, 124 on time-out, 127 when there is no such program, -1 when its
    /// end is not known.
    exit_code: i32,
    /// What it wrote; bytes that are not UTF-8 are replaced.
    stdout: Cow<'a, str>,
    /// What it wrote as errors.
    stderr: Cow<'a, str>,
    /// Whether output beyond the limit was dropped.
    output_truncated: bool,
    /// Whether the time limit ended it.
    timed_out: bool,
    /// Whether its sandbox went away or was restored under it, so that its end is not known.
    interrupted: bool,
}

/// Waits for the command's end; if that takes longer than `until`, the response begins and blanks come before the JSON.
pub(super) async fn answer(events: Events, tally: Tally, until: Instant) -> Response {
    let mut outcome = Box::pin(collect(events, tally));
    match tokio::time::timeout_at(until, &mut outcome).await {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(_) => {
            let mut response = drip(StatusCode::OK, outcome);
            super::uncached(&mut response);
            response
        }
    }
}

async fn collect(mut events: Events, mut tally: Tally) -> Bytes {
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    let exit = loop {
        match events.next().await {
            Some(ExecEvent::Stdout(bytes)) => stdout.push(&bytes),
            Some(ExecEvent::Stderr(bytes)) => stderr.push(&bytes),
            Some(ExecEvent::Exit(exit)) => {
                tally.exited(&exit);
                break Some(exit);
            }
            Some(ExecEvent::Lost(why)) => {
                stderr.note(&why);
                break None;
            }
            None => {
                stderr.note(NO_END);
                break None;
            }
        }
    };
    if exit.is_none() {
        tally.lost();
    }
    let told = exit.unwrap_or(ExecExit { code: -1, ..ExecExit::default() });
    to_bytes(&ExecResult {
        exit_code: told.code,
        stdout: String::from_utf8_lossy(&stdout.bytes),
        stderr: String::from_utf8_lossy(&stderr.bytes),
        output_truncated: told.output_truncated || stdout.truncated || stderr.truncated,
        timed_out: told.timed_out,
        interrupted: exit.is_none(),
    })
}

/// Output as far as it is kept. The agent keeps to the limit too, but nothing it says is relied on.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        let room = OUTPUT_LIMIT - self.bytes.len().min(OUTPUT_LIMIT);
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Adds a line of ours, also when the limit is used up.
    fn note(&mut self, why: &str) {
        if self.bytes.last().is_some_and(|byte| *byte != b'\n') {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(b"forkpoint: ");
        self.bytes.extend(why.bytes().take(4096));
        self.bytes.push(b'\n');
    }
}
