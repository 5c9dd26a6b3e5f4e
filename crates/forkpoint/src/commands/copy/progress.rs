//! Shows how far a copy is, on standard error, when people watch.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal as _, Write as _};

/// A bar that counts bytes; hidden when standard error is not a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar; `total` in bytes, where it is known.
    pub(crate) fn start(total: Option<u64>) -> Self {
        let target =
            if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        let style = if total.is_some() {
            "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
        } else {
            "{spinner} {binary_bytes} {binary_bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Counts bytes that have moved.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar and, if people watch, says what was done.
    pub(crate) fn finish(&self, files: u64) {
        let bytes = self.0.position();
        let watched = !self.0.is_hidden();
        self.0.finish_and_clear();
        if watched {
            // The copy is done; a closed standard error does not undo it.
            let _ = writeln!(io::stderr().lock(), "{files} files, {}", crate::output::human_bytes(bytes));
        }
    }
}
