//! The event log.

use crate::{
    row::Row,
    sql,
    statement::{Select, Statement, Value},
};
use forkpoint_domain::{
    event::{Event, EventKind},
    ids::{CheckpointId, EventId, OrgId, SandboxId},
};
use forkpoint_engine::ports::records::RecordsError;
use jiff::Timestamp;

/// Adds an event.
pub(crate) fn insert(event: Event) -> Result<Statement, RecordsError> {
    let Event { id, org_id, sandbox_id, checkpoint_id, kind, data, at } = event;
    let args = vec![
        id.uuid().into(),
        org_id.uuid().into(),
        sandbox_id.map(|id| id.uuid()).into(),
        checkpoint_id.map(|id| id.uuid()).into(),
        kind.as_str().into(),
        Value::json(&data)?,
        at.into(),
    ];
    Ok(Statement::new(sql::INSERT_EVENT, args).unless_taken("the event exists already"))
}

/// Newest events of an organisation, or of one of its sandboxes.
pub(crate) fn newest(org: OrgId, sandbox: Option<SandboxId>, limit: u32) -> Statement {
    let mut query = Select::new(sql::EVENTS);
    query.raw(" AND org_id = ").value(org.uuid());
    if let Some(sandbox) = sandbox {
        query.raw(" AND sandbox_id = ").value(sandbox.uuid());
    }
    query.raw(" ORDER BY at DESC, id DESC");
    query.limited(Some(limit))
}

/// Removes events of before.
pub(crate) fn prune(before: Timestamp) -> Statement {
    Statement::new(sql::PRUNE_EVENTS, vec![before.into()])
}

/// Reads an event back.
pub(crate) fn read(row: &Row<'_>) -> Result<Event, RecordsError> {
    let kind = row.text("kind")?;
    Ok(Event {
        id: row.id("id", EventId::from_uuid)?,
        org_id: row.id("org_id", OrgId::from_uuid)?,
        sandbox_id: row.id_or_null("sandbox_id", SandboxId::from_uuid)?,
        checkpoint_id: row.id_or_null("checkpoint_id", CheckpointId::from_uuid)?,
        kind: parse_kind(&kind).ok_or_else(|| row.damaged("kind", "is not a known kind of event"))?,
        data: row.json("data")?,
        at: row.time("at")?,
    })
}

fn parse_kind(text: &str) -> Option<EventKind> {
    ALL_KINDS.into_iter().find(|kind| kind.as_str() == text)
}

const ALL_KINDS: [EventKind; 10] = [
    EventKind::SandboxCreated,
    EventKind::SandboxReady,
    EventKind::SandboxStopped,
    EventKind::SandboxError,
    EventKind::SandboxTimeout,
    EventKind::SandboxDeleted,
    EventKind::CheckpointCreated,
    EventKind::CheckpointRestored,
    EventKind::CheckpointCloned,
    EventKind::CheckpointDeleted,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Does not compile when the domain gains a kind that `ALL_KINDS` may lack.
    fn place(kind: EventKind) -> usize {
        match kind {
            EventKind::SandboxCreated => 0,
            EventKind::SandboxReady => 1,
            EventKind::SandboxStopped => 2,
            EventKind::SandboxError => 3,
            EventKind::SandboxTimeout => 4,
            EventKind::SandboxDeleted => 5,
            EventKind::CheckpointCreated => 6,
            EventKind::CheckpointRestored => 7,
            EventKind::CheckpointCloned => 8,
            EventKind::CheckpointDeleted => 9,
        }
    }

    #[test]
    fn every_kind_reads_back() {
        for (index, kind) in ALL_KINDS.into_iter().enumerate() {
            assert_eq!(place(kind), index);
            assert_eq!(parse_kind(kind.as_str()), Some(kind));
        }
    }
}
