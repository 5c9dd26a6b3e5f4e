//! PostgreSQL: for several servers, or when the database is kept elsewhere.

use super::{Outcome, PATIENCE, run_all, schema};
use crate::{
    error::{Failure, OpenError, from_driver},
    statement::Statement,
};
use forkpoint_engine::ports::records::RecordsError;
use sqlx::{
    ConnectOptions, Connection, Executor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::time::Duration;

/// Connections of one server process.
const CONNECTIONS: u32 = 16;
/// Since version 13 a server can tell what became of a transaction.
const OLDEST_VERSION: i64 = 130_000;
/// How often a transaction that collided with another is tried.
const ATTEMPTS: u32 = 5;
/// The advisory lock under which those try again, so that they do not collide with each other once more.
const TURN: &str = "SELECT pg_advisory_xact_lock(5064651498734963761)";
/// How long to ask what became of a commit whose answer was lost.
const INQUIRY: Duration = Duration::from_secs(10);

/// An open PostgreSQL database.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    pub(super) async fn open(options: PgConnectOptions) -> Result<Self, OpenError> {
        let options = options
            .application_name("forkpoint")
            .options([("lock_timeout", "5s"), ("statement_timeout", "30s")])
            .disable_statement_logging();
        // Alone and without time limits: an update of the schema may take long.
        let unhurried = options.clone().options([("lock_timeout", "0"), ("statement_timeout", "0")]);
        let mut connection = tokio::time::timeout(PATIENCE, unhurried.connect())
            .await
            .map_err(|_| OpenError::Unavailable(format!("no connection within {} s", PATIENCE.as_secs())))??;
        let version: i64 = sqlx::query_scalar("SELECT current_setting('server_version_num')::bigint")
            .fetch_one(&mut connection)
            .await?;
        if version < OLDEST_VERSION {
            return Err(OpenError::Unfit(format!("PostgreSQL {} is too old; 13 or newer is needed", version / 10_000)));
        }
        schema::update_postgres(&mut connection).await?;
        connection.close().await?;

        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // A commit is durable when it returns, even where the server's default is not.
                    connection
                        .execute(
                            "SELECT set_config('synchronous_commit', 'on', false) \
                             WHERE current_setting('synchronous_commit') = 'off'",
                        )
                        .await
                        .map(drop)
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Runs all statements in one transaction; one that collides with another is tried again.
    pub(super) async fn commit(&self, statements: &[Statement]) -> Result<(), RecordsError> {
        let mut attempt = 1;
        loop {
            match self.attempt(statements, attempt > 1).await {
                Err(Failure::Collided(error)) if attempt < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "transaction collided, trying again");
                    attempt += 1;
                }
                outcome => return outcome.map_err(Failure::into_error),
            }
        }
    }

    async fn attempt(&self, statements: &[Statement], again: bool) -> Outcome {
        let mut transaction = self.pool.begin().await.map_err(Failure::Broken)?;
        if again {
            transaction.execute(TURN).await.map_err(|error| Failure::of(error, ""))?;
        }
        let outcome: Outcome = run_all!(sqlx::Postgres, transaction, statements);
        if let Err(failure) = outcome {
            // The rows are as before either way; a failed rollback only costs the connection.
            transaction.rollback().await.ok();
            return Err(failure);
        }
        let number: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text")
            .fetch_one(&mut *transaction)
            .await
            .map_err(Failure::Broken)?;
        match transaction.commit().await {
            Ok(()) => Ok(()),
            Err(error) if is_answer(&error) => Err(Failure::of(error, "it exists already")),
            Err(error) => self.ask_what_became_of(&number, error).await,
        }
    }

    /// The connection was lost while the commit was under way: it may have happened. Callers repeat
    /// what is said not to have happened, so ask.
    async fn ask_what_became_of(&self, number: &str, lost: sqlx::Error) -> Outcome {
        let ask = async {
            loop {
                let state: Result<Option<String>, sqlx::Error> =
                    sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
                        .bind(number)
                        .fetch_one(&self.pool)
                        .await;
                match state.ok().flatten().as_deref() {
                    Some("committed") => return Ok(()),
                    Some("aborted") => return Err(()),
                    // The server is coming back, or still busy with it.
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        match tokio::time::timeout(INQUIRY, ask).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(Failure::Broken(lost)),
            Err(_) => {
                tracing::error!(transaction = number, error = %lost, "commit's outcome is unknown");
                Err(Failure::Refused(RecordsError::Unavailable(format!(
                    "the connection was lost during commit and the server does not say what became of it: {}",
                    from_driver(&lost)
                ))))
            }
        }
    }
}

/// Whether the server answered the commit; codes 57P and 08 say that it ended the connection instead.
fn is_answer(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|answer| answer.code());
    code.is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
}
