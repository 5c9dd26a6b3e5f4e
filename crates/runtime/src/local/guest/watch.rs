//! Watching files, in the port's words.

use super::{GONE, Running};
use crate::agent_client::{self as agent, Change, WatchStream};
use forkpoint_engine::ports::watch::{ChangeKind, Watch, WatchEvent};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use std::{collections::VecDeque, sync::Arc};

/// A watch that ends with its sandbox.
pub(super) fn watch(stream: WatchStream, running: Arc<Running>) -> Watch {
    Watch { polled: stream.is_polled(), events: events(stream, running) }
}

struct State {
    stream: WatchStream,
    running: Arc<Running>,
    ready: VecDeque<WatchEvent>,
}

fn events(stream: WatchStream, running: Arc<Running>) -> BoxStream<'static, WatchEvent> {
    let state = State { stream, running, ready: VecDeque::new() };
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        if let Some(event) = state.ready.pop_front() {
            return Some((event, Some(state)));
        }
        let next = tokio::select! {
            biased;
            next = state.stream.next() => next,
            () = state.running.gone.cancelled() => return Some((WatchEvent::Lost(GONE.into()), None)),
        };
        match next {
            Ok(Some(agent::WatchEvent::Overflow)) => Some((WatchEvent::Overflow, Some(state))),
            Ok(Some(agent::WatchEvent::Changes(changes))) => {
                state.ready.extend(changes.into_iter().map(changed));
                let first = state.ready.pop_front()?;
                Some((first, Some(state)))
            }
            Ok(None) => Some((WatchEvent::Gone, None)),
            Err(error) => Some((WatchEvent::Lost(error.to_string()), None)),
        }
    })
    .boxed()
}

fn changed(change: Change) -> WatchEvent {
    let kind = match change.kind {
        agent::ChangeKind::Created => ChangeKind::Created,
        agent::ChangeKind::Modified => ChangeKind::Modified,
        agent::ChangeKind::Attributes => ChangeKind::Attributes,
        agent::ChangeKind::Removed => ChangeKind::Removed,
    };
    WatchEvent::Changed { path: String::from_utf8_lossy(&change.path).into_owned(), kind }
}
