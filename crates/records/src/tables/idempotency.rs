//! What earlier requests with an idempotency key made.

use crate::{
    row::Row,
    sql,
    statement::{Statement, Value},
};
use forkpoint_domain::ids::OrgId;
use forkpoint_engine::ports::records::{IdempotencyRecord, RecordsError};
use jiff::Timestamp;

/// Remembers a key.
pub(crate) fn insert(record: IdempotencyRecord) -> Result<Statement, RecordsError> {
    let IdempotencyRecord { org, key, fingerprint, made, at } = record;
    let args = vec![org.uuid().into(), key.into(), fingerprint.into(), Value::json(&made)?, at.into()];
    Ok(Statement::new(sql::INSERT_IDEMPOTENCY, args).unless_taken("the idempotency key is known"))
}

/// Forgets a key; one that is not known is no error.
pub(crate) fn forget(org: OrgId, key: String) -> Statement {
    Statement::new(sql::FORGET_IDEMPOTENCY, vec![org.uuid().into(), key.into()])
}

/// Removes keys of before.
pub(crate) fn prune(before: Timestamp) -> Statement {
    Statement::new(sql::PRUNE_IDEMPOTENCY, vec![before.into()])
}

/// One key.
pub(crate) fn by_key(org: OrgId, key: &str) -> Statement {
    Statement::new(sql::IDEMPOTENCY, vec![org.uuid().into(), key.into()])
}

/// Reads a record back.
pub(crate) fn read(row: &Row<'_>) -> Result<IdempotencyRecord, RecordsError> {
    Ok(IdempotencyRecord {
        org: row.id("org_id", OrgId::from_uuid)?,
        key: row.text("key")?,
        fingerprint: row.text("fingerprint")?,
        made: row.json("made")?,
        at: row.time("at")?,
    })
}
