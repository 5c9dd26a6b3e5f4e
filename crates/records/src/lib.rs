//! What the platform remembers, on SQLite beside the server or on PostgreSQL for several servers.
//!
//! One text per query serves both engines; only connecting, committing and migrating differ (`db`).

mod change;
mod database;
mod db;
mod error;
mod fold;
mod row;
mod sql;
mod statement;
mod tables;
mod target;

pub use database::Database;
pub use error::OpenError;
