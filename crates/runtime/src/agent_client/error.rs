//! Why a call to an agent failed.

use std::io;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, CodecError, ErrorKind};

/// Longest message taken from an agent, in characters.
const MAX_MESSAGE: usize = 1000;

/// Why a call to an agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent cannot be reached or the connection broke; whether the request had an effect is
    /// not known. An agent that does not know the token closes the connection and looks the same.
    #[error("{during}: {source}")]
    Lost {
        /// What was being done.
        during: &'static str,
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {0:?}")]
    Deadline(Duration),
    /// The agent sent what does not belong to the request. Its sandbox is not to be trusted.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    /// The agent refused or could not do what was asked. Kind and text are the sandbox's word;
    /// control characters are replaced and the length is bounded.
    #[error("{message}")]
    Agent { kind: ErrorKind, message: String },
    /// The content to be written failed to come.
    #[error("content to write: {0}")]
    Source(#[source] io::Error),
    /// The request is too large for a frame and was not sent.
    #[error("request: {0}")]
    TooLarge(#[source] CodecError),
}

impl AgentError {
    /// The agent's reason, where it gave one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            AgentError::Agent { kind, .. } => Some(*kind),
            AgentError::TooLarge(_) => Some(ErrorKind::TooLarge),
            _ => None,
        }
    }

    /// Whether the agent may be gone, rather than having refused.
    pub fn is_lost(&self) -> bool {
        matches!(self, AgentError::Lost { .. } | AgentError::Deadline(_))
    }
}

pub(super) fn lost(during: &'static str) -> impl Fn(io::Error) -> AgentError {
    move |source| AgentError::Lost { during, source }
}

/// The error in an agent's frame, or that the frame is out of place.
pub(super) fn unexpected(request: &str, frame: &AgentFrame<'_>) -> AgentError {
    match frame {
        AgentFrame::Error { kind, message } => AgentError::Agent { kind: *kind, message: readable(message) },
        frame => {
            let name = format!("{frame:?}");
            let name = name.split(['(', ' ']).next().unwrap_or_default();
            AgentError::Protocol(format!("{name} in answer to {request}"))
        }
    }
}

fn readable(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
