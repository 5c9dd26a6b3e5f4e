//! Why a database could not be opened, and how a driver's errors become the port's.

use forkpoint_engine::ports::records::RecordsError;
use sqlx::error::ErrorKind;
use std::{io, path::PathBuf};

/// Why a database could not be opened. Messages hold no password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is neither a path nor a URL that is understood.
    #[error("database: {0}")]
    Target(String),
    /// The file cannot be made, read or written.
    #[error("database file {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there, but is not Forkpoint's.
    #[error("{path} is not a Forkpoint database ({found}); name another file or move this one away")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// A newer Forkpoint has changed the schema.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}; use a newer Forkpoint"
    )]
    Newer {
        /// The database's version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The schema is not what its version says, or could not be brought up to date.
    #[error("database schema: {0}")]
    Schema(String),
    /// The server is too old or set so that it cannot serve.
    #[error("database server: {0}")]
    Unfit(String),
    /// The database does not answer.
    #[error("database does not answer: {0}")]
    Unavailable(String),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What an error means for the transaction in which it happened.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This statement cannot be; the connection is sound, and on SQLite so is the transaction around it.
    Refused(RecordsError),
    /// Another transaction was in the way; the same one may pass when it is tried again.
    Collided(sqlx::Error),
    /// The transaction, and perhaps the connection, is lost.
    Broken(sqlx::Error),
}

impl Failure {
    /// Sorts a driver's error; `taken` says what a violated uniqueness means.
    pub(crate) fn of(error: sqlx::Error, taken: &'static str) -> Self {
        let Some(database) = error.as_database_error() else { return Self::Broken(error) };
        match database.kind() {
            ErrorKind::UniqueViolation => return Self::Refused(RecordsError::Conflict(taken)),
            ErrorKind::ForeignKeyViolation => {
                return Self::Refused(RecordsError::Conflict("the organisation does not exist"));
            }
            _ => {}
        }
        let code = database.code().unwrap_or_default();
        if let Some(primary) = sqlite_code(&error) {
            // 18 too big, 19 constraint, 20 type mismatch: only the statement is undone.
            return if matches!(primary, 18..=20) { Self::Refused(unavailable(&error)) } else { Self::Broken(error) };
        }
        match code.as_ref() {
            // Serialization failure, deadlock, lock timeout.
            "40001" | "40P01" | "55P03" => Self::Collided(error),
            // Data exceptions and constraints, e.g. a NUL character in a text.
            code if code.starts_with("22") || code.starts_with("23") => Self::Refused(unavailable(&error)),
            _ => Self::Broken(error),
        }
    }

    /// The failure as callers see it.
    pub(crate) fn into_error(self) -> RecordsError {
        match self {
            Self::Refused(error) => error,
            Self::Collided(error) | Self::Broken(error) => from_driver(&error),
        }
    }
}

/// A driver's error outside of any row.
pub(crate) fn from_driver(error: &sqlx::Error) -> RecordsError {
    match sqlite_code(error) {
        // 11 corrupt, 26 not a database: no retry will help.
        Some(11 | 26) => RecordsError::Damaged(format!("database file: {error}")),
        _ => unavailable(error),
    }
}

fn unavailable(error: &sqlx::Error) -> RecordsError {
    RecordsError::Unavailable(error.to_string())
}

/// SQLite's primary result code, if the error is SQLite's.
pub(crate) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let database = error.as_database_error()?;
    database.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    database.code()?.parse::<i32>().ok().map(|extended| extended & 0xff)
}
