//! An S3 endpoint in memory that fails, stalls, lies and truncates as it is told.

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use jiff::Timestamp;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The largest object that is taken.
const MAX_OBJECT: usize = 256 << 20;
/// The name of the one bucket.
pub(crate) const BUCKET: &str = "torture";

/// Of 1,000 requests, how many meet what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// An error of the server without effect.
    pub(crate) fail: u32,
    /// Done, and answered with an error.
    pub(crate) forget: u32,
    /// A pause of some hundred milliseconds.
    pub(crate) stall: u32,
    /// A body that breaks off.
    pub(crate) truncate: u32,
    /// A body with a flipped bit.
    pub(crate) lie: u32,
    /// "There is no such object", of one that is there.
    pub(crate) deny: u32,
    /// Every write: no room.
    pub(crate) full: bool,
    /// Every request: an error of the server.
    pub(crate) down: bool,
}

#[derive(Debug)]
struct Inner {
    objects: Mutex<BTreeMap<String, (Bytes, Timestamp)>>,
    faults: Mutex<Faults>,
    random: Mutex<StdRng>,
    met: AtomicU64,
}

/// A running endpoint; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    inner: Arc<Inner>,
    pub(crate) url: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Listens on a free port of this machine.
    pub(crate) async fn start(seed: u64) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner {
            objects: Mutex::default(),
            faults: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            met: AtomicU64::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("listen for the object store")?;
        let url = format!("http://{}", listener.local_addr().context("read the object store's address")?);
        let router = Router::new().fallback(serve).with_state(inner.clone());
        let serving = tokio::spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { inner, url, serving })
    }

    pub(crate) fn set(&self, faults: Faults) {
        *locked(&self.inner.faults) = faults;
    }

    /// How many requests have met a fault.
    pub(crate) fn met(&self) -> u64 {
        self.inner.met.load(Ordering::Relaxed)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        locked(&self.inner.objects).keys().cloned().collect()
    }

    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        locked(&self.inner.objects).get(key).map(|(bytes, _)| bytes.to_vec())
    }

    /// Replaces what lies under a key, or removes it, and leaves its time as it was.
    pub(crate) fn replace(&self, key: &str, bytes: Option<Vec<u8>>) {
        let mut objects = locked(&self.inner.objects);
        match bytes {
            Some(bytes) => {
                let time = objects.get(key).map_or_else(Timestamp::now, |(_, time)| *time);
                objects.insert(key.to_owned(), (bytes.into(), time));
            }
            None => drop(objects.remove(key)),
        }
    }
}

impl Inner {
    fn hit(&self, per_mille: u32) -> bool {
        let hit = locked(&self.random).random_range(0..1000) < per_mille;
        self.met.fetch_add(u64::from(hit), Ordering::Relaxed);
        hit
    }

    fn below(&self, bound: usize) -> usize {
        locked(&self.random).random_range(0..bound.max(1))
    }
}

async fn serve(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let faults = *locked(&inner.faults);
    if inner.hit(faults.stall) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if inner.hit(if faults.down { 1000 } else { faults.fail }) {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let (parts, body) = request.into_parts();
    let Some(key) = parts.uri.path().strip_prefix(&format!("/{BUCKET}")) else {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    let key = key.trim_start_matches('/').to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let Ok(body) = axum::body::to_bytes(body, MAX_OBJECT).await else {
        return error(StatusCode::BAD_REQUEST, "IncompleteBody");
    };
    let answer = match parts.method {
        Method::PUT if faults.full && inner.hit(1000) => {
            return error(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage");
        }
        Method::PUT => inner.put(key, body, &parts.headers),
        Method::GET if key.is_empty() => inner.list(&query),
        Method::GET if inner.hit(faults.deny) => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        Method::GET => inner.get(&key, &parts.headers, faults),
        Method::POST => inner.delete_many(&body),
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    };
    if parts.method != Method::GET && inner.hit(faults.forget) {
        return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    }
    answer
}

impl Inner {
    fn put(&self, key: String, body: Bytes, headers: &HeaderMap) -> Response {
        let mut objects = locked(&self.objects);
        if headers.contains_key(header::IF_NONE_MATCH) && objects.contains_key(&key) {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        objects.insert(key, (body, Timestamp::now()));
        (StatusCode::OK, [(header::ETAG, "\"e\"")]).into_response()
    }

    fn get(&self, key: &str, headers: &HeaderMap, faults: Faults) -> Response {
        let Some((bytes, time)) = locked(&self.objects).get(key).cloned() else {
            return error(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let all = bytes.len();
        let range =
            headers.get(header::RANGE).and_then(|range| range.to_str().ok()).map(|range| read_range(range, all));
        let (status, start, end) = match range {
            None => (StatusCode::OK, 0, all),
            Some(Some((start, end))) => (StatusCode::PARTIAL_CONTENT, start, end),
            Some(None) => return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
        };
        let mut body = bytes[start..end].to_vec();
        let length = body.len();
        if length > 0 && self.hit(faults.lie) {
            body[self.below(length)] ^= 1 << self.below(8);
        }
        let body = if length > 0 && self.hit(faults.truncate) {
            body.truncate(self.below(length));
            let broken = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            Body::from_stream(futures::stream::iter([Ok(Bytes::from(body)), broken]))
        } else {
            Body::from(body)
        };
        let headers = [
            (header::ETAG, "\"e\"".to_owned()),
            (header::LAST_MODIFIED, time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::CONTENT_RANGE, format!("bytes {start}-{}/{all}", end.saturating_sub(1))),
        ];
        (status, headers, body).into_response()
    }

    fn list(&self, query: &str) -> Response {
        let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
        let prefix = prefix.replace("%2F", "/").replace("%2f", "/");
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>");
        for (key, (bytes, time)) in locked(&self.objects).iter().filter(|(key, _)| key.starts_with(&prefix)) {
            // Keys of the vault need no escaping. Writing to a String does not fail.
            let _ = write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>{time:.3}</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                bytes.len()
            );
        }
        text.push_str("<IsTruncated>false</IsTruncated></ListBucketResult>");
        ([(header::CONTENT_TYPE, "application/xml")], text).into_response()
    }

    /// The request that the client's library makes for every deletion.
    fn delete_many(&self, body: &[u8]) -> Response {
        let text = String::from_utf8_lossy(body);
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        let mut answer = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeleteResult>");
        for (key, _) in keys {
            locked(&self.objects).remove(key);
            let _ = write!(answer, "<Deleted><Key>{key}</Key></Deleted>");
        }
        answer.push_str("</DeleteResult>");
        ([(header::CONTENT_TYPE, "application/xml")], answer).into_response()
    }
}

/// Start and end of `bytes=a-b` in so many bytes; `None` if there is no such part.
fn read_range(text: &str, all: usize) -> Option<(usize, usize)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = start.parse().ok()?;
    let end = if end.is_empty() { all } else { end.parse::<usize>().ok()?.checked_add(1)? };
    (start < all && start < end).then_some((start, end.min(all)))
}

fn error(status: StatusCode, code: &str) -> Response {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code></Error>");
    (status, [(header::CONTENT_TYPE, "application/xml")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        assert_eq!(read_range("bytes=0-3", 10), Some((0, 4)));
        assert_eq!(read_range("bytes=4-", 10), Some((4, 10)));
        assert_eq!(read_range("bytes=8-20", 10), Some((8, 10)));
        for bad in ["bytes=10-12", "bytes=-4", "bytes=3-2", "octets=1-2"] {
            assert_eq!(read_range(bad, 10), None, "{bad}");
        }
    }
}
