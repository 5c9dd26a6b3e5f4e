//! Brings a database's schema to this program's version, and refuses one from a newer program.

use crate::error::OpenError;
use sqlx::{
    PgConnection, SqliteConnection,
    migrate::{MigrateError, Migrator},
};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

const TABLE_OF_VERSIONS_IN_SQLITE: &str =
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'";
const TABLE_OF_VERSIONS_IN_POSTGRES: &str = "SELECT count(*) FROM pg_catalog.pg_tables \
    WHERE schemaname = current_schema() AND tablename = '_sqlx_migrations'";
const NEWEST_VERSION: &str = "SELECT max(version) FROM _sqlx_migrations";

/// Refuses a SQLite database of a newer version; changes nothing.
pub(super) async fn check_sqlite(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let tables: i64 = sqlx::query_scalar(TABLE_OF_VERSIONS_IN_SQLITE).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(());
    }
    check(sqlx::query_scalar(NEWEST_VERSION).fetch_one(connection).await?, &SQLITE)
}

/// Applies what is missing.
pub(super) async fn update_sqlite(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    SQLITE.run(connection).await.map_err(refusal)
}

/// Refuses a PostgreSQL database of a newer version, else applies what is missing, under the
/// migrator's advisory lock, since several servers may start at once.
pub(super) async fn update_postgres(connection: &mut PgConnection) -> Result<(), OpenError> {
    let tables: i64 = sqlx::query_scalar(TABLE_OF_VERSIONS_IN_POSTGRES).fetch_one(&mut *connection).await?;
    if tables > 0 {
        check(sqlx::query_scalar(NEWEST_VERSION).fetch_one(&mut *connection).await?, &POSTGRES)?;
    }
    POSTGRES.run(connection).await.map_err(refusal)
}

fn check(found: Option<i64>, migrator: &Migrator) -> Result<(), OpenError> {
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    match found {
        Some(found) if found > known => Err(OpenError::Newer { found, known }),
        _ => Ok(()),
    }
}

fn refusal(error: MigrateError) -> OpenError {
    match error {
        MigrateError::Execute(error) => error.into(),
        error => OpenError::Schema(error.to_string()),
    }
}
