//! The terminal that this program runs on: its size, its raw mode, what is typed on it and shown on it.

use crate::commands::Failure;
use bytes::Bytes;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io::{self, Write as _},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Size when the terminal does not tell one: width, height.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// The largest side that a server takes.
const MAX_SIDE: u16 = 1000;
/// How long the last output may take to be shown.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// Undoes what a program may have left: colours, hidden cursor, mouse reports, bracketed paste.
const TIDY: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l";

/// Refuses unless input and output are a terminal.
pub(crate) fn require() -> Result<(), Failure> {
    if isatty(io::stdin()) && isatty(io::stdout()) {
        return Ok(());
    }
    let problem = "this needs a terminal for input and output; in a pipe, use `forkpoint sandbox exec` without -t";
    Err(Failure::Usage(problem.to_owned()))
}

/// Width and height.
pub(super) fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.min(MAX_SIDE), size.ws_row.min(MAX_SIDE)),
        _ => DEFAULT_SIZE,
    }
}

/// The terminal passes every key on as it is, until this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn begin() -> Result<Self, Failure> {
        require()?;
        let failed = |errno| Failure::io("set up the terminal")(io::Error::from(errno));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to be done when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// What is typed, read by a thread of its own; ends with the input.
pub(super) fn keyboard() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            match rustix::io::read(io::stdin(), &mut buffer[..]) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(len) if len > 0 => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..len])).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receiver
}

/// Shows output, by a thread of its own: a slow terminal must not keep keys from being sent.
#[derive(Debug)]
pub(super) struct Screen {
    sender: mpsc::Sender<Bytes>,
    done: oneshot::Receiver<()>,
}

impl Screen {
    pub(super) fn start() -> Self {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(16);
        let (ended, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut stdout = io::stdout().lock();
            while let Some(data) = receiver.blocking_recv() {
                if stdout.write_all(&data).and_then(|()| stdout.flush()).is_err() {
                    break;
                }
            }
            // Nobody listens after a timeout.
            let _ = ended.send(());
        });
        Self { sender, done }
    }

    /// Shows this after everything before it. False when the terminal is gone.
    pub(super) async fn show(&self, data: Bytes) -> bool {
        self.sender.send(data).await.is_ok()
    }

    /// Shows a line of our own.
    pub(super) async fn note(&self, text: &str) {
        self.show(format!("\r\n[forkpoint: {text}]\r\n").into()).await;
    }

    /// Waits until everything is shown. `tidy` undoes what the program inside may have set.
    pub(super) async fn finish(self, tidy: bool) {
        if tidy {
            self.show(Bytes::from_static(TIDY)).await;
        }
        drop(self.sender);
        let _ = tokio::time::timeout(LAST_OUTPUT, self.done).await;
    }
}
