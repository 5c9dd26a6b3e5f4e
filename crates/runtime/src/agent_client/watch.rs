//! Watching files.

use forkpoint_protocol::{AgentFrame, Change, MAX_CHANGES, Request};

use super::error::unexpected;
use super::link::{self, Link};
use super::{AgentClient, AgentError};

/// Longest path taken from an agent: what the kernel takes, joined to a name.
const MAX_PATH: usize = 8192;

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// This happened, in this order.
    Changes(Vec<Change>),
    /// Changes were lost: more happened than was read in time.
    Overflow,
}

/// A watch. Dropping it ends it. What is not read in time is lost, and the loss told.
#[derive(Debug)]
pub struct WatchStream {
    link: Link,
    polled: bool,
    is_ended: bool,
}

impl AgentClient {
    /// Watches a file, or what is in a directory; with `recursive` also what lies deeper. Returns when changes from
    /// now on are told.
    pub async fn watch(&self, path: &[u8], recursive: bool) -> Result<WatchStream, AgentError> {
        let request = Request::Watch { path: path.to_vec(), recursive };
        let mut link = Link::open(self, &request).await?;
        // A large tree is looked through first.
        let frame = link.answer(self.deadlines.work).await?;
        match link::parse(&frame)? {
            AgentFrame::Watching { polled } => Ok(WatchStream { link, polled, is_ended: false }),
            frame => Err(unexpected("watch", &frame)),
        }
    }
}

impl WatchStream {
    /// Whether the agent looks again and again, since the kernel has no room for another watch.
    pub fn is_polled(&self) -> bool {
        self.polled
    }

    /// Next event; `None` when the watched directory is gone. Loses nothing when cancelled.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, AgentError> {
        if self.is_ended {
            return Ok(None);
        }
        let event = self.event().await;
        self.is_ended = !matches!(event, Ok(Some(_)));
        event
    }

    async fn event(&mut self) -> Result<Option<WatchEvent>, AgentError> {
        let frame = self.link.frame().await?;
        match link::parse(&frame)? {
            AgentFrame::Changes(changes) if (1..=MAX_CHANGES).contains(&changes.len()) => {
                let is_path = |path: &[u8]| path.first() == Some(&b'/') && path.len() <= MAX_PATH && !path.contains(&0);
                if changes.iter().all(|change| is_path(&change.path)) {
                    return Ok(Some(WatchEvent::Changes(changes)));
                }
                Err(AgentError::Protocol("a change without a usable path".into()))
            }
            AgentFrame::Changes(_) => Err(AgentError::Protocol("no changes, or more than may be".into())),
            AgentFrame::Overflow => Ok(Some(WatchEvent::Overflow)),
            AgentFrame::End { .. } => Ok(None),
            frame => Err(unexpected("watch", &frame)),
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.link.wire().shut_down();
    }
}
