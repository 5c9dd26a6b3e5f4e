//! What the SQLite file itself must keep: its mode, its rows over reopening, and refusal of what is not its own.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod samples;
}

use forkpoint_engine::ports::records::{Change, Records, RecordsError};
use forkpoint_records::{Database, OpenError};
use sqlx::{ConnectOptions, Connection, Executor, sqlite::SqliteConnectOptions};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use support::samples::{at, insert, new_org, running_sandbox};

async fn open(path: &Path) -> Result<Database, OpenError> {
    Database::open(path.to_str().unwrap()).await
}

/// A connection past this crate, as another program would have it.
async fn raw(path: &Path) -> sqlx::SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

#[tokio::test]
async fn files_are_for_their_owner_only_also_those_that_were_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    for round in 0..2 {
        let database = open(&path).await.unwrap();
        new_org(&database).await;
        let files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 3, "file, log and index of the log: {files:?}");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "round {round}: {file:?}");
        }
        database.close().await;
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
}

#[tokio::test]
async fn rows_are_there_after_reopening_by_path_or_url() {
    let directory = tempfile::tempdir().unwrap();
    // A name that a URL parser would take apart.
    let path = directory.path().join("a b?mode=memory#%41.db");
    let database = open(&path).await.unwrap();
    let sandbox = running_sandbox(new_org(&database).await, at(0));
    database.commit(vec![insert(&sandbox)]).await.unwrap();
    database.close().await;
    let reopened = Database::open(&format!("sqlite://{}", path.display())).await.unwrap();
    assert_eq!(reopened.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
    reopened.close().await;
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [path.file_name().unwrap()], "nothing but the file is left after closing");
}

#[tokio::test]
async fn two_programs_may_have_the_file_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    let (one, two) = (open(&path).await.unwrap(), open(&path).await.unwrap());
    let org = new_org(&one).await;
    let sandbox = running_sandbox(org, at(0));
    two.commit(vec![insert(&sandbox)]).await.unwrap();
    assert_eq!(one.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_naming_both_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    open(&path).await.unwrap().close().await;
    let mut other = raw(&path).await;
    other
        .execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, x'00', 1)")
        .await
        .unwrap();
    other.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let refusal = open(&path).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Newer { found: 9999, known: 1.. }), "{refusal}");
    assert!(refusal.to_string().contains("9999") && refusal.to_string().contains("versions up to "), "{refusal}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_changed_schema_history_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    open(&path).await.unwrap().close().await;
    let mut other = raw(&path).await;
    other.execute("UPDATE _sqlx_migrations SET checksum = x'00'").await.unwrap();
    other.close().await.unwrap();
    assert!(matches!(open(&path).await, Err(OpenError::Schema(_))));
}

#[tokio::test]
async fn files_of_others_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "not a database\n".repeat(500)).unwrap();
    let foreign = directory.path().join("other.db");
    let mut other = raw(&foreign).await;
    other.execute("CREATE TABLE sandboxes (id TEXT)").await.unwrap();
    other.close().await.unwrap();
    for path in [text, foreign] {
        let before = fs::read(&path).unwrap();
        let refusal = open(&path).await.unwrap_err();
        assert!(matches!(refusal, OpenError::Foreign { .. }), "{refusal}");
        assert!(refusal.to_string().contains(path.to_str().unwrap()), "{refusal}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    for path in [directory.path().to_owned(), directory.path().join("missing/forkpoint.db")] {
        let refusal = open(&path).await.unwrap_err();
        assert!(matches!(refusal, OpenError::File { .. }), "{refusal}");
    }
}

#[tokio::test]
async fn an_empty_file_is_taken_as_new() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    fs::write(&path, "").unwrap();
    new_org(&open(&path).await.unwrap()).await;
}

#[tokio::test]
async fn a_locked_database_is_unavailable_unchanged_and_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    let database = open(&path).await.unwrap();
    let sandbox = running_sandbox(new_org(&database).await, at(0));
    let mut other = raw(&path).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let refusal = database.commit(vec![insert(&sandbox)]).await.unwrap_err();
    assert!(matches!(&refusal, RecordsError::Unavailable(why) if why.contains("locked")), "{refusal}");
    assert_eq!(database.sandbox(sandbox.id).await.unwrap(), None, "readers go on beside a writer");
    other.execute("ROLLBACK").await.unwrap();
    database.commit(vec![insert(&sandbox)]).await.unwrap();
    assert_eq!(database.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
}

#[tokio::test]
async fn a_closed_database_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory.path().join("forkpoint.db")).await.unwrap();
    let org = new_org(&database).await;
    let clone = database.clone();
    database.close().await;
    for database in [database, clone] {
        assert!(matches!(database.ping().await, Err(RecordsError::Unavailable(_))));
        let change = Change::ForgetIdempotency { org, key: "k".into() };
        assert!(matches!(database.commit(vec![change]).await, Err(RecordsError::Unavailable(_))));
        database.close().await;
    }
}
