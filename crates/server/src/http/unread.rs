//! Reads what a refused request still sends, within bounds: else the connection ends under its sender, who then sees
//! that instead of the answer.

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

/// How much is read, in bytes, and for how long. A sender of more has to bear a broken connection.
const MOST: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Sees to the body of each request.
pub(crate) async fn take_up(request: Request, next: Next) -> Response {
    next.run(request.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::new(Watched(Some(body))),
    }))
    .await
}

/// A body whose rest is read when it is dropped; `None` at its end.
struct Watched(Option<Body>);

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let worth_it = |body: &Body| !body.is_end_stream() && body.size_hint().lower() <= MOST;
        if let (Some(body), Ok(runtime)) = (self.0.take().filter(worth_it), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(PATIENCE, read(body)));
        }
    }
}

async fn read(mut body: Body) {
    let mut left = MOST;
    while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) else { return };
        left = rest;
    }
}
