//! Files as plain bytes, streamed in constant memory.

use super::{EntryView, parse_mode};
use crate::http::{
    App,
    body::BODY_PIECE_TIMEOUT,
    error::{ApiError, ApiResult, Code},
    extract::{Id, Query},
    patience::json,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use forkpoint_domain::{ids::SandboxId, path::SandboxPath};
use forkpoint_engine::{Caller, Pace, ports::guest::ByteStream};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::io;

/// Which bytes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// From here, at most so many.
    From(u64, Option<u64>),
    /// The last so many.
    Last(u64),
}

/// Downloads a file
///
/// Its bytes as they are. One range may be asked for.
#[utoipa::path(get, path = "/sandbox/{id}/files/raw", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"),
           ("path" = String, Query, description = "Absolute path of a regular file"),
           ("Range" = Option<String>, Header, description = "`bytes=first-last`, `bytes=first-` or `bytes=-count`")),
    responses((status = 200, description = "All of it", body = Vec<u8>, content_type = "application/octet-stream"),
              (status = 206, description = "The range of it", body = Vec<u8>, content_type = "application/octet-stream"),
              (status = 416, description = "The range begins after its end", body = crate::http::error::ErrorEnvelope)))]
pub(in super::super) async fn download_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.required("path")?)?;
    let range = headers.get(header::RANGE).and_then(parse_range);
    let open = async |offset, length| app.platform.read_file(&caller, id, &path, offset, length).await;
    let (mut offset, length) = match range {
        Some(Range::From(first, length)) => (first, length),
        _ => (0, None),
    };
    let mut file = open(offset, length).await?;
    let size = file.entry.size;
    if let Some(Range::Last(count)) = range
        && count < size
    {
        offset = size - count;
        file = open(offset, None).await?;
    }
    // Files of the kernel say 0 or a page and hold something else.
    let knows_its_size = size > 0 && !["/proc/", "/sys/"].iter().any(|kernel| path.as_str().starts_with(kernel));
    if range.is_some() && knows_its_size {
        if offset >= size || range == Some(Range::Last(0)) {
            let mut response = ApiError::new(
                Code::RangeNotSatisfiable,
                format!("the file has {size} bytes; the range begins after them"),
            )
            .into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, header_value(format!("bytes */{size}")));
            return Ok(response);
        }
        let count = length.unwrap_or(u64::MAX).min(size - offset);
        let mut response = bytes(exactly(file.content, count));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, count.into());
        headers.insert(header::CONTENT_RANGE, header_value(format!("bytes {offset}-{}/{size}", offset + count - 1)));
        return Ok(response);
    }
    if knows_its_size {
        let mut response = bytes(exactly(file.content, size));
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        return Ok(response);
    }
    if offset > 0 || length.is_some() {
        file = open(0, None).await?;
    }
    Ok(bytes(file.content))
}

/// Uploads a file
///
/// The body is its content, of any size. It is written beside and moved into place: whole or not at all. Parent
/// directories are made.
#[utoipa::path(put, path = "/sandbox/{id}/files/raw", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"),
           ("path" = String, Query, description = "Absolute path"),
           ("mode" = Option<String>, Query, description = "Permission bits in octal, e.g. `0755`")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "Its bytes"),
    responses((status = 200, description = "It is written", body = EntryView)))]
pub(in super::super) async fn upload_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    query: Query,
    body: Body,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.required("path")?)?;
    let mode = query.get(&["mode"]).map(|mode| parse_mode("mode", mode)).transpose()?;
    let entry = app.platform.write_file(&caller, id, &path, mode, incoming(body)).await?;
    Ok(json(StatusCode::OK, &EntryView::from(entry)))
}

/// A body as it comes; one that stops coming is an error, so that nothing is made of it.
pub(in super::super) fn incoming(body: Body) -> ByteStream {
    let pieces = body.into_data_stream().map_err(io::Error::other);
    let late = |problem: String| Err(io::Error::new(io::ErrorKind::TimedOut, problem));
    stream::unfold(Some((pieces, Pace::begin(), 0)), move |state| async move {
        let (mut pieces, pace, size) = state?;
        match tokio::time::timeout(BODY_PIECE_TIMEOUT, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(_))) if pace.is_too_slow(size) => {
                Some((late(format!("the body comes slower than {} bytes a second", Pace::LEAST)), None))
            }
            Ok(Some(Ok(piece))) => {
                let size = size + piece.len() as u64;
                Some((Ok(piece), Some((pieces, pace, size))))
            }
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(_) => Some((late("the body did not come".into()), None)),
        }
    })
    .boxed()
}

/// At most `count` bytes of `content`: the file may grow while it is read. One that shrinks breaks the answer off.
fn exactly(content: ByteStream, count: u64) -> ByteStream {
    stream::unfold((content, count), |(mut content, left)| async move {
        if left == 0 {
            return None;
        }
        let piece = match content.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some((Err(error), (content, 0))),
        };
        let keep = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let piece: Bytes = piece.slice(..keep);
        Some((Ok(piece), (content, left - keep as u64)))
    })
    .boxed()
}

fn bytes(content: ByteStream) -> Response {
    let mut response = Response::new(Body::from_stream(content));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Digits and punctuation only.
fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// One range of bytes; what is none, or several, is answered with the whole file, as the standard allows.
fn parse_range(value: &HeaderValue) -> Option<Range> {
    let (first, last) = value.to_str().ok()?.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (first.trim(), last.trim()) {
        ("", count) => Some(Range::Last(number(count)?)),
        (first, "") => Some(Range::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            let length = last.checked_sub(first)?.saturating_add(1);
            Some(Range::From(first, Some(length)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_ignored() {
        for (text, expected) in [
            ("bytes=0-0", Some(Range::From(0, Some(1)))),
            ("bytes=5-9", Some(Range::From(5, Some(5)))),
            ("bytes=5-", Some(Range::From(5, None))),
            ("bytes=-3", Some(Range::Last(3))),
            ("bytes=9-5", None),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("lines=1-2", None),
            ("bytes=0-18446744073709551615", Some(Range::From(0, Some(u64::MAX)))),
            ("bytes=+1-2", None),
        ] {
            assert_eq!(parse_range(&HeaderValue::from_str(text).unwrap()), expected, "{text}");
        }
    }
}
