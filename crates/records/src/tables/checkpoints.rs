//! Checkpoints, their sealed environments, and the tombstones of deleted ones.

use super::sandboxes::read_template;
use crate::{
    fold,
    row::Row,
    sql,
    statement::{Select, Statement, Value},
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    scope::ScopeSpec,
    server::ServerId,
};
use forkpoint_engine::ports::{
    records::{CheckpointFilter, Kept, RecordsError},
    sealer::Sealed,
};
use jiff::Timestamp;
use serde::Deserialize;

/// The values of all columns but `env`, `server` and `deleted_at`, in the order of the texts.
fn columns(checkpoint: Checkpoint) -> Result<Vec<Value>, RecordsError> {
    let Checkpoint {
        id,
        org_id,
        server: _,
        sandbox_id,
        parent_id,
        cloned_from,
        name,
        description,
        kind,
        status,
        failure,
        durability,
        durability_reason,
        durable_at,
        verified_at,
        template,
        layer,
        scope,
        has_env,
        metadata,
        file_count,
        size_bytes,
        checksum,
        pause_ms,
        copy_duration_ms,
        created_at,
        expires_at,
        pinned,
        step_key,
    } = checkpoint;
    let name_folded = fold::folded(&name);
    Ok(vec![
        id.uuid().into(),
        org_id.uuid().into(),
        sandbox_id.uuid().into(),
        parent_id.map(|id| id.uuid()).into(),
        cloned_from.map(|id| id.uuid()).into(),
        name.into(),
        name_folded.into(),
        description.into(),
        kind.as_str().into(),
        status.as_str().into(),
        failure.into(),
        durability.as_str().into(),
        template.name.as_str().into(),
        template.digest.into(),
        layer.uuid().into(),
        Value::json(&scope)?,
        has_env.into(),
        Value::json(&metadata)?,
        Value::count(file_count)?,
        Value::count(size_bytes)?,
        checksum.into(),
        Value::measure(pause_ms)?,
        Value::measure(copy_duration_ms)?,
        created_at.into(),
        expires_at.into(),
        durability_reason.into(),
        durable_at.into(),
        verified_at.into(),
        pinned.into(),
        step_key.into(),
    ])
}

/// Adds a checkpoint.
pub(crate) fn insert(checkpoint: Checkpoint, env: Option<Sealed>) -> Result<Statement, RecordsError> {
    let server = checkpoint.server.to_string();
    let mut args = columns(checkpoint)?;
    args.extend([env.map(|sealed| sealed.0).into(), server.into()]);
    Ok(Statement::new(sql::INSERT_CHECKPOINT, args).unless_taken("the checkpoint exists already"))
}

/// Replaces a checkpoint's row.
pub(crate) fn update(checkpoint: Checkpoint) -> Result<Statement, RecordsError> {
    let server = checkpoint.server.to_string();
    let mut args = columns(checkpoint)?;
    args.push(server.into());
    Ok(Statement::new(sql::UPDATE_CHECKPOINT, args).unless_missing("the checkpoint is gone"))
}

/// Records how far a checkpoint is, if it still was at `from`.
pub(crate) fn set_durability(checkpoint: Checkpoint, from: Durability) -> Statement {
    let args = vec![
        checkpoint.id.uuid().into(),
        from.as_str().into(),
        checkpoint.durability.as_str().into(),
        checkpoint.durability_reason.into(),
        checkpoint.checksum.into(),
        checkpoint.durable_at.into(),
        checkpoint.verified_at.into(),
    ];
    Statement::new(sql::SET_DURABILITY, args).unless_missing("the checkpoint is gone or was changed")
}

/// Sets how long a checkpoint is kept, if that is still as it was.
pub(crate) fn set_retention(id: CheckpointId, from: Kept, to: Kept) -> Statement {
    let args = vec![
        id.uuid().into(),
        to.until.into(),
        to.pinned.into(),
        from.pinned.into(),
        from.until.is_none().into(),
        from.until.into(),
    ];
    Statement::new(sql::SET_RETENTION, args).unless_missing("the checkpoint is gone or was changed")
}

/// Makes a checkpoint a tombstone, if its retention is over at `at`.
pub(crate) fn expire(id: CheckpointId, at: Timestamp) -> Statement {
    Statement::new(sql::EXPIRE_CHECKPOINT, vec![id.uuid().into(), at.into()])
        .unless_missing("the checkpoint is gone or kept for longer")
}

/// Makes a checkpoint a tombstone.
pub(crate) fn delete(id: CheckpointId, at: Timestamp) -> Statement {
    Statement::new(sql::DELETE_CHECKPOINT, vec![id.uuid().into(), at.into()]).unless_missing("the checkpoint is gone")
}

/// Removes tombstones of before.
pub(crate) fn prune(before: Timestamp) -> Statement {
    Statement::new(sql::PRUNE_CHECKPOINTS, vec![before.into()])
}

/// One checkpoint.
pub(crate) fn by_id(id: CheckpointId) -> Statement {
    let mut query = Select::new(sql::CHECKPOINTS);
    query.raw(" AND id = ").value(id.uuid());
    query.limited(None)
}

/// One checkpoint's environment.
pub(crate) fn env(id: CheckpointId) -> Statement {
    Statement::new(sql::CHECKPOINT_ENV, vec![id.uuid().into()])
}

