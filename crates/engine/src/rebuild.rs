//! Rows of checkpoints made again after the database was lost, from what the vault tells of them.

use crate::{
    Result,
    operations::accounts::{NewKey, mint},
    ports::{
        records::{Change, Records, RecordsError},
        sealer::Sealed,
    },
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, retention_end},
    ids::{CheckpointId, OrgId},
    organization::Organization,
};
use jiff::Timestamp;
use std::collections::HashSet;

/// What was made.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Checkpoints that have a row again.
    pub checkpoints: Vec<CheckpointId>,
    /// How many had one.
    pub known: u64,
    /// How many were deleted, as this database remembers; they are left alone.
    pub deleted: u64,
    /// The first key of the organisation, if it had no row either.
    pub key: Option<NewKey>,
}

/// Makes the rows that are missing of one organisation's stored checkpoints, and of the organisation itself. Each
/// row is complete or not there: an interrupted run is simply repeated. Retention begins anew, unless it ends later:
/// nothing is to go at once. What was kept for ever or pinned stays so.
pub async fn rebuild(
    records: &dyn Records,
    org: OrgId,
    stored: Vec<(Checkpoint, Option<Sealed>)>,
    now: Timestamp,
    retention_days: u32,
) -> Result<Rebuilt> {
    let mut rebuilt = Rebuilt::default();
    if records.organization(org).await?.is_none() {
        let tail = org.uuid().simple().to_string();
        let organization = Organization {
            id: org,
            name: format!("Recovered {}", &tail[tail.len() - 8..]),
            slug: format!("recovered-{tail}"),
            plan: "hobby".into(),
            created_at: now,
        };
        let key = mint(org, "Key made when rows were rebuilt".into(), Vec::new(), now, None);
        let changes = vec![Change::InsertOrganization(organization), Change::InsertApiKey(key.key.clone())];
        records.commit(changes).await?;
        rebuilt.key = Some(key);
    }
    let deleted: HashSet<(OrgId, CheckpointId)> = records.deleted_checkpoints().await?.into_iter().collect();
    for (checkpoint, env) in stored {
        let id = checkpoint.id;
        if deleted.contains(&(org, id)) {
            rebuilt.deleted += 1;
            continue;
        }
        if records.checkpoint(id).await?.is_some() {
            rebuilt.known += 1;
            continue;
        }
        let expires_at =
            checkpoint.expires_at.and_then(|end| retention_end(now, retention_days).map(|new| new.max(end)));
        let row = Box::new(Checkpoint { expires_at, ..checkpoint });
        match records.commit(vec![Change::InsertCheckpoint { checkpoint: row, env }]).await {
            Ok(()) => rebuilt.checkpoints.push(id),
            // Another run was quicker.
            Err(RecordsError::Conflict(_)) => rebuilt.known += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rebuilt)
}
