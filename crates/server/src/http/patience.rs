//! Answers that take long, for clients that give up on silence and then send the request again.
//!
//! A quick answer has its proper status. After some seconds the response begins with 2xx and a blank now and
//! then, which is legal before JSON, until the result is there; an error that comes so late is in the body.

use super::error::{ApiError, ApiResult};
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;
use std::{convert::Infallible, future::Future, pin::Pin, time::Duration};

/// How long a response that has begun may be silent.
pub(crate) const DRIP_EVERY: Duration = Duration::from_secs(10);

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    with_body(status, Body::from(to_bytes(value)))
}

/// Answers with what `work` gives, with its proper status if it ends within `quiet`.
pub(crate) async fn patiently<T: Serialize + Send + 'static>(
    quiet: Duration,
    status: StatusCode,
    work: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> ApiResult {
    let mut work = Box::pin(work);
    match tokio::time::timeout(quiet, &mut work).await {
        Ok(outcome) => Ok(json(status, &outcome?)),
        Err(_) => Ok(drip(status, async move {
            match work.await {
                Ok(value) => to_bytes(&value),
                Err(error) => late(&error),
            }
        })),
    }
}

/// An answer that begins now and drips blanks until `body` is there.
pub(crate) fn drip(status: StatusCode, body: impl Future<Output = Bytes> + Send + 'static) -> Response {
    let body: Pin<Box<dyn Future<Output = Bytes> + Send>> = Box::pin(body);
    let pieces = stream::unfold(Some(body), |waiting| async {
        let mut body = waiting?;
        tokio::select! {
            bytes = &mut body => Some((bytes, None)),
            () = tokio::time::sleep(DRIP_EVERY) => Some((Bytes::from_static(b" "), Some(body))),
        }
    });
    with_body(status, Body::from_stream(pieces.map(Ok::<_, Infallible>)))
}

fn late(error: &ApiError) -> Bytes {
    let mut body = error.envelope(None);
    // Clients that look for a flag must not find it missing and think it true.
    body["success"] = json!(false);
    body["error"]["status"] = error.code.parts().0.as_u16().into();
    to_bytes(&body)
}

fn with_body(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Our own answers always serialise: their keys are text and their numbers finite.
pub(crate) fn to_bytes(value: &impl Serialize) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes.into(),
        Err(error) => {
            tracing::error!(%error, "an answer did not serialise");
            Bytes::from_static(b"{}")
        }
    }
}
