//! What a WebSocket holds of the connection that it was made from.

use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

/// Kept for as long as the connection is used: a connection that became a WebSocket is none of HTTP's any more, but
/// still has its place among those allowed at once, and still has to end before the server does.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    /// The connection's place.
    #[allow(dead_code)] // held, not read
    pub(crate) place: Arc<OwnedSemaphorePermit>,
    /// Counts it among the connections that the server waits for.
    #[allow(dead_code)] // held, not read
    pub(crate) counted: TaskTrackerToken,
    /// Cancelled when the server is about to end.
    pub(crate) ending: CancellationToken,
}
