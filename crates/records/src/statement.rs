//! One SQL statement with its values, for either engine.

use forkpoint_engine::ports::records::RecordsError;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::fmt;

/// A value of one of the five types that columns have; each knows its type when it is null.
#[derive(Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Real(f64),
    Bool(bool),
    Bytes(Option<Vec<u8>>),
}

// Values may be secrets' hashes or people's data: only the types are shown.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "text",
            Self::Int(_) => "int",
            Self::Real(_) => "real",
            Self::Bool(_) => "bool",
            Self::Bytes(_) => "bytes",
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<uuid::Uuid> for Value {
    fn from(id: uuid::Uuid) -> Self {
        Self::Text(Some(id.to_string()))
    }
}

impl From<Option<uuid::Uuid>> for Value {
    fn from(id: Option<uuid::Uuid>) -> Self {
        Self::Text(id.map(|id| id.to_string()))
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Int(Some(time.as_microsecond()))
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(time: Option<Timestamp>) -> Self {
        Self::Int(time.map(Timestamp::as_microsecond))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(Some(i64::from(number)))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl From<Option<Vec<u8>>> for Value {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes)
    }
}

impl Value {
    /// A count or size; columns are signed, so the upper half of `u64` has no place.
    pub(crate) fn count(number: u64) -> Result<Self, RecordsError> {
        i64::try_from(number)
            .map(|number| Self::Int(Some(number)))
            .map_err(|_| RecordsError::Conflict("a number is larger than can be recorded"))
    }

    /// A measure. Not-a-number would become null on one engine and stay on the other.
    pub(crate) fn measure(number: f64) -> Result<Self, RecordsError> {
        if number.is_finite() {
            Ok(Self::Real(number))
        } else {
            Err(RecordsError::Conflict("a measured number is not finite"))
        }
    }

    /// Any JSON, as compact text.
    pub(crate) fn json(value: &impl serde::Serialize) -> Result<Self, RecordsError> {
        serde_json::to_string(value)
            .map(Self::from)
            .map_err(|_| RecordsError::Conflict("a value cannot be written as JSON"))
    }
}

/// One statement, ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The text, with `$1`, `$2`, …
    pub(crate) sql: SqlStr,
    /// Their values.
    pub(crate) args: Vec<Value>,
    /// Said when a unique value is taken.
    pub(crate) taken: &'static str,
    /// Said when no row was changed; `None`: that is well.
    pub(crate) missing: Option<&'static str>,
}

impl Statement {
    /// A statement of the registry.
    pub(crate) fn new(sql: &'static str, args: Vec<Value>) -> Self {
        Self { sql: sql.into_sql_str(), args, taken: "it exists already", missing: None }
    }

    /// Makes a violated uniqueness a conflict with this explanation.
    pub(crate) fn unless_taken(mut self, taken: &'static str) -> Self {
        self.taken = taken;
        self
    }

    /// Makes it a conflict with this explanation if no row was changed.
    pub(crate) fn unless_missing(mut self, missing: &'static str) -> Self {
        self.missing = Some(missing);
        self
    }

    /// Judges how many rows were changed.
    pub(crate) fn check(&self, rows_affected: u64) -> Result<(), RecordsError> {
        match self.missing {
            Some(missing) if rows_affected == 0 => Err(RecordsError::Conflict(missing)),
            _ => Ok(()),
        }
    }
}

/// A query put together from constant fragments; only values come from outside, and always as parameters.
#[derive(Debug)]
pub(crate) struct Select {
    sql: String,
    args: Vec<Value>,
}

impl Select {
    /// Begins with a query of the registry that ends inside a `WHERE`.
    pub(crate) fn new(base: &'static str) -> Self {
        Self { sql: base.to_owned(), args: Vec::new() }
    }

    /// Adds constant text.
    pub(crate) fn raw(&mut self, fragment: &'static str) -> &mut Self {
        self.sql.push_str(fragment);
        self
    }

    /// Adds a parameter.
    pub(crate) fn value(&mut self, value: impl Into<Value>) -> &mut Self {
        self.args.push(value.into());
        self.sql.push('$');
        self.sql.push_str(&self.args.len().to_string());
        self
    }

    /// Adds a list of parameters in brackets, for `IN`.
    pub(crate) fn list(&mut self, values: impl Iterator<Item = &'static str>) -> &mut Self {
        self.raw("(");
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.raw(", ");
            }
            self.value(value);
        }
        self.raw(")")
    }

    /// Ends with the most rows to give, if that is bounded.
    pub(crate) fn limited(mut self, limit: Option<u32>) -> Statement {
        if let Some(limit) = limit {
            self.raw(" LIMIT ").value(limit);
        }
        Statement {
            // Safe: every fragment is a constant of this crate (`&'static str`), every value a parameter.
            sql: AssertSqlSafe(self.sql).into_sql_str(),
            args: self.args,
            taken: "it exists already",
            missing: None,
        }
    }
}
