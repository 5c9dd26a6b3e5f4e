//! Tests that every filter makes a query that SQLite takes, and answers it by an index.

use super::{checkpoints, events, sandboxes};
use crate::{db::Db, row::Row, statement::Statement, target::Target};
use forkpoint_domain::{
    checkpoint::Durability,
    ids::{LayerId, OrgId, SandboxId},
    sandbox::SandboxState,
    server::ServerId,
};
use forkpoint_engine::ports::records::{CheckpointFilter, SandboxFilter};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, SqlSafeStr};
use uuid::Uuid;

async fn database(directory: &tempfile::TempDir) -> Db {
    Db::open(Target::Sqlite(directory.path().join("forkpoint.db"))).await.unwrap()
}

/// How SQLite will answer, e.g. `SEARCH sandboxes USING INDEX …`.
async fn plan(db: &Db, mut query: Statement) -> String {
    query.sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.sql.as_str())).into_sql_str();
    let rows = db.fetch(query).await.unwrap();
    rows.iter().map(|raw| Row::new(raw, "plan").text("detail").unwrap()).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn combinations_of_few_filters_and_of_nearly_all_are_queries() {
    let directory = tempfile::tempdir().unwrap();
    let db = database(&directory).await;
    let (id, now) = (Uuid::nil(), Timestamp::UNIX_EPOCH);
    for bits in (0..65536_u32).filter(|bits| !(5..13).contains(&bits.count_ones())) {
        let has = |bit: u32| bits & (1 << bit) != 0;
        let filter = CheckpointFilter {
            org: has(0).then(|| OrgId::from_uuid(id)),
            sandbox: has(1).then(|| SandboxId::from_uuid(id)),
            name_contains: has(2).then(|| "n".into()),
            name_exact: has(3).then(|| "n".into()),
            oldest_first: has(4),
            expired_at: has(5).then_some(now),
            processing_only: has(6),
            on_the_way: has(8),
            layer: has(9).then(|| LayerId::from_uuid(id)),
            durability: has(10).then_some(Durability::Failed),
            steps: has(11).then(|| has(12)),
            step_keys: if has(13) { vec!["k".into(), "l".into()] } else { Vec::new() },
            server: has(14).then_some(ServerId::NOBODY),
            durable_before: has(15).then_some(now),
            limit: has(7).then_some(1),
        };
        db.fetch(checkpoints::list(&filter).unwrap()).await.unwrap();
        let filter = SandboxFilter {
            org: filter.org,
            server: filter.server,
            states: SandboxState::ALL[..(bits >> 5 & 7) as usize].to_vec(),
            expired_at: has(1).then_some(now),
            stopped_before: has(2).then_some(now),
            limit: has(3).then_some(1),
        };
        db.fetch(sandboxes::list(&filter)).await.unwrap();
    }
}

#[tokio::test]
async fn every_filter_is_answered_by_its_index() {
    let directory = tempfile::tempdir().unwrap();
    let db = database(&directory).await;
    let (org, sandbox, now) = (OrgId::from_uuid(Uuid::nil()), SandboxId::from_uuid(Uuid::nil()), Timestamp::UNIX_EPOCH);
    let some = SandboxFilter::default;
    let any = CheckpointFilter::default;
    let contains = CheckpointFilter { org: Some(org), name_contains: Some("n".into()), ..any() };
    let running = vec![SandboxState::Running, SandboxState::Creating];
    let table = [
        ("sandboxes_by_org (org_id=?)", sandboxes::list(&SandboxFilter { org: Some(org), ..some() })),
        ("sandboxes_by_state (state=?)", sandboxes::list(&SandboxFilter { states: running.clone(), ..some() })),
        (
            "sandboxes_by_state (state=? AND expires_at<?)",
            sandboxes::list(&SandboxFilter { states: running, expired_at: Some(now), ..some() }),
        ),
        (
            "sandboxes_by_server (server=? AND state=? AND expires_at<?)",
            sandboxes::list(&SandboxFilter {
                server: Some(ServerId::NOBODY),
                states: vec![SandboxState::Running],
                expired_at: Some(now),
                ..some()
            }),
        ),
        (
            "checkpoints_by_durability (durability=?)",
            checkpoints::list(&CheckpointFilter {
                server: Some(ServerId::NOBODY),
                on_the_way: true,
                oldest_first: true,
                ..any()
            })
            .unwrap(),
        ),
        (
            "checkpoints_by_durability (durability=?)",
            checkpoints::list(&CheckpointFilter { durable_before: Some(now), ..any() }).unwrap(),
        ),
        ("sqlite_autoindex_servers_1 (id=?)", super::servers::by_id(ServerId::NOBODY)),
        ("sandboxes_by_expiry (expires_at<?)", sandboxes::list(&SandboxFilter { expired_at: Some(now), ..some() })),
        (
            "sandboxes_by_stop (state=? AND stopped_at<?)",
            sandboxes::list(&SandboxFilter { stopped_before: Some(now), ..some() }),
        ),
        ("sqlite_autoindex_sandboxes_1 (id=?)", sandboxes::by_id(sandbox)),
        ("sandboxes_deleted (deleted_at<?)", sandboxes::prune(now)),
        ("checkpoints_by_org (org_id=?)", checkpoints::list(&CheckpointFilter { org: Some(org), ..any() }).unwrap()),
        ("checkpoints_by_org (org_id=?)", checkpoints::list(&contains).unwrap()),
        (
            "checkpoints_by_sandbox (sandbox_id=?)",
            checkpoints::list(&CheckpointFilter { sandbox: Some(sandbox), ..any() }).unwrap(),
        ),
        (
            "checkpoints_by_name (name=?)",
            checkpoints::list(&CheckpointFilter { name_exact: Some("n".into()), ..any() }).unwrap(),
        ),
        (
            "checkpoints_by_expiry (expires_at<?)",
            checkpoints::list(&CheckpointFilter { expired_at: Some(now), ..any() }).unwrap(),
        ),
        ("checkpoints_processing", checkpoints::list(&CheckpointFilter { processing_only: true, ..any() }).unwrap()),
        (
            "checkpoints_by_layer (layer=?)",
            checkpoints::list(&CheckpointFilter { layer: Some(LayerId::from_uuid(Uuid::nil())), ..any() }).unwrap(),
        ),
        (
            "checkpoints_by_durability (durability=?)",
            checkpoints::list(&CheckpointFilter { durability: Some(Durability::Failed), ..any() }).unwrap(),
        ),
        ("checkpoints_deleted", checkpoints::deleted()),
        ("checkpoints_by_layer", checkpoints::layers_in_use()),
        ("sandboxes_by_layer", checkpoints::layers_in_use()),
        ("checkpoints_deleted (deleted_at<?)", checkpoints::prune(now)),
        ("checkpoints_deleted (deleted_at>?)", checkpoints::deleted()),
        ("events_by_org (org_id=?)", events::newest(org, None, 5)),
        ("events_by_sandbox (sandbox_id=?)", events::newest(org, Some(sandbox), 5)),
        ("events_by_age (at<?)", events::prune(now)),
        ("idempotency_by_age (at<?)", super::idempotency::prune(now)),
    ];
    for (expected, query) in table {
        let sql = query.sql.clone();
        let plan = plan(&db, query).await;
        assert!(plan.contains(expected), "{}\nis answered by: {plan}\ninstead of: {expected}", sql.as_str());
    }
}
