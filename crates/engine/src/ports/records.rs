//! What the platform remembers. Reads are single queries; every write is a list of changes that happen together or not at all.

use super::sealer::Sealed;
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    event::Event,
    ids::{ApiKeyId, CheckpointId, LayerId, OrgId, SandboxId},
    organization::{ApiKey, Organization, User},
    sandbox::{Sandbox, SandboxState},
    server::{Server, ServerId},
};
use jiff::Timestamp;
use std::fmt;

/// Durable records.
#[async_trait]
pub trait Records: Send + Sync + fmt::Debug + 'static {
    /// Makes all changes in one transaction, durable when this returns.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordsError>;

    /// The organisation with this id.
    async fn organization(&self, id: OrgId) -> Result<Option<Organization>, RecordsError>;

    /// The key whose text has this SHA-256, revoked and expired ones too.
    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, RecordsError>;

    /// An organisation's keys that are not revoked, oldest first.
    async fn api_keys(&self, org: OrgId) -> Result<Vec<ApiKey>, RecordsError>;

    /// A sandbox that was not deleted, whoever owns it.
    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, RecordsError>;

    /// The sealed environment of a sandbox.
    async fn sandbox_env(&self, id: SandboxId) -> Result<Option<Sealed>, RecordsError>;

    /// Sandboxes that were not deleted, newest first.
    async fn sandboxes(&self, filter: SandboxFilter) -> Result<Vec<Sandbox>, RecordsError>;

    /// A checkpoint that was not deleted, whoever owns it.
    async fn checkpoint(&self, id: CheckpointId) -> Result<Option<Checkpoint>, RecordsError>;

    /// The sealed environment of a checkpoint; `None` if it has none.
    async fn checkpoint_env(&self, id: CheckpointId) -> Result<Option<Sealed>, RecordsError>;

    /// Checkpoints that were not deleted.
    async fn checkpoints(&self, filter: CheckpointFilter) -> Result<Vec<Checkpoint>, RecordsError>;

    /// Checkpoints that were deleted and are still remembered.
    async fn deleted_checkpoints(&self) -> Result<Vec<(OrgId, CheckpointId)>, RecordsError>;

    /// Every layer that a sandbox or checkpoint row names.
    async fn layers_in_use(&self) -> Result<Vec<LayerId>, RecordsError>;

    /// What an earlier request with this idempotency key made.
    async fn idempotent(&self, org: OrgId, key: &str) -> Result<Option<IdempotencyRecord>, RecordsError>;

    /// Newest events first, at most `limit`.
    async fn events(&self, org: OrgId, sandbox: Option<SandboxId>, limit: u32) -> Result<Vec<Event>, RecordsError>;

    /// Whether other servers may use the same records.
    fn is_shared(&self) -> bool {
        false
    }

    /// What a server told of itself.
    async fn server(&self, id: ServerId) -> Result<Option<Server>, RecordsError>;

    /// Whether the database answers.
    async fn ping(&self) -> Result<(), RecordsError>;
}

