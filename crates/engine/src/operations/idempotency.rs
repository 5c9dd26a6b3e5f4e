//! Requests that may be sent twice and are done once.

use crate::{
    Caller, Error, Platform, Result,
    ports::records::{Change, IdempotencyRecord},
};

/// A client's own name for one request.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// As the client sent it, 1 to 255 visible characters.
    pub key: String,
    /// Digest of route and body.
    pub fingerprint: String,
}

impl Platform {
    /// What an earlier request with this key made; refuses when that was another request.
    pub(crate) async fn made_before(
        &self,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Vec<String>>> {
        let Some(key) = key else { return Ok(None) };
        match self.inner.records.idempotent(caller.org_id, &key.key).await? {
            None => Ok(None),
            Some(record) if record.fingerprint == key.fingerprint => Ok(Some(record.made)),
            Some(_) => Err(Error::conflict(
                "idempotency_key_reused",
                "this Idempotency-Key was used for a different request; use a new key for each request",
            )),
        }
    }

    /// The change that remembers what this key made.
    pub(crate) fn remember(&self, caller: &Caller, key: &IdempotencyKey, made: Vec<String>) -> Change {
        Change::InsertIdempotency(IdempotencyRecord {
            org: caller.org_id,
            key: key.key.clone(),
            fingerprint: key.fingerprint.clone(),
            made,
            at: self.inner.clock.now(),
        })
    }

    /// Forgets a key whose objects are gone, so that the request can be done anew.
    pub(crate) async fn forget_key(&self, caller: &Caller, key: &IdempotencyKey) -> Result<()> {
        let change = Change::ForgetIdempotency { org: caller.org_id, key: key.key.clone() };
        Ok(self.inner.records.commit(vec![change]).await?)
    }
}
