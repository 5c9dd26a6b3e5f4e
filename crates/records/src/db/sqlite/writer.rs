//! The one writer: takes transactions from a queue and lets those that wait share one sync to disk.

use crate::{
    db::{Outcome, PATIENCE, run_all},
    error::{Failure, from_driver},
    statement::Statement,
};
use forkpoint_engine::ports::records::RecordsError;
use sqlx::{
    ConnectOptions, Connection, Executor,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use std::sync::Arc;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

/// The most transactions that share a sync. Bounds how much is tried again one by one when one of them breaks all.
const MOST_TOGETHER: usize = 64;
/// The most transactions that wait; further callers wait for a place.
const QUEUE: usize = 256;

/// The callers' end of the queue.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Order>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

#[derive(Debug)]
enum Order {
    Commit(Job),
    /// Ends the writer; what was queued before is done first.
    Close,
}

/// One caller's transaction.
#[derive(Debug)]
struct Job {
    statements: Vec<Statement>,
    done: oneshot::Sender<Result<(), RecordsError>>,
}

impl Writer {
    /// Starts the writer on a connection; `options` make a new one when that breaks.
    pub(super) fn start(connection: SqliteConnection, options: SqliteConnectOptions) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE);
        let task = tokio::spawn(Queue { connection: Some(connection), options, orders }.work());
        Self { queue, task: Arc::new(Mutex::new(Some(task))) }
    }

    /// Runs all statements in one transaction.
    pub(super) async fn commit(&self, statements: Vec<Statement>) -> Result<(), RecordsError> {
        let (done, outcome) = oneshot::channel();
        if self.queue.send(Order::Commit(Job { statements, done })).await.is_err() {
            return Err(closed());
        }
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Waits until what was queued is done and the connection is closed.
    pub(super) async fn close(&self) {
        // An error means that the writer has ended already.
        self.queue.send(Order::Close).await.ok();
        if let Some(task) = self.task.lock().await.take() {
            task.await.ok();
        }
    }
}

fn closed() -> RecordsError {
    RecordsError::Unavailable("the database is closed".into())
}

/// The writer's end of the queue.
struct Queue {
    /// `None` after it broke, until the next transaction.
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    orders: mpsc::Receiver<Order>,
}

impl Queue {
    async fn work(mut self) {
        let mut open = true;
        while open && let Some(order) = self.orders.recv().await {
            let mut jobs = Vec::new();
            let mut next = Some(order);
            while let Some(order) = next {
                match order {
                    Order::Commit(job) => jobs.push(job),
                    Order::Close => {
                        open = false;
                        break;
                    }
                }
                next = if jobs.len() < MOST_TOGETHER { self.orders.try_recv().ok() } else { None };
            }
            let outcomes = self.commit_all(&jobs).await;
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                // A caller that has gone does not want to know.
                job.done.send(outcome).ok();
            }
        }
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "database did not close cleanly");
        }
    }

    /// Commits the jobs together. If that breaks as a whole (a full disk is enough), nothing of it
    /// was done, and each is tried alone, so that one too large does not fail the others.
    async fn commit_all(&mut self, jobs: &[Job]) -> Vec<Result<(), RecordsError>> {
        match self.commit_together(jobs).await {
            Ok(outcomes) => outcomes,
            Err(failure) if jobs.len() <= 1 => jobs.iter().map(|_| Err(from_driver(&failure))).collect(),
            Err(failure) => {
                tracing::warn!(error = %failure, transactions = jobs.len(), "commit failed, trying one by one");
                let mut outcomes = Vec::with_capacity(jobs.len());
                for job in jobs {
                    let alone = self.commit_together(std::slice::from_ref(job)).await;
                    outcomes.push(alone.map_or_else(|error| Err(from_driver(&error)), |mut one| one.remove(0)));
                }
                outcomes
            }
        }
    }

    /// One transaction for all jobs, in which each has its own savepoint. An error means that none was done.
    async fn commit_together(&mut self, jobs: &[Job]) -> Result<Vec<Result<(), RecordsError>>, sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let result = transaction(&mut connection, jobs).await;
        if result.is_ok() {
            self.connection = Some(connection);
        } else {
            // SQLite may or may not have rolled back by itself. Closing does in any case, and a new
            // connection has no doubtful state.
            tokio::time::timeout(PATIENCE, connection.close_hard()).await.ok();
        }
        result
    }
}

async fn transaction(
    connection: &mut SqliteConnection,
    jobs: &[Job],
) -> Result<Vec<Result<(), RecordsError>>, sqlx::Error> {
    // Takes the write lock at once: a transaction that began as a reader could find it taken half-way.
    connection.execute("BEGIN IMMEDIATE").await?;
    let shared = jobs.len() > 1;
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        if shared {
            connection.execute("SAVEPOINT job").await?;
        }
        let outcome: Outcome = run_all!(sqlx::Sqlite, connection, &job.statements);
        match outcome {
            Ok(()) => outcomes.push(Ok(())),
            Err(Failure::Refused(refusal)) => {
                if shared {
                    connection.execute("ROLLBACK TO job").await?;
                }
                outcomes.push(Err(refusal));
            }
            Err(Failure::Collided(error) | Failure::Broken(error)) => return Err(error),
        }
        if shared {
            connection.execute("RELEASE job").await?;
        }
    }
    // If none is left there is nothing to sync, and a job alone had no savepoint to go back to.
    let end = if outcomes.iter().all(Result::is_err) { "ROLLBACK" } else { "COMMIT" };
    connection.execute(end).await?;
    Ok(outcomes)
}
