//! The lines that come back from a launch: from the jail one line of JSON, from the agent `ready`.

use serde::{Deserialize, Serialize};

/// The agent's descriptor on which its configuration is.
pub const CONFIG_FD: i32 = 3;

/// The agent's descriptor on which it says [`READY`] once it listens; it closes it after that.
pub const REPORT_FD: i32 = 4;

/// What the agent writes, with a newline after it.
pub const READY: &str = "ready";

/// The longest line that is read, in bytes.
pub const MAX_LINE_BYTES: usize = 4096;

/// One line of the jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The sandbox is built; its first process is about to become the agent.
    Started {
        /// Process id on the host.
        pid: u32,
        /// Start time in clock ticks since boot, as in `/proc/<pid>/stat`.
        start_time: u64,
    },
    /// A step failed; nothing is left of the sandbox.
    Failed { error: StepError },
}

/// The step of a launch that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}{}", errno.map(|errno| format!(" (errno {errno})")).unwrap_or_default())]
pub struct StepError {
    /// The action, such as "mount overlay".
    pub step: String,
    /// The system's error number, where the system refused.
    pub errno: Option<i32>,
    /// What was wrong.
    pub message: String,
}

impl Line {
    /// The line with its newline, never longer than [`MAX_LINE_BYTES`] and so written to a pipe in one piece.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut line = self.clone();
        if let Self::Failed { error } = &mut line {
            // JSON spells one character with up to 12 bytes, the step is one of ours.
            error.message = error.message.chars().take(300).collect();
        }
        // Plain structs with string keys always serialize; a line that did not would be read as a broken report.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a line without its newline.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_documented_shape() {
        let started = Line::Started { pid: 7, start_time: 9 };
        assert_eq!(started.to_bytes(), b"{\"pid\":7,\"start_time\":9}\n");
        let failed =
            Line::Failed { error: StepError { step: "mount overlay".into(), errno: Some(22), message: "no".into() } };
        let bytes = failed.to_bytes();
        assert_eq!(bytes, b"{\"error\":{\"step\":\"mount overlay\",\"errno\":22,\"message\":\"no\"}}\n");
        assert_eq!(Line::parse(&bytes), Some(failed));
        assert_eq!(Line::parse(b"ready"), None);
    }

    #[test]
    fn a_long_message_is_cut_so_that_the_line_stays_in_one_piece() {
        let error = StepError { step: "s".into(), errno: None, message: "\u{1}".repeat(100_000) };
        assert!(Line::Failed { error }.to_bytes().len() <= MAX_LINE_BYTES);
    }
}