/// One change of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new organisation; its slug must be free, else `Conflict`.
    InsertOrganization(Organization),
    /// A new user.
    InsertUser(User),
    /// A new key.
    InsertApiKey(ApiKey),
    /// Revokes a key; `Conflict` if the organisation has no such valid key.
    RevokeApiKey { org: OrgId, id: ApiKeyId, at: Timestamp },
    /// Notes a key's use.
    TouchApiKey { id: ApiKeyId, at: Timestamp },
    /// A new sandbox with its sealed environment.
    InsertSandbox { sandbox: Box<Sandbox>, env: Sealed },
    /// Replaces a sandbox's row; `Conflict` unless it is there, on the same server, in state `from`.
    UpdateSandbox { sandbox: Box<Sandbox>, from: SandboxState },
    /// Replaces a sandbox's sealed environment.
    SetSandboxEnv { id: SandboxId, env: Sealed },
    /// Deletes a sandbox: it leaves every answer; a tombstone stays.
    DeleteSandbox { id: SandboxId, at: Timestamp },
    /// A new checkpoint with its sealed environment, if it has one.
    InsertCheckpoint { checkpoint: Box<Checkpoint>, env: Option<Sealed> },
    /// Replaces a checkpoint's row; `Conflict` if it is gone.
    UpdateCheckpoint { checkpoint: Box<Checkpoint> },
    /// Records how far a checkpoint is: durability, reason, checksum and times, nothing else of it. `Conflict` if it
    /// is gone or not at `from` any more.
    SetDurability { checkpoint: Box<Checkpoint>, from: Durability },
    /// Sets how long a checkpoint is kept; `Conflict` if it is gone, or not kept as `from` says any more.
    SetRetention { id: CheckpointId, from: Kept, to: Kept },
    /// Deletes a checkpoint whose retention is over at `at`; `Conflict` if it is gone, pinned or kept for longer.
    ExpireCheckpoint { id: CheckpointId, at: Timestamp },
    /// Deletes a checkpoint: it leaves every answer; a tombstone stays. `Conflict` if it is gone.
    DeleteCheckpoint { id: CheckpointId, at: Timestamp },
    /// Adds to the event log.
    InsertEvent(Event),
    /// Remembers what an idempotency key made; `Conflict` if it is known.
    InsertIdempotency(IdempotencyRecord),
    /// Forgets an idempotency key, so that the request may be tried again.
    ForgetIdempotency { org: OrgId, key: String },
    /// Tells others of this server, now and until `alive_until`.
    SeeServer(Server),
    /// Gives rows that are nobody's to a server.
    AdoptRows { server: ServerId },
    /// Claims a piece of work until a time, or renews the claim; `Conflict` if another server has it now.
    TakeLease { job: String, holder: ServerId, now: Timestamp, until: Timestamp },
    /// Gives a claim back; `Conflict` if it is another server's by now. With the work's result in one transaction,
    /// nobody records what somebody else has taken over.
    EndLease { job: String, holder: ServerId },
    /// Forgets idempotency keys and events made before, tombstones deleted before.
    Prune { before: Timestamp },
}

/// How long a checkpoint is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Until then; `None`: for ever.
    pub until: Option<Timestamp>,
    /// Whatever `until` says.
    pub pinned: bool,
}

/// Which sandboxes.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// Of this organisation.
    pub org: Option<OrgId>,
    /// On this server.
    pub server: Option<ServerId>,
    /// In one of these states; empty: any.
    pub states: Vec<SandboxState>,
    /// Whose lifetime ended at or before this.
    pub expired_at: Option<Timestamp>,
    /// Stopped at or before this and still with a layer.
    pub stopped_before: Option<Timestamp>,
    /// At most this many; `None`: all.
    pub limit: Option<u32>,
}

/// Which checkpoints.
#[derive(Debug, Clone, Default)]
pub struct CheckpointFilter {
    /// Of this organisation.
    pub org: Option<OrgId>,
    /// Captured from this sandbox.
    pub sandbox: Option<SandboxId>,
    /// Whose name contains this, ignoring case; exact matches come first.
    pub name_contains: Option<String>,
    /// Whose name is this.
    pub name_exact: Option<String>,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
    /// Whose retention ended at or before this; pinned ones never.
    pub expired_at: Option<Timestamp>,
    /// Still in status `processing`.
    pub processing_only: bool,
    /// Ready, and durability `captured` or `durable`: on their way into the vault.
    pub on_the_way: bool,
    /// Held by this layer.
    pub layer: Option<LayerId>,
    /// As far as this on their way into the vault.
    pub durability: Option<Durability>,
    /// Only outcomes of recipes' steps, or none of them; `None`: both.
    pub steps: Option<bool>,
    /// With one of these step keys; empty: any or none.
    pub step_keys: Vec<String>,
    /// Made on this server.
    pub server: Option<ServerId>,
    /// Durability `durable` since this or longer.
    pub durable_before: Option<Timestamp>,
    /// At most this many; `None`: all.
    pub limit: Option<u32>,
}

/// What one idempotency key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Whose key.
    pub org: OrgId,
    /// The key as the client sent it.
    pub key: String,
    /// Digest of route and body: the same key for another request is refused.
    pub fingerprint: String,
    /// Ids of what was made, in order, as text.
    pub made: Vec<String>,
    /// When.
    pub at: Timestamp,
}

/// Why records refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// The change does not fit what is recorded; says what.
    #[error("conflict: {0}")]
    Conflict(&'static str),
    /// The database does not answer or has no room; nothing was changed.
    #[error("database is unavailable: {0}")]
    Unavailable(String),
    /// A row does not read back; names it.
    #[error("record is damaged: {0}")]
    Damaged(String),
}
