//! What is PostgreSQL's own: several servers at once, lost connections, a commit whose answer was lost.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod postgres;
    pub(crate) mod proxy;
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod samples;
}

use forkpoint_engine::ports::records::{Change, Records, RecordsError, SandboxFilter};
use forkpoint_records::{Database, OpenError};
use futures::future::join_all;
use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
use std::sync::atomic::Ordering;
use support::{
    postgres::{PostgresServer, encoded},
    proxy::{self, Cut},
    samples::{api_key, at, full_checkpoint, insert, insert_checkpoint, new_org, running_sandbox},
};

#[tokio::test]
async fn postgres_serves_servers_that_start_at_once_and_outlives_lost_connections() {
    let server = PostgresServer::start();
    let url = server.new_schema("several");
    let opened = join_all((0..4).map(|_| Database::open(&url))).await;
    let databases: Vec<Database> = opened.into_iter().map(|database| database.unwrap()).collect();
    let org = new_org(&databases[0]).await;

    // Two keys touched in opposite order deadlock now and then; such a transaction is tried again.
    let keys = [api_key(org, at(0)), api_key(org, at(0))];
    databases[0].commit(keys.iter().cloned().map(Change::InsertApiKey).collect()).await.unwrap();
    let outcomes = join_all((0..12).map(|n| {
        let touch = |key: usize| Change::TouchApiKey { id: keys[key].id, at: at(n) };
        let order = if n % 2 == 0 { [touch(0), touch(1)] } else { [touch(1), touch(0)] };
        databases[n as usize % 4].commit(order.into())
    }))
    .await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(databases[3].api_key_by_hash(&keys[0].hash).await.unwrap().unwrap().last_used_at, Some(at(11)));

    // The server ends all connections: what was under way may fail, wholly, and the next commit works.
    let sandboxes: Vec<_> = (0..40).map(|n| running_sandbox(org, at(n))).collect();
    let commits = sandboxes.iter().map(|sandbox| databases[1].commit(vec![insert(sandbox)]));
    let end_connections = async {
        let ended =
            server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forkpoint'");
        assert!(ended.status.success());
    };
    let (outcomes, ()) = futures::join!(join_all(commits), end_connections);
    for (sandbox, outcome) in sandboxes.iter().zip(&outcomes) {
        let there = databases[2].sandbox(sandbox.id).await;
        let there = if there.is_err() { databases[2].sandbox(sandbox.id).await } else { there };
        assert_eq!(there.unwrap().is_some(), outcome.is_ok(), "{outcome:?}");
    }
    let after = running_sandbox(org, at(100));
    databases[1].commit(vec![insert(&after)]).await.unwrap();
    let listed = databases[3].sandboxes(SandboxFilter { limit: Some(1), ..Default::default() }).await.unwrap();
    assert_eq!(listed, [after]);

    // Text that PostgreSQL cannot hold is refused without effect.
    let mut odd = full_checkpoint(org, "odd", at(0));
    odd.description = Some("a\0b".into());
    let refusal = databases[0].commit(vec![insert_checkpoint(&odd)]).await.unwrap_err();
    assert!(matches!(refusal, RecordsError::Unavailable(_)), "{refusal}");
    assert_eq!(databases[0].checkpoint(odd.id).await.unwrap(), None);

    // A newer schema is refused, naming both versions.
    let newer = server.psql(
        "INSERT INTO several._sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', true, '', 1)",
    );
    assert!(newer.status.success());
    let refusal = Database::open(&url).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Newer { found: 9999, known: 1.. }), "{refusal}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_it_was() {
    let server = PostgresServer::start();
    for cut in [Cut::Answer, Cut::Request] {
        let url = server.new_schema(if cut == Cut::Answer { "answer" } else { "request" });
        // The rows around it are made past the proxy, or their commits would be the first.
        let direct = Database::open(&url).await.unwrap();
        let sandbox = running_sandbox(new_org(&direct).await, at(0));
        let directory = tempfile::tempdir().unwrap();
        let has_cut = proxy::start(directory.path(), server.socket_directory(), cut);
        let url = url.replace(&encoded(server.socket_directory()), &encoded(directory.path()));
        let database = Database::open(&url).await.unwrap();
        let outcome = database.commit(vec![insert(&sandbox)]).await;
        assert!(has_cut.load(Ordering::SeqCst), "the commit did not pass as expected");
        let there = direct.sandbox(sandbox.id).await.unwrap().is_some();
        match cut {
            Cut::Answer => assert!(outcome.is_ok() && there, "{outcome:?}, there: {there}"),
            Cut::Request => {
                assert!(matches!(outcome, Err(RecordsError::Unavailable(_))) && !there, "{outcome:?}, there: {there}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so_without_the_password() {
    let refusal = Database::open("postgres://me:s3cret@127.0.0.1:1/nothing").await.unwrap_err();
    assert!(matches!(refusal, OpenError::Unavailable(_)), "{refusal}");
    assert!(!format!("{refusal} {refusal:?}").contains("s3cret"));
}

/// What SQLite and PostgreSQL say of their columns and indexes, in the same words.
#[tokio::test]
async fn both_engines_have_the_same_tables_columns_and_indexes() {
    let server = PostgresServer::start();
    Database::open(&server.new_schema("same")).await.unwrap().close().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db");
    Database::open(path.to_str().unwrap()).await.unwrap().close().await;

    let mut sqlite = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let of_sqlite = [
        "SELECT t.name || '.' || c.name || ' ' || \
            CASE c.type WHEN 'BLOB' THEN 'bytes' WHEN 'TEXT' THEN 'text' WHEN 'REAL' THEN 'real' ELSE 'int' END || \
            CASE WHEN c.\"notnull\" THEN ' not null' ELSE '' END || coalesce(' default ' || c.dflt_value, '') \
         FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT LIKE '\\_%' ESCAPE '\\' \
            AND t.name NOT LIKE 'sqlite%' ORDER BY 1",
        "SELECT tbl_name || ' ' || name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1",
    ];
    let of_postgres = [
        "SELECT table_name || '.' || column_name || ' ' || \
            CASE data_type WHEN 'bytea' THEN 'bytes' WHEN 'text' THEN 'text' WHEN 'double precision' THEN 'real' \
            WHEN 'bigint' THEN 'int' WHEN 'boolean' THEN 'int' ELSE data_type END || \
            CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END || \
            coalesce(' default ' || replace(replace(column_default, '::text', ''), 'false', '0'), '') \
         FROM information_schema.columns WHERE table_schema = 'same' AND table_name NOT LIKE '\\_%' ORDER BY 1",
        "SELECT tablename || ' ' || indexname FROM pg_indexes WHERE schemaname = 'same' AND tablename NOT LIKE '\\_%' \
            AND indexname NOT LIKE '%_pkey' AND indexname NOT LIKE '%_key' ORDER BY 1",
    ];
    for (one, other) in of_sqlite.into_iter().zip(of_postgres) {
        let mut in_sqlite: Vec<String> = sqlx::query_scalar(one).fetch_all(&mut sqlite).await.unwrap();
        let output = server.psql(other);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut in_postgres: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        in_sqlite.sort();
        in_postgres.sort();
        assert!(in_sqlite.len() > 5, "{in_sqlite:?}");
        assert_eq!(in_sqlite, in_postgres);
    }
}
