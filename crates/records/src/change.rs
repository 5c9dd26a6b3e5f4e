//! What each change of a transaction says to the database.

use crate::{
    statement::Statement,
    tables::{api_keys, checkpoints, events, idempotency, organizations, sandboxes, servers},
};
use forkpoint_engine::ports::records::{Change, RecordsError};

/// The statements of a list of changes, in order; refuses what no column can hold before anything runs.
pub(crate) fn statements(changes: Vec<Change>) -> Result<Vec<Statement>, RecordsError> {
    let mut statements = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::InsertOrganization(organization) => statements.push(organizations::insert(organization)),
            Change::InsertUser(user) => statements.push(organizations::insert_user(user)),
            Change::InsertApiKey(key) => statements.push(api_keys::insert(key)?),
            Change::RevokeApiKey { org, id, at } => statements.push(api_keys::revoke(org, id, at)),
            Change::TouchApiKey { id, at } => statements.push(api_keys::touch(id, at)),
            Change::InsertSandbox { sandbox, env } => statements.push(sandboxes::insert(*sandbox, env)?),
            Change::UpdateSandbox { sandbox, from } => statements.push(sandboxes::update(*sandbox, from)?),
            Change::SetSandboxEnv { id, env } => statements.push(sandboxes::set_env(id, env)),
            Change::DeleteSandbox { id, at } => statements.push(sandboxes::delete(id, at)),
            Change::InsertCheckpoint { checkpoint, env } => statements.push(checkpoints::insert(*checkpoint, env)?),
            Change::UpdateCheckpoint { checkpoint } => statements.push(checkpoints::update(*checkpoint)?),
            Change::SetDurability { checkpoint, from } => {
                statements.push(checkpoints::set_durability(*checkpoint, from));
            }
            Change::SetRetention { id, from, to } => statements.push(checkpoints::set_retention(id, from, to)),
            Change::ExpireCheckpoint { id, at } => statements.push(checkpoints::expire(id, at)),
            Change::DeleteCheckpoint { id, at } => statements.push(checkpoints::delete(id, at)),
            Change::InsertEvent(event) => statements.push(events::insert(event)?),
            Change::InsertIdempotency(record) => statements.push(idempotency::insert(record)?),
            Change::ForgetIdempotency { org, key } => statements.push(idempotency::forget(org, key)),
            Change::SeeServer(server) => statements.push(servers::see(server)),
            Change::AdoptRows { server } => statements.extend(servers::adopt(server)),
            Change::TakeLease { job, holder, now, until } => statements.push(servers::take(job, holder, now, until)),
            Change::EndLease { job, holder } => statements.push(servers::end(job, holder)),
            Change::Prune { before } => statements.extend([
                idempotency::prune(before),
                events::prune(before),
                sandboxes::prune(before),
                checkpoints::prune(before),
                servers::prune(before),
            ]),
        }
    }
    Ok(statements)
}
