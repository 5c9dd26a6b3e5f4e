//! The Records port on a database.

use crate::{
    change,
    db::Db,
    error::OpenError,
    row::Row,
    sql,
    statement::Statement,
    tables::{api_keys, checkpoints, events, idempotency, organizations, sandboxes, servers},
    target::Target,
};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    event::Event,
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    organization::{ApiKey, Organization},
    sandbox::Sandbox,
    server::{Server, ServerId},
};
use forkpoint_engine::ports::{
    records::{Change, CheckpointFilter, IdempotencyRecord, Records, RecordsError, SandboxFilter},
    sealer::Sealed,
};

/// Records in a SQLite file or on a PostgreSQL server. Clones share one set of connections.
///
/// Times are kept in microseconds: what is finer is cut off. A commit whose future is dropped may
/// still happen, wholly.
#[derive(Debug, Clone)]
pub struct Database {
    db: Db,
}

impl Database {
    /// Opens the database at a path, a `sqlite://<path>` or a `postgres://…` URL, and brings its
    /// schema up to date. A missing SQLite file is made, for its owner only; its directory must exist.
    pub async fn open(target: &str) -> Result<Self, OpenError> {
        Ok(Self { db: Db::open(Target::parse(target)?).await? })
    }

    /// Ends all connections once what was begun is done. Later calls answer `Unavailable`.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// Prepares every SQL text of this crate without running it: shows that the schema fits the program.
    pub async fn check_statements(&self) -> Result<(), RecordsError> {
        for (name, text) in sql::ALL {
            self.db.prepare(text).await.map_err(|error| RecordsError::Damaged(format!("statement {name}: {error}")))?;
        }
        Ok(())
    }

    /// All rows of a query of `table`.
    async fn many<T>(
        &self,
        table: &'static str,
        query: Statement,
        read: fn(&Row<'_>) -> Result<T, RecordsError>,
    ) -> Result<Vec<T>, RecordsError> {
        let rows = self.db.fetch(query).await?;
        rows.iter().map(|raw| read(&Row::new(raw, table))).collect()
    }

    /// The row of a query for one id.
    async fn one<T>(
        &self,
        table: &'static str,
        query: Statement,
        read: fn(&Row<'_>) -> Result<T, RecordsError>,
    ) -> Result<Option<T>, RecordsError> {
        Ok(self.many(table, query, read).await?.pop())
    }
}

#[async_trait]
impl Records for Database {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordsError> {
        let statements = change::statements(changes)?;
        if statements.is_empty() {
            return Ok(());
        }
        self.db.commit(statements).await
    }

    async fn organization(&self, id: OrgId) -> Result<Option<Organization>, RecordsError> {
        self.one("organizations", organizations::by_id(id), organizations::read).await
    }

    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, RecordsError> {
        self.one("api_keys", api_keys::by_hash(hash), api_keys::read).await
    }

    async fn api_keys(&self, org: OrgId) -> Result<Vec<ApiKey>, RecordsError> {
        self.many("api_keys", api_keys::of(org), api_keys::read).await
    }

    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, RecordsError> {
        self.one("sandboxes", sandboxes::by_id(id), sandboxes::read).await
    }

    async fn sandbox_env(&self, id: SandboxId) -> Result<Option<Sealed>, RecordsError> {
        Ok(self.one("sandboxes", sandboxes::env(id), |row| row.sealed_or_null("env")).await?.flatten())
    }

    async fn sandboxes(&self, filter: SandboxFilter) -> Result<Vec<Sandbox>, RecordsError> {
        self.many("sandboxes", sandboxes::list(&filter), sandboxes::read).await
    }

    async fn checkpoint(&self, id: CheckpointId) -> Result<Option<Checkpoint>, RecordsError> {
        self.one("checkpoints", checkpoints::by_id(id), checkpoints::read).await
    }

    async fn checkpoint_env(&self, id: CheckpointId) -> Result<Option<Sealed>, RecordsError> {
        Ok(self.one("checkpoints", checkpoints::env(id), |row| row.sealed_or_null("env")).await?.flatten())
    }

    async fn checkpoints(&self, filter: CheckpointFilter) -> Result<Vec<Checkpoint>, RecordsError> {
        match checkpoints::list(&filter) {
            Some(query) => self.many("checkpoints", query, checkpoints::read).await,
            None => Ok(Vec::new()),
        }
    }

    async fn deleted_checkpoints(&self) -> Result<Vec<(OrgId, CheckpointId)>, RecordsError> {
        self.many("checkpoints", checkpoints::deleted(), |row| {
            Ok((row.id("org_id", OrgId::from_uuid)?, row.id("id", CheckpointId::from_uuid)?))
        })
        .await
    }

    async fn layers_in_use(&self) -> Result<Vec<LayerId>, RecordsError> {
        self.many("sandboxes or checkpoints", checkpoints::layers_in_use(), |row| row.id("layer", LayerId::from_uuid))
            .await
    }

    async fn idempotent(&self, org: OrgId, key: &str) -> Result<Option<IdempotencyRecord>, RecordsError> {
        if key.contains('\0') {
            // No text of PostgreSQL can hold it, so it was never recorded.
            return Ok(None);
        }
        self.one("idempotency", idempotency::by_key(org, key), idempotency::read).await
    }

    async fn events(&self, org: OrgId, sandbox: Option<SandboxId>, limit: u32) -> Result<Vec<Event>, RecordsError> {
        self.many("events", events::newest(org, sandbox, limit), events::read).await
    }

    fn is_shared(&self) -> bool {
        matches!(self.db, Db::Postgres(_))
    }

    async fn server(&self, id: ServerId) -> Result<Option<Server>, RecordsError> {
        self.one("servers", servers::by_id(id), servers::read).await
    }

    async fn ping(&self) -> Result<(), RecordsError> {
        self.db.fetch(Statement::new(sql::PING, Vec::new())).await.map(drop)
    }
}
