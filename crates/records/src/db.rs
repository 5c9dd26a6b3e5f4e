//! The two engines behind one face: connecting, reading, committing.

mod postgres;
mod schema;
mod sqlite;

use crate::{
    error::{Failure, OpenError, from_driver},
    row::Raw,
    statement::{Statement, Value},
    target::Target,
};
use forkpoint_engine::ports::records::RecordsError;
use postgres::Postgres;
use sqlite::Sqlite;
use sqlx::{Database, Encode, Executor, IntoArguments, SqlSafeStr, Type, query::Query};
use std::time::Duration;

/// How long a caller waits for a connection or a lock before it hears that the database is unavailable.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open database.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

impl Db {
    /// Connects, and brings the schema up to date.
    pub(crate) async fn open(target: Target) -> Result<Self, OpenError> {
        Ok(match target {
            Target::Sqlite(path) => Self::Sqlite(Sqlite::open(&path).await?),
            Target::Postgres(options) => Self::Postgres(Postgres::open(*options).await?),
        })
    }

    /// All rows that a query gives.
    pub(crate) async fn fetch(&self, query: Statement) -> Result<Vec<Raw>, RecordsError> {
        match self {
            Self::Sqlite(sqlite) => {
                let rows = bound::<sqlx::Sqlite>(&query).fetch_all(sqlite.readers()).await;
                rows.map(|rows| rows.into_iter().map(Raw::Sqlite).collect())
            }
            Self::Postgres(postgres) => {
                let rows = bound::<sqlx::Postgres>(&query).fetch_all(postgres.pool()).await;
                rows.map(|rows| rows.into_iter().map(Raw::Postgres).collect())
            }
        }
        .map_err(|error| from_driver(&error))
    }

    /// Runs all statements in one transaction; durable when this returns.
    pub(crate) async fn commit(&self, statements: Vec<Statement>) -> Result<(), RecordsError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.commit(statements).await,
            Self::Postgres(postgres) => postgres.commit(&statements).await,
        }
    }

    /// Has the engine parse and plan a text.
    pub(crate) async fn prepare(&self, text: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(sqlite) => sqlite.readers().prepare(text.into_sql_str()).await.map(drop),
            Self::Postgres(postgres) => postgres.pool().prepare(text.into_sql_str()).await.map(drop),
        }
    }

    /// Ends all connections once what was begun is done.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(sqlite) => sqlite.close().await,
            Self::Postgres(postgres) => postgres.pool().close().await,
        }
    }
}

/// A statement as its engine's driver takes it.
fn bound<'q, DB>(statement: &Statement) -> Query<'q, DB, DB::Arguments>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    Option<String>: Encode<'q, DB> + Type<DB>,
    Option<i64>: Encode<'q, DB> + Type<DB>,
    Option<Vec<u8>>: Encode<'q, DB> + Type<DB>,
    f64: Encode<'q, DB> + Type<DB>,
    bool: Encode<'q, DB> + Type<DB>,
{
    statement.args.iter().fold(sqlx::query(statement.sql.clone()), |query, value| match value {
        Value::Text(text) => query.bind(text.clone()),
        Value::Int(number) => query.bind(*number),
        Value::Real(number) => query.bind(*number),
        Value::Bool(truth) => query.bind(*truth),
        Value::Bytes(bytes) => query.bind(bytes.clone()),
    })
}

/// Runs the statements of one transaction on an engine's connection, up to the first that fails.
macro_rules! run_all {
    ($engine:ty, $connection:expr, $statements:expr) => {{
        let mut outcome = Ok(());
        for statement in $statements {
            outcome = match $crate::db::bound::<$engine>(statement).execute(&mut *$connection).await {
                Ok(done) => statement.check(done.rows_affected()).map_err($crate::error::Failure::Refused),
                Err(error) => Err($crate::error::Failure::of(error, statement.taken)),
            };
            if outcome.is_err() {
                break;
            }
        }
        outcome
    }};
}
use run_all;

/// What running statements comes to.
type Outcome = Result<(), Failure>;
