//! A terminal inside shown on the one outside, across lost connections.

use super::{
    detach::{Keys, Typed},
    screen::{self, Raw, Screen},
};
use crate::{
    client::{Client, ClientError, TerminalSocket},
    commands::Failure,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde::Deserialize;
use serde_json::json;
use std::{io::Write as _, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

/// How long connecting again is tried.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pauses between tries, growing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long Ctrl-P is held back when no other key follows.
const HELD: Duration = Duration::from_millis(400);
/// A server pings every 20 seconds; one that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(70);
const CTRL_C: u8 = 3;

/// Whether the terminal is this program's own, to be forgotten when its command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Yes,
    No,
}

/// What a server tells in text.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told {
    Attached {
        offset: u64,
    },
    Skipped {
        offset: u64,
    },
    Exit {
        code: i64,
    },
    Closed {
        reason: String,
    },
    #[serde(other)]
    Unknown,
}

/// Why a connection is not used any more.
enum End {
    Exit(u8),
    Detached,
    /// The sandbox went away or was restored.
    Closed(String),
    /// To be made anew.
    Lost,
}

/// The outside, across connections.
struct Outside {
    keyboard: mpsc::Receiver<Bytes>,
    keys: Keys,
    screen: Screen,
    resized: Signal,
    hangup: Signal,
    terminate: Signal,
    /// Up to where in the terminal's output everything is shown.
    position: Option<u64>,
}

/// Shows a terminal until its command ends or it is left.
pub(crate) async fn interact(client: &Client, sandbox: &str, terminal: &str, own: Own) -> Result<u8, Failure> {
    // Refusals come before the screen is touched.
    screen::require()?;
    let socket = client.attach(sandbox, terminal, None, screen::size()).await?;
    let listen = |kind| signal(kind).map_err(Failure::io("listen to signals"));
    let mut outside = Outside {
        resized: listen(SignalKind::window_change())?,
        hangup: listen(SignalKind::hangup())?,
        terminate: listen(SignalKind::terminate())?,
        keyboard: screen::keyboard(),
        keys: Keys::default(),
        screen: Screen::start(),
        position: None,
    };
    let raw = Raw::begin()?;
    let end = outside.follow(client, sandbox, terminal, socket).await;
    outside.screen.finish(!matches!(end, Ok(End::Exit(_)))).await;
    drop(raw);
    match end? {
        End::Exit(code) => {
            if own == Own::Yes {
                let path = format!("/sandbox/{sandbox}/terminals/{terminal}");
                let forget = client.delete(&path);
                // It would be forgotten some time anyway.
                let _ = tokio::time::timeout(Duration::from_secs(2), forget).await;
            }
            Ok(code)
        }
        End::Detached => {
            // Nothing is left to tell it to when standard error is closed.
            let _ = writeln!(
                std::io::stderr().lock(),
                "\ndetached; it goes on: forkpoint shell {sandbox} --attach {terminal}"
            );
            Ok(0)
        }
        End::Closed(reason) => Err(Failure::Other(format!("the terminal was closed: {reason}"))),
        End::Lost => Err(Failure::Other("the connection was lost".to_owned())),
    }
}

impl Outside {
    async fn follow(
        &mut self,
        client: &Client,
        sandbox: &str,
        terminal: &str,
        first: TerminalSocket,
    ) -> Result<End, Failure> {
        let mut socket = first;
        loop {
            match self.converse(socket).await {
                End::Lost => {}
                end => return Ok(end),
            }
            self.screen.note("the connection was lost; connecting again (Ctrl-C gives up)").await;
            socket = match self.reconnect(client, sandbox, terminal).await? {
                Some(socket) => socket,
                None => return Ok(End::Detached),
            };
            self.screen.note("connected again").await;
        }
    }

    /// Tries until it works; `None` when it is given up.
    async fn reconnect(
        &mut self,
        client: &Client,
        sandbox: &str,
        terminal: &str,
    ) -> Result<Option<TerminalSocket>, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        loop {
            let again = Instant::now() + pause;
            let error = match client.attach(sandbox, terminal, self.position, screen::size()).await {
                Ok(socket) => return Ok(Some(socket)),
                Err(error) => error,
            };
            if !is_passing(&error) || Instant::now() > until {
                return Err(error.into());
            }
            loop {
                tokio::select! {
                    typed = self.keyboard.recv() => {
                        let gives_up = typed.is_none_or(|typed| {
                            typed.contains(&CTRL_C) || matches!(self.keys.push(&typed), Typed::Detach(_))
                        });
                        if gives_up {
                            return Ok(None);
                        }
                    }
                    _ = self.hangup.recv() => return Ok(None),
                    _ = self.terminate.recv() => return Ok(None),
                    () = tokio::time::sleep_until(again) => break,
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn converse(&mut self, socket: TerminalSocket) -> End {
        let (mut sink, mut source) = socket.split();
        let Self { keyboard, keys, screen, resized, hangup, terminate, position } = self;
        let sending = async {
            loop {
                let sent = tokio::select! {
                    typed = keyboard.recv() => match typed.map(|typed| keys.push(&typed)) {
                        Some(Typed::Send(bytes)) => send(&mut sink, bytes).await,
                        Some(Typed::Detach(bytes)) => {
                            send(&mut sink, bytes).await;
                            return End::Detached;
                        }
                        None => return End::Detached,
                    },
                    () = tokio::time::sleep(HELD), if keys.holds() => {
                        send(&mut sink, keys.release().into_iter().collect()).await
                    }
                    _ = resized.recv() => {
                        let (cols, rows) = screen::size();
                        let text = json!({ "type": "resize", "cols": cols, "rows": rows }).to_string();
                        sink.send(Message::text(text)).await.is_ok()
                    }
                    _ = hangup.recv() => return End::Detached,
                    _ = terminate.recv() => return End::Detached,
                };
                if !sent {
                    return End::Lost;
                }
            }
        };
        let receiving = async {
            loop {
                match tokio::time::timeout(SILENCE, source.next()).await {
                    Ok(Some(Ok(Message::Binary(data)))) => {
                        *position = position.map(|at| at + data.len() as u64);
                        if !screen.show(data).await {
                            return End::Detached;
                        }
                    }
                    Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text).unwrap_or(Told::Unknown) {
                        Told::Attached { offset } | Told::Skipped { offset } => *position = Some(offset),
                        Told::Exit { code } => return End::Exit(u8::try_from(code).unwrap_or(255)),
                        // A server that ends says so by the code of its close frame too.
                        Told::Closed { reason } => match source.next().await {
                            Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1012 => return End::Lost,
                            _ => return End::Closed(reason),
                        },
                        Told::Unknown => {}
                    },
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(_)) | None) | Err(_) => return End::Lost,
                }
            }
        };
        let end = tokio::select! {
            end = sending => end,
            end = receiving => end,
        };
        if matches!(end, End::Detached) {
            let _ = tokio::time::timeout(Duration::from_secs(1), sink.close()).await;
        }
        end
    }
}

async fn send(sink: &mut SplitSink<TerminalSocket, Message>, bytes: Vec<u8>) -> bool {
    bytes.is_empty() || sink.send(Message::binary(bytes)).await.is_ok()
}

/// Whether trying again can help.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Api(refusal) => matches!(refusal.status, 429 | 502..=504),
        ClientError::Unexpected { .. } | ClientError::Settings(_) => false,
    }
}
