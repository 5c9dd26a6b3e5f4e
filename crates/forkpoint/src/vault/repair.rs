//! `forkpoint vault repair`: damaged objects out of the way, and checkpoints on their way into the vault again.

use super::{Place, print};
use crate::wire;
use anyhow::{Context as _, bail};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::CheckpointId,
    server::ServerId,
};
use forkpoint_engine::ports::records::{Change, CheckpointFilter, Records, RecordsError};
use forkpoint_records::Database;
use forkpoint_runtime::local::server_of;
use forkpoint_vault::{Broken, Progress, Repair, SnapshotRef, Vault, VaultError};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

/// How often the rows are looked at while the server stores.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Repairs, waits for the server if one runs, and fails if anything stays broken.
pub(super) async fn run(place: &Place, wait: u64) -> anyhow::Result<()> {
    let (config, data_dir) = place.find()?;
    let vault = place.open().await?;
    let records = wire::open_records(&config, &data_dir).await?;
    let repairing = vault.clone();
    let repair = tokio::task::spawn_blocking(move || repairing.repair(&Progress::default())).await??;
    // Another server's checkpoints are in its own store, unless that is this one.
    let only = match config.vault == "local" {
        true => Some(server_of(&data_dir)?.context("no server has worked on this data directory")?),
        false => None,
    };
    let mut broken: BTreeMap<CheckpointId, String> = without_record(&vault, &records, only).await?;
    broken.extend(repair.broken.iter().map(|Broken { name, problem }| (name.checkpoint, problem.clone())));
    let mut again = Again::default();
    for (id, problem) in broken {
        again.queue(&records, id, problem).await?;
    }
    let serves = wire::is_locked(&data_dir)?;
    if serves {
        again.wait(&records, Duration::from_secs(wait)).await?;
    }
    records.close().await;
    let (waiting, lost) = (again.queued.len(), again.lost.len());
    print(&told(&repair, &again));
    if lost > 0 {
        bail!("{lost} checkpoints are lost: neither the vault nor a layer on this machine has all of them");
    }
    match (waiting, serves) {
        (0, _) => Ok(()),
        (_, true) => bail!("{waiting} checkpoints are still waiting to be stored anew; look again later"),
        (_, false) => bail!("{waiting} checkpoints are stored anew when the server runs again, if it has their layers"),
    }
}

/// Checkpoints that rows call stored, and that the store does not list.
async fn without_record(
    vault: &Vault,
    records: &Database,
    only: Option<ServerId>,
) -> anyhow::Result<BTreeMap<CheckpointId, String>> {
    // Rows before the listing: what is stored meanwhile is listed.
    let mut rows = Vec::new();
    for durability in [Durability::Durable, Durability::Verified] {
        let filter = CheckpointFilter { durability: Some(durability), server: only, ..CheckpointFilter::default() };
        rows.extend(records.checkpoints(filter).await?);
    }
    let listing = vault.clone();
    let listed: HashSet<SnapshotRef> = tokio::task::spawn_blocking(move || {
        let mut all = HashSet::new();
        for org in listing.list_orgs()? {
            all.extend(listing.list(org)?);
        }
        Ok::<_, VaultError>(all)
    })
    .await??;
    let missing = |row: &Checkpoint| !listed.contains(&SnapshotRef { org: row.org_id, checkpoint: row.id });
    Ok(rows.into_iter().filter(missing).map(|row| (row.id, "the store has no record of it".to_owned())).collect())
}

/// What is to be stored again, and what came of it.
#[derive(Default)]
struct Again {
    queued: BTreeMap<CheckpointId, String>,
    stored: Vec<CheckpointId>,
    lost: BTreeMap<CheckpointId, String>,
    /// Damaged in the store, and no checkpoint of this server.
    strange: BTreeMap<CheckpointId, String>,
}

impl Again {
    /// Puts a checkpoint back to the beginning of its way; the server stores it from its layer.
    async fn queue(&mut self, records: &Database, id: CheckpointId, problem: String) -> anyhow::Result<()> {
        loop {
            let Some(row) = records.checkpoint(id).await? else {
                self.strange.insert(id, problem);
                return Ok(());
            };
            let from = row.durability;
            let row = Checkpoint {
                durability: Durability::Captured,
                durability_reason: Some(problem.clone()),
                durable_at: None,
                verified_at: None,
                ..row
            };
            match records.commit(vec![Change::SetDurability { checkpoint: Box::new(row), from }]).await {
                Ok(()) => {
                    self.queued.insert(id, problem);
                    return Ok(());
                }
                // The server has just changed it.
                Err(RecordsError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the server has stored and read back, or given up, what was queued.
    async fn wait(&mut self, records: &Database, longest: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + longest;
        while !self.queued.is_empty() && Instant::now() < until {
            for id in self.queued.keys().copied().collect::<Vec<_>>() {
                let row = records.checkpoint(id).await?;
                match row.as_ref().map(|row| row.durability) {
                    Some(Durability::Verified) => self.stored.push(id),
                    Some(Durability::Failed) => {
                        let reason = row.and_then(|row| row.durability_reason).unwrap_or_default();
                        self.lost.insert(id, reason);
                    }
                    // Deleted meanwhile.
                    None => {}
                    Some(Durability::Captured | Durability::Durable) => continue,
                }
                self.queued.remove(&id);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn told(repair: &Repair, again: &Again) -> Value {
    let damaged: Vec<Value> = repair
        .damaged
        .iter()
        .map(|one| {
            json!({
                "object": one.object,
                "problem": one.problem,
                "affects": one.affects.iter().map(|name| name.checkpoint).collect::<Vec<_>>(),
                "moved_to": one.aside.as_ref().map(|aside| &aside.moved_to),
                "chunks_saved": one.aside.as_ref().map(|aside| aside.chunks_saved),
                "chunks_lost": one.aside.as_ref().map(|aside| aside.chunks_lost),
            })
        })
        .collect();
    json!({
        "objects": repair.checked.objects,
        "bytes_read": repair.checked.bytes_read,
        "damaged": damaged,
        "stored_again": again.stored,
        "waiting": again.queued,
        "lost": again.lost,
        "of_no_row": again.strange,
    })
}
