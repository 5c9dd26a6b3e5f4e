//! Reading rows back. A row may have been damaged or written by another hand, so nothing is taken for granted.

use forkpoint_domain::Invalid;
use forkpoint_engine::ports::{records::RecordsError, sealer::Sealed};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::{Decode, Row as _, Type, postgres::PgRow, sqlite::SqliteRow};
use std::{fmt::Display, str::FromStr};
use uuid::Uuid;

/// A row as an engine gave it.
pub(crate) enum Raw {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A row with the table it is from; every refusal names table, id and column.
pub(crate) struct Row<'r> {
    raw: &'r Raw,
    table: &'static str,
}

impl<'r> Row<'r> {
    /// Wraps a row of `table`.
    pub(crate) fn new(raw: &'r Raw, table: &'static str) -> Self {
        Self { raw, table }
    }

    fn get<T>(&self, column: &'static str) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, sqlx::Sqlite> + Type<sqlx::Sqlite> + Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres>,
    {
        match self.raw {
            Raw::Sqlite(row) => row.try_get(column),
            Raw::Postgres(row) => row.try_get(column),
        }
    }

    fn read<T>(&self, column: &'static str) -> Result<T, RecordsError>
    where
        T: Decode<'r, sqlx::Sqlite> + Type<sqlx::Sqlite> + Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres>,
    {
        self.get(column).map_err(|error| match error {
            sqlx::Error::ColumnDecode { source, .. } => self.damaged(column, source),
            error => self.damaged(column, error),
        })
    }

    /// The refusal of one column.
    pub(crate) fn damaged(&self, column: &'static str, problem: impl Display) -> RecordsError {
        // An id that does not read back is the damage itself; it is bounded, for it goes into logs.
        let id: String = ["id", "key", "layer"]
            .into_iter()
            .find_map(|name| self.get::<String>(name).ok())
            .map_or_else(|| "of unknown id".to_owned(), |id| id.chars().take(64).collect());
        RecordsError::Damaged(format!("{} {id}: {column}: {problem}", self.table))
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String, RecordsError> {
        self.read(column)
    }

    pub(crate) fn text_or_null(&self, column: &'static str) -> Result<Option<String>, RecordsError> {
        self.read(column)
    }

    pub(crate) fn bool(&self, column: &'static str) -> Result<bool, RecordsError> {
        self.read(column)
    }

    pub(crate) fn real(&self, column: &'static str) -> Result<f64, RecordsError> {
        self.read(column)
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<Vec<u8>, RecordsError> {
        self.read(column)
    }

    pub(crate) fn sealed_or_null(&self, column: &'static str) -> Result<Option<Sealed>, RecordsError> {
        Ok(self.read::<Option<Vec<u8>>>(column)?.map(Sealed))
    }

    /// A number that must fit its type, e.g. not be negative.
    pub(crate) fn number<N: TryFrom<i64>>(&self, column: &'static str) -> Result<N, RecordsError> {
        self.fitting(column, self.read(column)?)
    }

    pub(crate) fn number_or_null<N: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<N>, RecordsError> {
        self.read::<Option<i64>>(column)?.map(|number| self.fitting(column, number)).transpose()
    }

    fn fitting<N: TryFrom<i64>>(&self, column: &'static str, number: i64) -> Result<N, RecordsError> {
        N::try_from(number).map_err(|_| self.damaged(column, format!("{number} is out of range")))
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<Timestamp, RecordsError> {
        Timestamp::from_microsecond(self.read(column)?).map_err(|error| self.damaged(column, error))
    }

    pub(crate) fn time_or_null(&self, column: &'static str) -> Result<Option<Timestamp>, RecordsError> {
        self.read::<Option<i64>>(column)?
            .map(|micros| Timestamp::from_microsecond(micros).map_err(|error| self.damaged(column, error)))
            .transpose()
    }

    /// An id, wrapped by e.g. `SandboxId::from_uuid`.
    pub(crate) fn id<I>(&self, column: &'static str, wrap: fn(Uuid) -> I) -> Result<I, RecordsError> {
        let text: &str = self.read(column)?;
        Uuid::parse_str(text).map(wrap).map_err(|error| self.damaged(column, error))
    }

    pub(crate) fn id_or_null<I>(&self, column: &'static str, wrap: fn(Uuid) -> I) -> Result<Option<I>, RecordsError> {
        self.read::<Option<&str>>(column)?
            .map(|text| Uuid::parse_str(text).map(wrap).map_err(|error| self.damaged(column, error)))
            .transpose()
    }

    /// A word of one of the domain's enums.
    pub(crate) fn word<W: FromStr<Err = Invalid>>(&self, column: &'static str) -> Result<W, RecordsError> {
        self.read::<&str>(column)?.parse().map_err(|invalid: Invalid| self.damaged(column, invalid.problem))
    }

    pub(crate) fn word_or_null<W: FromStr<Err = Invalid>>(
        &self,
        column: &'static str,
    ) -> Result<Option<W>, RecordsError> {
        self.read::<Option<&str>>(column)?
            .map(|text| text.parse().map_err(|invalid: Invalid| self.damaged(column, invalid.problem)))
            .transpose()
    }

    pub(crate) fn json<J: DeserializeOwned>(&self, column: &'static str) -> Result<J, RecordsError> {
        serde_json::from_str(self.read(column)?).map_err(|error| self.damaged(column, error))
    }
}
