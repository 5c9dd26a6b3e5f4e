//! The rows of stored checkpoints, made again from what the vault keeps beside their trees.

use crate::{SnapshotRef, Vault, VaultError, error::Result, object_keys::ObjectKey, record, store::Keep};
use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointKind, CheckpointStatus, Durability},
    ids::{CheckpointId, LayerId},
    scope::ScopeSpec,
    server::ServerId,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::sealer::Sealed;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

/// How often a record is written that does not read back.
const REWRITES: u32 = 4;

/// What [`crate::port`] puts into a header besides its own fields.
#[derive(Deserialize)]
struct Rest {
    name: String,
    description: Option<String>,
    metadata: serde_json::Map<String, serde_json::Value>,
    kind: String,
    cloned_from: Option<CheckpointId>,
    file_count: u64,
    size_bytes: u64,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    pinned: bool,
}

impl Vault {
    /// Replaces what a record keeps for its row besides the header's own fields; the tree stays as it is. A checkpoint
    /// that is not stored is left so.
    pub fn restate(&self, name: SnapshotRef, metadata: serde_json::Value) -> Result<()> {
        let Some(org) = self.0.org(name.org)? else { return Ok(()) };
        let (mut stored, top) = match self.0.record(&org, name) {
            Err(VaultError::NotFound(_)) => return Ok(()),
            read => read?,
        };
        if stored.header.metadata == metadata {
            return Ok(());
        }
        stored.header.metadata = metadata;
        let bytes = bytes::Bytes::from(record::seal(&org.keys, &stored, &top.pieces)?);
        let key = ObjectKey::Record(name).to_string();
        // There may be no layer to make another record from: this one is seen to be right.
        for _ in 0..REWRITES {
            self.0.store.put(&key, bytes.clone(), Keep::Always)?;
            if self.0.store.get(&key, None).is_ok_and(|written| written == bytes) {
                return Ok(());
            }
        }
        Err(VaultError::corrupt(key, "it was written anew, and does not read back as it was written"))
    }

    /// The row and the sealed environment of a stored checkpoint. Its layer is one that no machine has: it comes back
    /// from the vault when it is needed. The checkpoint counts as `durable` until it was read back.
    pub fn recall(&self, name: SnapshotRef) -> Result<(Checkpoint, Option<Sealed>)> {
        let stored = self.read(name)?;
        let damaged = |problem: String| VaultError::corrupt(ObjectKey::Record(name).to_string(), problem);
        let header = stored.header;
        let rest = Rest::deserialize(&header.metadata).map_err(|error| damaged(error.to_string()))?;
        let scope = ScopeSpec::deserialize(&header.scope).map_err(|error| damaged(error.to_string()))?;
        let checkpoint = Checkpoint {
            id: header.checkpoint,
            org_id: header.org,
            server: ServerId::NOBODY,
            sandbox_id: header.sandbox,
            parent_id: header.parent,
            cloned_from: rest.cloned_from,
            name: rest.name,
            description: rest.description,
            kind: rest.kind.parse::<CheckpointKind>().map_err(|error| damaged(error.to_string()))?,
            status: CheckpointStatus::Ready,
            failure: None,
            durability: Durability::Durable,
            durability_reason: None,
            durable_at: Some(stored.stored_at),
            verified_at: None,
            template: TemplateRef {
                name: TemplateName::parse(&header.template_name).map_err(|error| damaged(error.to_string()))?,
                digest: header.template_digest,
            },
            layer: LayerId::from_uuid(Uuid::now_v7()),
            scope,
            has_env: header.env.is_some(),
            metadata: rest.metadata,
            file_count: rest.file_count,
            size_bytes: rest.size_bytes,
            checksum: stored.root.to_string(),
            pause_ms: 0.0,
            copy_duration_ms: 0.0,
            created_at: header.created_at,
            expires_at: rest.expires_at,
            pinned: rest.pinned,
            step_key: None,
        };
        Ok((checkpoint, header.env.map(Sealed)))
    }
}
