//! API keys: found by the hash of their text, never deleted, only revoked.

use crate::{
    row::Row,
    sql,
    statement::{Statement, Value},
};
use forkpoint_domain::{
    ids::{ApiKeyId, OrgId},
    organization::ApiKey,
};
use forkpoint_engine::ports::records::RecordsError;
use jiff::Timestamp;

/// Adds a key.
pub(crate) fn insert(key: ApiKey) -> Result<Statement, RecordsError> {
    let ApiKey { id, org_id, name, prefix, hash, scopes, created_at, last_used_at, expires_at, revoked_at } = key;
    let args = vec![
        id.uuid().into(),
        org_id.uuid().into(),
        name.into(),
        prefix.into(),
        hash.to_vec().into(),
        Value::json(&scopes)?,
        created_at.into(),
        last_used_at.into(),
        expires_at.into(),
        revoked_at.into(),
    ];
    Ok(Statement::new(sql::INSERT_API_KEY, args).unless_taken("the key exists already"))
}

/// Revokes a key of an organisation.
pub(crate) fn revoke(org: OrgId, id: ApiKeyId, at: Timestamp) -> Statement {
    Statement::new(sql::REVOKE_API_KEY, vec![id.uuid().into(), org.uuid().into(), at.into()])
        .unless_missing("the organisation has no such valid key")
}

/// Notes a use; a key that is not there is no error, for nobody waits for this.
pub(crate) fn touch(id: ApiKeyId, at: Timestamp) -> Statement {
    Statement::new(sql::TOUCH_API_KEY, vec![id.uuid().into(), at.into()])
}

/// The key with this hash.
pub(crate) fn by_hash(hash: &[u8; 32]) -> Statement {
    Statement::new(sql::API_KEY_BY_HASH, vec![hash.to_vec().into()])
}

/// An organisation's keys that are not revoked, oldest first.
pub(crate) fn of(org: OrgId) -> Statement {
    Statement::new(sql::API_KEYS, vec![org.uuid().into()])
}

/// Reads a key back.
pub(crate) fn read(row: &Row<'_>) -> Result<ApiKey, RecordsError> {
    let hash = row.bytes("hash")?;
    Ok(ApiKey {
        id: row.id("id", ApiKeyId::from_uuid)?,
        org_id: row.id("org_id", OrgId::from_uuid)?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        hash: hash
            .try_into()
            .map_err(|hash: Vec<u8>| row.damaged("hash", format!("has {} bytes instead of 32", hash.len())))?,
        scopes: row.json("scopes")?,
        created_at: row.time("created_at")?,
        last_used_at: row.time_or_null("last_used_at")?,
        expires_at: row.time_or_null("expires_at")?,
        revoked_at: row.time_or_null("revoked_at")?,
    })
}
