//! SQLite: one file beside the server, many readers, one writer.

mod writer;

use super::{PATIENCE, schema};
use crate::{
    error::{OpenError, sqlite_code},
    statement::Statement,
};
use forkpoint_engine::ports::records::RecordsError;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use writer::Writer;

/// Marks a SQLite file as Forkpoint's: "FKPT" in the header's field for that.
const APPLICATION_ID: i64 = 0x464b_5054;

/// Readers at once. Queries take well under a millisecond, and each connection is a thread.
const READERS: u32 = 4;

/// An open SQLite database.
#[derive(Debug, Clone)]
pub(crate) struct Sqlite {
    readers: SqlitePool,
    writer: Writer,
}

impl Sqlite {
    /// Opens or makes the file at `path`.
    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        let path = prepare_file(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let plain = plain_options(&path);
        claim(&plain, &path).await?;

        let writing = writing_options(&plain);
        let mut connection = writing.connect().await?;
        // Not every file system can; SQLite then silently stays as it is.
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await?;
        if journal != "wal" {
            return Err(OpenError::Unfit(format!(
                "the file system of {} does not let SQLite keep a write-ahead log; use a local one",
                path.display()
            )));
        }
        schema::update_sqlite(&mut connection).await?;

        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(plain.pragma("query_only", "ON"))
            .await?;
        Ok(Self { readers, writer: Writer::start(connection, writing) })
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    pub(super) async fn commit(&self, statements: Vec<Statement>) -> Result<(), RecordsError> {
        self.writer.commit(statements).await
    }

    /// The writer goes last: the last connection folds the log into the file.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// What every connection has.
fn plain_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(PATIENCE)
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

/// What the writer has besides: each commit is synced to the log before it is answered.
fn writing_options(plain: &SqliteConnectOptions) -> SqliteConnectOptions {
    plain
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // A burst may make the log large; it shrinks again to this many bytes.
        .pragma("journal_size_limit", "16777216")
        .foreign_keys(true)
}

/// Makes the file if it is missing and takes it away from other users; SQLite gives the log beside
/// it the same mode. Gives the absolute path, which SQLite cannot take for a URI.
fn prepare_file(path: &Path) -> io::Result<PathBuf> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "has no file name"))?;
    let path = directory.canonicalize()?.join(name);
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
        // The name must last as the rows will.
        Ok(_) => File::open(directory)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::metadata(&path)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
            }
        }
        Err(error) => return Err(error),
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

/// Checks, before anything is changed, that the file is empty or ours and not newer; marks an empty one as ours.
async fn claim(options: &SqliteConnectOptions, path: &Path) -> Result<(), OpenError> {
    let foreign = |found| OpenError::Foreign { path: path.to_owned(), found };
    let identify = async |connection: &mut SqliteConnection| {
        let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
        let objects: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(connection).await?;
        Ok::<_, sqlx::Error>((id, objects))
    };
    let mut connection = match options.connect().await {
        Ok(connection) => connection,
        Err(error) if sqlite_code(&error) == Some(26) => return Err(foreign("it is not a SQLite file")),
        Err(error) => return Err(error.into()),
    };
    match identify(&mut connection).await {
        Ok((APPLICATION_ID, _)) => schema::check_sqlite(&mut connection).await?,
        Ok((0, 0)) => {
            // Still in rollback mode: the mark is in the file itself before any log can exist.
            let mark = AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"));
            sqlx::query(mark).execute(&mut connection).await?;
        }
        Ok(_) => return Err(foreign("it is another program's SQLite file")),
        Err(error) if sqlite_code(&error) == Some(26) => return Err(foreign("it is not a SQLite file")),
        Err(error) => return Err(error.into()),
    }
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_writer_syncs_every_commit() {
        let directory = tempfile::tempdir().unwrap();
        let path = prepare_file(&directory.path().join("forkpoint.db")).unwrap();
        let mut connection = writing_options(&plain_options(&path)).connect().await.unwrap();
        // Neither a kill nor any test short of a power cut would show these missing.
        for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1), ("PRAGMA trusted_schema", 0)]
        {
            let found: i64 = sqlx::query_scalar(pragma).fetch_one(&mut connection).await.unwrap();
            assert_eq!(found, expected, "{pragma}");
        }
    }
}
