//! A common bound on the memory that large bodies and answers take, however many come at once.

use super::error::{ApiError, ApiResult, Code};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::Extensions,
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All that bodies and answers may take together, in KiB.
const TOTAL_KIB: usize = 1 << 20;
/// What a request has without asking, in bytes.
pub(crate) const FREE: usize = 64 << 10;
/// How long a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The memory of all requests.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Semaphore>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOTAL_KIB)))
    }
}

/// What one request has taken: given back when its answer was sent, or its connection has ended.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    memory: Memory,
    taken: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Share {
    /// That of the request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(Memory::default()))
    }

    fn new(memory: Memory) -> Self {
        Self { memory, taken: Arc::default() }
    }

    /// Takes so many bytes more; refuses when there are none for a while.
    pub(crate) async fn take(&self, bytes: usize) -> ApiResult<()> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let permit = self.memory.0.clone().acquire_many_owned(wanted);
        let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, permit).await else {
            let message = "too many large bodies and answers are on their way at once; nothing was done, try again";
            return Err(ApiError::new(Code::Unavailable, message));
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *taken {
            Some(all) => all.merge(permit),
            None => *taken = Some(permit),
        }
        Ok(())
    }
}

/// Gives each request its share, and keeps it until the answer is sent.
pub(crate) async fn share(State(memory): State<Memory>, mut request: Request, next: Next) -> Response {
    let share = Share::new(memory);
    request.extensions_mut().insert(share.clone());
    next.run(request).await.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::new(Holding { body, _share: share }),
    })
}

struct Holding {
    body: Body,
    _share: Share,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
