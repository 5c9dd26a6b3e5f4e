//! Sandboxes, their sealed environments, and the tombstones of deleted ones.

use crate::{
    row::Row,
    sql,
    statement::{Select, Statement, Value},
};
use forkpoint_domain::{
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    limits::Limits,
    sandbox::{Sandbox, SandboxState},
    server::ServerId,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    records::{RecordsError, SandboxFilter},
    sealer::Sealed,
};
use jiff::Timestamp;

/// The values of all columns but `env`, `server` and `deleted_at`, in the order of the texts.
fn columns(sandbox: Sandbox) -> Result<Vec<Value>, RecordsError> {
    let Sandbox {
        id,
        org_id,
        server: _,
        state,
        stop_reason,
        failure,
        template,
        layer,
        limits,
        forked_from,
        based_on,
        created_at,
        ready_at,
        expires_at,
        stopped_at,
        startup_ms,
        address,
        metadata,
    } = sandbox;
    Ok(vec![
        id.uuid().into(),
        org_id.uuid().into(),
        state.as_str().into(),
        stop_reason.map(|reason| reason.as_str().to_owned()).into(),
        failure.into(),
        template.name.as_str().into(),
        template.digest.into(),
        layer.map(|layer| layer.uuid()).into(),
        limits.cpu_millis.into(),
        Value::count(limits.memory_bytes)?,
        limits.pids.into(),
        Value::count(limits.disk_bytes)?,
        forked_from.map(|id| id.uuid()).into(),
        based_on.map(|id| id.uuid()).into(),
        created_at.into(),
        ready_at.into(),
        expires_at.into(),
        stopped_at.into(),
        startup_ms.map_or(Ok(Value::Int(None)), Value::count)?,
        address.into(),
        Value::json(&metadata)?,
    ])
}

/// Adds a sandbox.
pub(crate) fn insert(sandbox: Sandbox, env: Sealed) -> Result<Statement, RecordsError> {
    let server = sandbox.server.to_string();
    let mut args = columns(sandbox)?;
    args.extend([env.0.into(), server.into()]);
    Ok(Statement::new(sql::INSERT_SANDBOX, args).unless_taken("the sandbox exists already"))
}

/// Replaces a sandbox's row if it is in state `from`.
pub(crate) fn update(sandbox: Sandbox, from: SandboxState) -> Result<Statement, RecordsError> {
    let server = sandbox.server.to_string();
    let mut args = columns(sandbox)?;
    args.extend([from.as_str().into(), server.into()]);
    Ok(Statement::new(sql::UPDATE_SANDBOX, args).unless_missing("the sandbox is gone or in another state"))
}

/// Replaces a sandbox's sealed environment.
pub(crate) fn set_env(id: SandboxId, env: Sealed) -> Statement {
    Statement::new(sql::SET_SANDBOX_ENV, vec![id.uuid().into(), env.0.into()]).unless_missing("the sandbox is gone")
}

/// Makes a sandbox a tombstone; one that is gone already stays as it is.
pub(crate) fn delete(id: SandboxId, at: Timestamp) -> Statement {
    Statement::new(sql::DELETE_SANDBOX, vec![id.uuid().into(), at.into()])
}

/// Removes tombstones of before.
pub(crate) fn prune(before: Timestamp) -> Statement {
    Statement::new(sql::PRUNE_SANDBOXES, vec![before.into()])
}

/// One sandbox.
pub(crate) fn by_id(id: SandboxId) -> Statement {
    let mut query = Select::new(sql::SANDBOXES);
    query.raw(" AND id = ").value(id.uuid());
    query.limited(None)
}

/// One sandbox's environment.
pub(crate) fn env(id: SandboxId) -> Statement {
    Statement::new(sql::SANDBOX_ENV, vec![id.uuid().into()])
}

/// Sandboxes, newest first. What has stopped is what is in state `stopped`: a sandbox that was
/// started again keeps the time of its last stop.
pub(crate) fn list(filter: &SandboxFilter) -> Statement {
    let SandboxFilter { org, server, states, expired_at, stopped_before, limit } = filter;
    let mut query = Select::new(sql::SANDBOXES);
    if let Some(org) = org {
        query.raw(" AND org_id = ").value(org.uuid());
    }
    if let Some(server) = server {
        query.raw(" AND server = ").value(server.to_string());
    }
    if !states.is_empty() {
        query
            .raw(" AND state IN ")
            .list(SandboxState::ALL.into_iter().filter(|state| states.contains(state)).map(SandboxState::as_str));
    }
    if let Some(time) = expired_at {
        query.raw(" AND expires_at <= ").value(*time);
    }
    if let Some(time) = stopped_before {
        query.raw(" AND state = 'stopped' AND layer IS NOT NULL AND stopped_at <= ").value(*time);
    }
    query.raw(" ORDER BY created_at DESC, id DESC");
    query.limited(*limit)
}

/// Reads a sandbox back.
pub(crate) fn read(row: &Row<'_>) -> Result<Sandbox, RecordsError> {
    Ok(Sandbox {
        id: row.id("id", SandboxId::from_uuid)?,
        org_id: row.id("org_id", OrgId::from_uuid)?,
        server: row.word::<ServerId>("server")?,
        state: row.word("state")?,
        stop_reason: row.word_or_null("stop_reason")?,
        failure: row.text_or_null("failure")?,
        template: read_template(row)?,
        layer: row.id_or_null("layer", LayerId::from_uuid)?,
        limits: Limits {
            cpu_millis: row.number("cpu_millis")?,
            memory_bytes: row.number("memory_bytes")?,
            pids: row.number("pids")?,
            disk_bytes: row.number("disk_bytes")?,
        },
        forked_from: row.id_or_null("forked_from", CheckpointId::from_uuid)?,
        based_on: row.id_or_null("based_on", CheckpointId::from_uuid)?,
        created_at: row.time("created_at")?,
        ready_at: row.time_or_null("ready_at")?,
        expires_at: row.time("expires_at")?,
        stopped_at: row.time_or_null("stopped_at")?,
        startup_ms: row.number_or_null("startup_ms")?,
        address: row.text_or_null("address")?,
        metadata: row.json("metadata")?,
    })
}

/// Reads the template that a sandbox's or checkpoint's layer lies on.
pub(crate) fn read_template(row: &Row<'_>) -> Result<TemplateRef, RecordsError> {
    let name = row.text("template_name")?;
    Ok(TemplateRef {
        name: TemplateName::parse(&name).map_err(|invalid| row.damaged("template_name", invalid.problem))?,
        digest: row.text("template_digest")?,
    })
}
