//! `forkpoint vault rebuild`: rows of checkpoints from the vault, after the database was lost.

use super::{Place, print};
use crate::wire;
use anyhow::bail;
use forkpoint_engine::{
    ports::{
        clock::{Clock, SystemClock},
        records::{Change, Records},
    },
    rebuild::rebuild,
};
use serde_json::json;

/// Makes the rows that are missing, tells how many and prints the key of each organisation that it made.
pub(super) async fn run(place: &Place) -> anyhow::Result<()> {
    let (config, data_dir) = place.find()?;
    let vault = place.open().await?;
    let records = wire::open_records(&config, &data_dir).await?;
    let (mut organizations, mut unreadable) = (Vec::new(), Vec::new());
    let listing = vault.clone();
    for org in tokio::task::spawn_blocking(move || listing.list_orgs()).await?? {
        let recalling = vault.clone();
        let (stored, failed) = tokio::task::spawn_blocking(move || {
            let (mut stored, mut failed) = (Vec::new(), Vec::new());
            for name in recalling.list(org)? {
                match recalling.recall(name) {
                    Ok(row) => stored.push(row),
                    Err(error) => failed.push((name.checkpoint, error.to_string())),
                }
            }
            Ok::<_, forkpoint_vault::VaultError>((stored, failed))
        })
        .await??;
        unreadable.extend(failed.into_iter().map(|(id, problem)| json!({ "checkpoint": id, "problem": problem })));
        let days = config.checkpoint_retention_days;
        let rebuilt = rebuild(&records, org, stored, SystemClock.now(), days).await?;
        organizations.push(json!({
            "id": org,
            "api_key": rebuilt.key.as_ref().map(|key| key.text.as_str()),
            "checkpoints_rebuilt": rebuilt.checkpoints,
            "checkpoints_known": rebuilt.known,
            "checkpoints_deleted": rebuilt.deleted,
        }));
    }
    // Without one, the first server that starts takes them.
    if let Some(server) = forkpoint_runtime::local::server_of(&data_dir)? {
        records.commit(vec![Change::AdoptRows { server }]).await?;
    }
    records.close().await;
    let failed = unreadable.len();
    print(&json!({ "organizations": organizations, "unreadable": unreadable }));
    if failed > 0 {
        bail!("{failed} stored checkpoints cannot be read; `forkpoint vault check` tells more");
    }
    Ok(())
}
