//! Reads where the database is: a path, `sqlite://<path>` or `postgres://…`.

use crate::error::OpenError;
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;

/// Where a database is. Not printable: the options hold the password.
pub(crate) enum Target {
    /// A file of this machine.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// Parses a path or URL. What follows `sqlite://` is taken literally: nothing is unescaped, there are no options.
    pub(crate) fn parse(text: &str) -> Result<Self, OpenError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The driver's own message may quote the URL, and that holds the password.
            let options = text.parse().map_err(|_| {
                OpenError::Target("the URL is malformed; it looks like postgres://user@host:5432/database".into())
            })?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        let path = text.strip_prefix("sqlite://").unwrap_or(text);
        if path.contains("://") {
            let scheme = path.split("://").next().unwrap_or_default();
            return Err(OpenError::Target(format!(
                "the scheme '{scheme}' is unknown; use a path, sqlite:// or postgres://"
            )));
        }
        if path.is_empty() || path.ends_with('/') || path.starts_with(':') {
            return Err(OpenError::Target(
                "name a database file, for example sqlite:///var/lib/forkpoint/forkpoint.db".into(),
            ));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_name_the_same_file() {
        for text in ["/data/a b?c%20.db", "sqlite:///data/a b?c%20.db"] {
            assert!(
                matches!(Target::parse(text), Ok(Target::Sqlite(path)) if path.as_os_str() == "/data/a b?c%20.db"),
                "{text}"
            );
        }
        assert!(matches!(Target::parse("postgres://me@localhost/x"), Ok(Target::Postgres(_))));
    }

    #[test]
    fn what_is_no_place_is_refused_without_showing_a_password() {
        for text in [
            "",
            "sqlite://",
            "/data/",
            "mysql://u:s3cret@h/d",
            ":memory:",
            "sqlite://:memory:",
            "postgres://u:s3cret@h:notaport/d",
        ] {
            let refusal = Target::parse(text).err().unwrap().to_string();
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }
}