/// Checkpoints: exact matches of `name_contains` first, then by time. `None` if no checkpoint can match.
pub(crate) fn list(filter: &CheckpointFilter) -> Option<Statement> {
    let CheckpointFilter {
        org,
        sandbox,
        name_contains,
        name_exact,
        oldest_first,
        expired_at,
        processing_only,
        on_the_way,
        layer,
        durability,
        steps,
        step_keys,
        server,
        durable_before,
        limit,
    } = filter;
    let mut query = Select::new(sql::CHECKPOINTS);
    if let Some(org) = org {
        query.raw(" AND org_id = ").value(org.uuid());
    }
    if let Some(sandbox) = sandbox {
        query.raw(" AND sandbox_id = ").value(sandbox.uuid());
    }
    if let Some(name) = name_exact {
        if name.contains('\0') {
            return None;
        }
        query.raw(" AND name = ").value(name.as_str());
    }
    if let Some(time) = expired_at {
        query.raw(" AND NOT pinned AND expires_at <= ").value(*time);
    }
    if *processing_only {
        query.raw(" AND status = 'processing'");
    }
    if *on_the_way {
        query.raw(" AND durability IN ('captured', 'durable') AND status = 'ready'");
    }
    if let Some(layer) = layer {
        query.raw(" AND layer = ").value(layer.uuid());
    }
    if let Some(durability) = durability {
        query.raw(" AND durability = ").value(durability.as_str());
    }
    match steps {
        Some(true) => query.raw(" AND step_key IS NOT NULL"),
        Some(false) => query.raw(" AND step_key IS NULL"),
        None => &mut query,
    };
    if !step_keys.is_empty() {
        query.raw(" AND step_key IN (");
        for (index, key) in step_keys.iter().enumerate() {
            query.raw(if index == 0 { "" } else { ", " }).value(key.as_str());
        }
        query.raw(")");
    }
    if let Some(server) = server {
        query.raw(" AND server = ").value(server.to_string());
    }
    if let Some(time) = durable_before {
        query.raw(" AND durability = 'durable' AND status = 'ready' AND durable_at <= ").value(*time);
    }
    if let Some(needle) = name_contains {
        let needle = fold::folded(needle);
        query.raw(" AND name_folded LIKE ").value(fold::containing(&needle)?).raw(r" ESCAPE '\'");
        query.raw(" ORDER BY (name_folded = ").value(needle).raw(") DESC, ");
    } else {
        query.raw(" ORDER BY ");
    }
    query.raw(if *oldest_first { "created_at, id" } else { "created_at DESC, id DESC" });
    Some(query.limited(*limit))
}

/// Every tombstone.
pub(crate) fn deleted() -> Statement {
    Statement::new(sql::DELETED_CHECKPOINTS, vec![Timestamp::MIN.into()])
}

/// Every layer that a sandbox or a checkpoint names.
pub(crate) fn layers_in_use() -> Statement {
    Statement::new(sql::LAYERS_IN_USE, Vec::new())
}

/// A scope as it lies in its column. Stricter than requests, in which a missing list means everything:
/// a damaged scope must not read back as a wider one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredScope {
    include_paths: Vec<String>,
    exclude_paths: Vec<String>,
    #[serde(default)]
    absent_paths: Vec<String>,
}

impl From<StoredScope> for ScopeSpec {
    fn from(StoredScope { include_paths, exclude_paths, absent_paths }: StoredScope) -> Self {
        Self { include_paths, exclude_paths, absent_paths }
    }
}

/// Reads a checkpoint back.
pub(crate) fn read(row: &Row<'_>) -> Result<Checkpoint, RecordsError> {
    Ok(Checkpoint {
        id: row.id("id", CheckpointId::from_uuid)?,
        org_id: row.id("org_id", OrgId::from_uuid)?,
        server: row.word::<ServerId>("server")?,
        sandbox_id: row.id("sandbox_id", SandboxId::from_uuid)?,
        parent_id: row.id_or_null("parent_id", CheckpointId::from_uuid)?,
        cloned_from: row.id_or_null("cloned_from", CheckpointId::from_uuid)?,
        name: row.text("name")?,
        description: row.text_or_null("description")?,
        kind: row.word("kind")?,
        status: row.word("status")?,
        failure: row.text_or_null("failure")?,
        durability: row.word("durability")?,
        durability_reason: row.text_or_null("durability_reason")?,
        durable_at: row.time_or_null("durable_at")?,
        verified_at: row.time_or_null("verified_at")?,
        template: read_template(row)?,
        layer: row.id("layer", LayerId::from_uuid)?,
        scope: row.json::<StoredScope>("scope")?.into(),
        has_env: row.bool("has_env")?,
        metadata: row.json("metadata")?,
        file_count: row.number("file_count")?,
        size_bytes: row.number("size_bytes")?,
        checksum: row.text("checksum")?,
        pause_ms: row.real("pause_ms")?,
        copy_duration_ms: row.real("copy_duration_ms")?,
        created_at: row.time("created_at")?,
        expires_at: row.time_or_null("expires_at")?,
        pinned: row.bool("pinned")?,
        step_key: row.text_or_null("step_key")?,
    })
}
