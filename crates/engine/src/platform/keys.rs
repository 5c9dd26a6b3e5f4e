//! Keys that authenticated lately, so that a request needs no query.

use forkpoint_domain::{ids::ApiKeyId, organization::ApiKey};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// How long an answer is believed. Revoking on this server takes effect at once; on another one after this.
const BELIEVED: SignedDuration = SignedDuration::from_secs(5);
/// How often a key's last use is written.
const TOUCHED: SignedDuration = SignedDuration::from_secs(60);
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    known: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    key: ApiKey,
    read_at: Timestamp,
    touched_at: Option<Timestamp>,
}

impl KeyCache {
    /// The key with this hash, if it was read lately.
    pub(crate) fn get(&self, hash: &[u8; 32], now: Timestamp) -> Option<ApiKey> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).filter(|entry| now.duration_since(entry.read_at) < BELIEVED).map(|entry| entry.key.clone())
    }

    /// Remembers a key that was just read.
    pub(crate) fn put(&self, key: ApiKey, now: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let touched_at = known.get(&key.hash).and_then(|entry| entry.touched_at).or(key.last_used_at);
        known.insert(key.hash, Known { key, read_at: now, touched_at });
    }

    /// Whether the key's use should be written now; says so once a minute.
    pub(crate) fn should_touch(&self, hash: &[u8; 32], now: Timestamp) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get_mut(hash) else { return false };
        let due = entry.touched_at.is_none_or(|at| now.duration_since(at) >= TOUCHED);
        if due {
            entry.touched_at = Some(now);
        }
        due
    }

    /// Forgets a key that was revoked.
    pub(crate) fn forget(&self, id: ApiKeyId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, entry| entry.key.id != id);
    }
}
