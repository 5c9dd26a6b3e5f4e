//! A store in a cloud (S3, Google, Azure), by the `object_store` library.

use super::{Keep, ObjectInfo, Store, StoreError};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use std::{fmt, future::Future, ops::Range, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// How long one request may take in all.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Objects below one prefix of a bucket.
pub struct RemoteStore {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    /// Requests run here, so that callers need no runtime of their own. `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStore({} / {})", self.inner, self.prefix)
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl RemoteStore {
    /// Wraps a store of the library; `prefix` is what every key begins with, without slashes at its ends.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vault-store")
            .enable_all()
            .build()
            .map_err(|e| StoreError::Refused { action: "start for", key: prefix.into(), problem: e.to_string() })?;
        Ok(Self { inner, prefix: prefix.trim_matches('/').into(), runtime: Some(runtime) })
    }

    fn path(&self, key: &str) -> Path {
        Path::from(if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) })
    }

    /// Runs a request to its end or its time limit.
    fn run<T: Send>(
        &self,
        action: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, StoreError> {
        let unavailable = |problem: String| StoreError::Unavailable { action, key: key.into(), problem };
        let Some(runtime) = &self.runtime else { return Err(unavailable("is being closed".into())) };
        let bounded = async { tokio::time::timeout(REQUEST_TIMEOUT, request).await };
        // Callers may sit on a thread of another runtime, where blocking on one is refused.
        let outcome = std::thread::scope(|scope| {
            if tokio::runtime::Handle::try_current().is_err() {
                return Some(runtime.handle().block_on(bounded));
            }
            scope.spawn(|| runtime.handle().block_on(bounded)).join().ok()
        });
        match outcome {
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(error))) => Err(told(action, key, &error)),
            Some(Err(_)) => Err(unavailable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
            None => Err(unavailable("the request panicked".into())),
        }
    }
}

impl Store for RemoteStore {
    fn put(&self, key: &str, body: Bytes, _keep: Keep) -> Result<(), StoreError> {
        let path = self.path(key);
        self.run("write", key, async { self.inner.put(&path, body.into()).await.map(|_| ()) })
    }

    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError> {
        let path = self.path(key);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.run("write", key, async {
            match self.inner.put_opts(&path, body.into(), options).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        self.run("read", key, async {
            match range {
                Some(range) if range.is_empty() => Ok(Bytes::new()),
                Some(range) => self.inner.get_range(&path, range).await,
                None => self.inner.get(&path).await?.bytes().await,
            }
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let folder = self.path(prefix.trim_end_matches('/'));
        let strip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let found: Vec<_> = self.run("list", prefix, async { self.inner.list(Some(&folder)).try_collect().await })?;
        for meta in found {
            let key = meta.location.as_ref().get(strip..).unwrap_or_default().to_owned();
            each(ObjectInfo { key, size: meta.size, modified: meta.last_modified.into() });
        }
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        self.run("delete", key, async {
            match self.inner.delete(&path).await {
                Err(Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        })
    }

    fn parallelism(&self) -> usize {
        4
    }
}

fn told(action: &'static str, key: &str, error: &Error) -> StoreError {
    let key = key.to_owned();
    // Only the outermost lines: answers of a store can be long pages.
    let problem: String = error.to_string().chars().take(400).collect();
    match error {
        Error::NotFound { .. } => StoreError::Missing { key },
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Refused { action, key, problem },
        _ => StoreError::Unavailable { action, key, problem },
    }
}
