//! Watching files inside a running sandbox.

use futures::stream::BoxStream;
use std::fmt;

/// A watch. Dropping it ends it.
pub struct Watch {
    /// Whether the sandbox is looked at again and again, since its kernel has no room for another watch: what comes
    /// and goes between two looks is not seen.
    pub polled: bool,
    /// What happens, ending with `Gone` or `Lost`.
    pub events: BoxStream<'static, WatchEvent>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("polled", &self.polled).finish_non_exhaustive()
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// This happened.
    Changed {
        /// Absolute path; bytes that are not UTF-8 are replaced.
        path: String,
        /// What.
        kind: ChangeKind,
    },
    /// Changes were lost, since they were read too slowly.
    Overflow,
    /// The watched directory is gone; nothing follows.
    Gone,
    /// The sandbox went away or was restored; nothing follows.
    Lost(String),
}

/// What happened to a file. A rename is a removal and a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there now.
    Created,
    /// Its content was written to.
    Modified,
    /// Mode, owner, times or link count changed.
    Attributes,
    /// It is no longer there.
    Removed,
}
