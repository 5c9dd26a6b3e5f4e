//! One WebSocket at a terminal. Every wait on the client and every buffer for it is bounded.

use super::TerminalView;
use crate::http::Hold;
use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket},
};
use forkpoint_engine::{
    operations::terminals::check_size,
    ports::terminal::{Attached, TerminalEvent, TerminalInput, TerminalSize},
};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{BoxStream, SplitSink, SplitStream},
};
use serde::{Deserialize, Serialize};
use std::{sync::Mutex, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often a client is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client from which nothing came for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a client may take for one message of output.
const SEND_DEADLINE: Duration = Duration::from_secs(60);
/// How long input may wait for its program; shorter than `SILENCE`, since nothing else is read meanwhile.
const INPUT_DEADLINE: Duration = Duration::from_secs(30);
/// How long the end of a connection may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// The most bytes of a reason in a close frame.
const MAX_REASON: usize = 120;

/// The codes of RFC 6455 and its registry that are used here.
mod code {
    pub(super) const NORMAL: u16 = 1000;
    pub(super) const AWAY: u16 = 1001;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const RESTART: u16 = 1012;
    pub(super) const TRY_LATER: u16 = 1013;
}

/// What the client may say in text.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Said {
    Resize { cols: u16, rows: u16 },
    Signal { signal: i32 },
    Eof,
}

/// What the client is told in text.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    Attached { terminal: &'a TerminalView, offset: u64 },
    Skipped { offset: u64 },
    Error { error: &'a str },
    Exit { code: i32, timed_out: bool },
    Closed { reason: &'a str },
}

impl Told<'_> {
    fn message(&self) -> Message {
        // Our own messages always serialise: their keys are text and their numbers whole.
        Message::text(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Why a connection ends, if the client is to be told.
struct Closing {
    code: u16,
    reason: String,
}

type Sink = SplitSink<WebSocket, Message>;

/// Serves a client until it goes away or there is nothing more to tell it. The terminal goes on.
pub(super) async fn serve(socket: WebSocket, attached: Attached, view: TerminalView, hold: Option<Hold>) {
    let (mut sink, mut source) = socket.split();
    let heard = Mutex::new(Instant::now());
    let (replies, to_send) = mpsc::channel(8);
    let ending = hold.as_ref().map(|hold| hold.ending.clone()).unwrap_or_default();
    let first = Told::Attached { terminal: &view, offset: attached.position }.message();
    if !send(&mut sink, first).await {
        return;
    }
    let closing = tokio::select! {
        closing = outward(&mut sink, attached.events, to_send, &heard, &ending) => closing,
        closing = inward(&mut source, &*attached.input, replies, &heard) => closing,
    };
    if let Some(Closing { code, mut reason }) = closing {
        let cut = (0..=MAX_REASON.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(cut);
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // A connection closed with unread input is reset, and what was sent last may be lost.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, async {
            if sink.send(close).await.is_ok() {
                while source.next().await.is_some_and(|message| message.is_ok()) {}
            }
        })
        .await;
    } else {
        // Also sends the answer to the client's own close.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, sink.flush()).await;
    }
    drop(hold);
}

async fn send(sink: &mut Sink, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_DEADLINE, sink.send(message)).await, Ok(Ok(())))
}

/// From the terminal to the client.
async fn outward(
    sink: &mut Sink,
    mut events: BoxStream<'static, TerminalEvent>,
    mut replies: mpsc::Receiver<String>,
    heard: &Mutex<Instant>,
    ending: &CancellationToken,
) -> Option<Closing> {
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pings.reset();
    loop {
        let message = tokio::select! {
            event = events.next() => match event {
                Some(TerminalEvent::Output(data)) => Message::Binary(data),
                Some(TerminalEvent::Skipped(offset)) => Told::Skipped { offset }.message(),
                Some(TerminalEvent::Exit(exit)) => {
                    let told = Told::Exit { code: exit.code, timed_out: exit.timed_out };
                    return finish(sink, &told, code::NORMAL, format!("exit {}", exit.code)).await;
                }
                Some(TerminalEvent::Lost(why)) => {
                    return finish(sink, &Told::Closed { reason: &why }, code::AWAY, why.clone()).await;
                }
                None => {
                    let why = "the sandbox ended the connection";
                    return finish(sink, &Told::Closed { reason: why }, code::AWAY, why.into()).await;
                }
            },
            Some(error) = replies.recv() => Told::Error { error: &error }.message(),
            _ = pings.tick() => {
                if heard.lock().is_ok_and(|heard| heard.elapsed() > SILENCE) {
                    return None;
                }
                Message::Ping(Bytes::new())
            }
            () = ending.cancelled() => {
                let why = "the server ends; the terminal goes on, connect again";
                return finish(sink, &Told::Closed { reason: why }, code::RESTART, why.into()).await;
            }
        };
        if !send(sink, message).await {
            return None;
        }
    }
}

async fn finish(sink: &mut Sink, told: &Told<'_>, code: u16, reason: String) -> Option<Closing> {
    let sent = tokio::time::timeout(CLOSE_DEADLINE, sink.send(told.message())).await;
    matches!(sent, Ok(Ok(()))).then_some(Closing { code, reason })
}

/// From the client to the terminal.
async fn inward(
    source: &mut SplitStream<WebSocket>,
    input: &dyn TerminalInput,
    replies: mpsc::Sender<String>,
    heard: &Mutex<Instant>,
) -> Option<Closing> {
    while let Some(message) = source.next().await {
        if let Ok(mut heard) = heard.lock() {
            *heard = Instant::now();
        }
        match message {
            Ok(Message::Binary(data)) => {
                if tokio::time::timeout(INPUT_DEADLINE, input.write(data)).await.is_err() {
                    let reason = "the program takes no input".to_owned();
                    return Some(Closing { code: code::TRY_LATER, reason });
                }
                if let Ok(mut heard) = heard.lock() {
                    *heard = Instant::now();
                }
            }
            Ok(Message::Text(text)) => {
                if let Err(problem) = obey(&text, input).await {
                    // Who does not read its errors need not get all of them.
                    let _ = replies.try_send(problem);
                }
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Close(_)) => return None,
            Err(error) => {
                let error = error.to_string();
                tracing::debug!(error, "a terminal's client broke the protocol or off");
                let too_big = error.contains("too long") || error.contains("too big");
                return too_big.then(|| Closing {
                    code: code::TOO_BIG,
                    reason: format!("a message has at most {} bytes", super::MAX_MESSAGE_BYTES),
                });
            }
        }
    }
    None
}

/// Does what a text message says. Errors of the terminal itself are told as events.
async fn obey(text: &Utf8Bytes, input: &dyn TerminalInput) -> Result<(), String> {
    let said = serde_json::from_str(text).map_err(|error| {
        format!(
            "text messages are {{\"type\":\"resize\",\"cols\",\"rows\"}}, {{\"type\":\"signal\",\"signal\"}} or \
             {{\"type\":\"eof\"}}; input is binary ({error})"
        )
    })?;
    match said {
        Said::Resize { cols, rows } => {
            let size = TerminalSize { rows, cols };
            check_size(Some(size)).map_err(|error| error.to_string())?;
            let _ = input.resize(size).await;
        }
        Said::Signal { signal } if (1..=31).contains(&signal) => drop(input.signal(signal).await),
        Said::Signal { .. } => return Err("signal: must be a signal's number between 1 and 31".to_owned()),
        Said::Eof => drop(input.end().await),
    }
    Ok(())
}
