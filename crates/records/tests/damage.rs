//! Rows and files that do not read back: named, never a panic, and what is sound stays readable.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod samples;
}

use forkpoint_engine::ports::records::{Change, Records, RecordsError};
use forkpoint_records::Database;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, sqlite::SqliteConnectOptions};
use std::{fs, os::unix::fs::FileExt, path::PathBuf};
use support::samples::{
    api_key, at, event, full_checkpoint, full_sandbox, idempotency, insert, insert_checkpoint, new_org,
};
use tempfile::TempDir;

async fn fresh() -> (TempDir, PathBuf, Database) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    let database = Database::open(path.to_str().unwrap()).await.unwrap();
    (directory, path, database)
}

#[tokio::test]
async fn an_unreadable_row_is_named_with_table_id_and_column() {
    let (_directory, path, database) = fresh().await;
    let org = new_org(&database).await;
    let (sandbox, checkpoint) = (full_sandbox(org, at(0)), full_checkpoint(org, "one", at(0)));
    let (key, happened) = (api_key(org, at(0)), event(org, None, at(0)));
    let changes = vec![
        insert(&sandbox),
        insert_checkpoint(&checkpoint),
        Change::InsertApiKey(key.clone()),
        Change::InsertEvent(happened.clone()),
        Change::InsertIdempotency(idempotency(org, "the-key", at(0))),
    ];
    database.commit(changes).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let table = [
        ("sandboxes", "state", "'nonsense'"),
        ("sandboxes", "state", "CAST(x'ff61' AS TEXT)"),
        ("sandboxes", "stop_reason", "''"),
        ("sandboxes", "layer", "'../../etc'"),
        ("sandboxes", "template_name", "'../x'"),
        ("sandboxes", "cpu_millis", "-1"),
        ("sandboxes", "pids", "4294967296"),
        ("sandboxes", "memory_bytes", "-9223372036854775808"),
        ("sandboxes", "created_at", "9223372036854775807"),
        ("sandboxes", "metadata", "'{\"a\":'"),
        ("sandboxes", "metadata", "'[1]'"),
        ("checkpoints", "kind", "'x'"),
        ("checkpoints", "durability", "'x'"),
        ("checkpoints", "layer", "NULL"),
        ("checkpoints", "scope", "'[]'"),
        ("checkpoints", "scope", "'{}'"),
        ("checkpoints", "metadata", "'7'"),
        ("checkpoints", "expires_at", "-9223372036854775808"),
        ("api_keys", "hash", "x'00ff'"),
        ("api_keys", "scopes", "'read'"),
        ("events", "kind", "'sandbox.exploded'"),
        ("events", "data", "''"),
        ("idempotency", "made", "'{}'"),
        ("organizations", "created_at", "9223372036854775807"),
    ];
    for (table, column, value) in table {
        // Each damage alone: the sound row is put back afterwards.
        other.execute(AssertSqlSafe(format!("CREATE TEMP TABLE sound AS SELECT {column} FROM {table}"))).await.unwrap();
        other.execute(AssertSqlSafe(format!("UPDATE {table} SET {column} = {value}"))).await.unwrap();
        let (id, outcome) = match table {
            "sandboxes" => (sandbox.id.uuid().to_string(), database.sandbox(sandbox.id).await.map(drop)),
            "checkpoints" => {
                (checkpoint.id.uuid().to_string(), database.checkpoints(Default::default()).await.map(drop))
            }
            "api_keys" => (key.id.uuid().to_string(), database.api_keys(org).await.map(drop)),
            "events" => (happened.id.uuid().to_string(), database.events(org, None, 5).await.map(drop)),
            "idempotency" => ("the-key".to_owned(), database.idempotent(org, "the-key").await.map(drop)),
            _ => (org.uuid().to_string(), database.organization(org).await.map(drop)),
        };
        let Err(RecordsError::Damaged(what)) = &outcome else { panic!("{table}.{column} = {value}: {outcome:?}") };
        assert!(what.starts_with(&format!("{table} {id}: {column}: ")), "{what}");
        other
            .execute(AssertSqlSafe(format!("UPDATE {table} SET {column} = (SELECT {column} FROM sound)")))
            .await
            .unwrap();
        other.execute("DROP TABLE sound").await.unwrap();
    }
    assert_eq!(database.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
    assert_eq!(database.checkpoint(checkpoint.id).await.unwrap(), Some(checkpoint));
}

#[tokio::test]
async fn the_schema_refuses_values_of_a_wrong_type() {
    let (_directory, path, database) = fresh().await;
    let sandbox = full_sandbox(new_org(&database).await, at(0));
    database.commit(vec![insert(&sandbox)]).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    for assignment in ["pids = 'many'", "state = x'00'", "metadata = NULL"] {
        let outcome = other.execute(AssertSqlSafe(format!("UPDATE sandboxes SET {assignment}"))).await;
        assert!(outcome.is_err(), "{assignment}");
    }
}

#[tokio::test]
async fn a_layer_that_does_not_read_back_fails_the_list_rather_than_missing_from_it() {
    let (_directory, path, database) = fresh().await;
    let org = new_org(&database).await;
    database.commit(vec![insert(&full_sandbox(org, at(0))), insert(&full_sandbox(org, at(1)))]).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    other
        .execute("UPDATE sandboxes SET layer = 'x' WHERE created_at = (SELECT max(created_at) FROM sandboxes)")
        .await
        .unwrap();
    // Whoever removes layers that nobody names must not take silence for permission.
    assert!(matches!(database.layers_in_use().await, Err(RecordsError::Damaged(_))));
}

#[tokio::test]
async fn a_file_with_overwritten_pages_is_an_error_not_a_panic() {
    let (_directory, path, database) = fresh().await;
    let org = new_org(&database).await;
    let sandboxes: Vec<_> = (0..200).map(|n| full_sandbox(org, at(n))).collect();
    database.commit(sandboxes.iter().map(insert).collect()).await.unwrap();
    database.close().await;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    // All but the first page, so that it is still recognised as ours.
    for page in 1..pages {
        file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
    }
    match Database::open(path.to_str().unwrap()).await {
        Err(refusal) => assert!(refusal.to_string().contains("malformed"), "{refusal}"),
        Ok(database) => {
            let outcome = database.sandboxes(Default::default()).await;
            assert!(matches!(outcome, Err(RecordsError::Damaged(_))), "{outcome:?}");
        }
    }
}
