//! Asks a store again when it fails for the moment: a bounded number of times, with growing, jittered pauses.

use super::{Keep, ObjectInfo, Store, StoreError};
use bytes::Bytes;
use std::{ops::Range, time::Duration};

/// A store that is asked again when it fails for the moment.
#[derive(Debug)]
pub struct Retrying<S> {
    inner: S,
    attempts: u32,
    first_pause: Duration,
}

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl<S: Store> Retrying<S> {
    /// Tries each call at most `attempts` times; pauses begin around `first_pause` and double up to 5 s.
    pub fn new(inner: S, attempts: u32, first_pause: Duration) -> Self {
        Self { inner, attempts: attempts.max(1), first_pause }
    }

    fn again<T>(&self, mut call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut pause = self.first_pause;
        for _ in 1..self.attempts {
            match call() {
                Err(error) if error.may_pass() => {
                    tracing::debug!(%error, "store call failed, trying again");
                    std::thread::sleep(pause.mul_f64(0.5 + rand::random::<f64>()));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other,
            }
        }
        call()
    }
}

impl<S: Store> Store for Retrying<S> {
    fn put(&self, key: &str, body: Bytes, keep: Keep) -> Result<(), StoreError> {
        self.again(|| self.inner.put(key, body.clone(), keep))
    }

    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError> {
        self.again(|| self.inner.put_new(key, body.clone()))
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.again(|| {
            let bytes = self.inner.get(key, range.clone())?;
            match &range {
                Some(range) if bytes.len() as u64 != range.end - range.start => {
                    Err(StoreError::Short { key: key.into() })
                }
                _ => Ok(bytes),
            }
        })
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        // Gathered first: a listing that broke off half-way must not have been told.
        let all = self.again(|| {
            let mut all = Vec::new();
            self.inner.list(prefix, &mut |info| all.push(info))?;
            Ok(all)
        })?;
        all.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.again(|| self.inner.delete(key))
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.again(|| self.inner.tidy())
    }

    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }
}
