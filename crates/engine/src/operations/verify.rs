//! Proving that a checkpoint is what its checksum says.

use super::require_ready;
use crate::{Caller, Error, Platform, Result, ports::vault::VaultFailure};
use forkpoint_domain::{
    Invalid,
    checkpoint::{Checkpoint, Durability},
    ids::{CheckpointId, OrgId},
    organization::KeyScope,
    path::SandboxPath,
};
use serde_json::Value;

/// What verifying a checkpoint gave.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Which.
    pub checkpoint: Checkpoint,
    /// The hash of its tree, as computed from what was read: `b3:<hex>`.
    pub checksum: String,
    /// Directories that were read.
    pub directories: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
}

impl Platform {
    /// Reads all of a stored checkpoint back and hashes it again; fails unless it has the checksum that was told.
    pub async fn verify_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Verification> {
        caller.require(KeyScope::Read)?;
        let checkpoint = self.stored_checkpoint(caller, id).await?;
        let Some(vault) = self.inner.vault.clone() else { return Err(not_stored(&checkpoint)) };
        let (place, platform, org) = (self.transfer().await?, self.clone(), caller.org_id);
        // To the end, with the place held: a caller who goes cannot stop the reading.
        let read = self.to_the_end(async move {
            let _place = place;
            vault.examine(org, id).await.map_err(|failure| platform.damaged(org, id, &failure))
        });
        let read = read.await?;
        if read.checksum != checkpoint.checksum {
            let message = format!(
                "checkpoint {id} has the hash {} in the vault, its row says {}",
                read.checksum, checkpoint.checksum
            );
            return Err(Error::conflict("checkpoint_damaged", message));
        }
        Ok(Verification {
            checkpoint,
            checksum: read.checksum,
            directories: read.directories,
            files: read.files,
            bytes: read.bytes,
        })
    }

    /// Proves that a path is in a stored checkpoint; the answer can be checked with the checksum alone.
    pub async fn prove_file(&self, caller: &Caller, id: CheckpointId, path: &SandboxPath) -> Result<Value> {
        caller.require(KeyScope::Read)?;
        let checkpoint = self.stored_checkpoint(caller, id).await?;
        let Some(vault) = self.inner.vault.clone() else { return Err(not_stored(&checkpoint)) };
        let relative = path.as_str().trim_start_matches('/').as_bytes().to_vec();
        if relative.is_empty() {
            return Err(Invalid::new("path", "must name something below the root").into());
        }
        let (place, platform, org) = (self.transfer().await?, self.clone(), caller.org_id);
        let proof = self.to_the_end(async move {
            let _place = place;
            vault.prove(org, id, relative).await.map_err(|failure| platform.damaged(org, id, &failure))
        });
        proof.await?.ok_or_else(|| Error::NotFound {
            kind: "file",
            id: format!("{} in what checkpoint {id} holds besides its template", path.as_str()),
        })
    }

    fn damaged(&self, org: OrgId, id: CheckpointId, failure: &VaultFailure) -> Error {
        tracing::error!(checkpoint.id = %id, %failure, "a stored checkpoint does not verify");
        self.inner.durability.note_damage(org, failure);
        if failure.may_pass {
            return Error::Unavailable(format!("the vault cannot be read now ({failure}); try again"));
        }
        Error::conflict("checkpoint_damaged", format!("checkpoint {id} does not verify: {failure}"))
    }

    async fn stored_checkpoint(&self, caller: &Caller, id: CheckpointId) -> Result<Checkpoint> {
        let checkpoint = self.own_checkpoint(caller, id).await?;
        require_ready(&checkpoint)?;
        match checkpoint.durability {
            Durability::Durable | Durability::Verified => Ok(checkpoint),
            Durability::Captured | Durability::Failed => Err(not_stored(&checkpoint)),
        }
    }
}

fn not_stored(checkpoint: &Checkpoint) -> Error {
    Error::conflict(
        "checkpoint_not_durable",
        format!(
            "checkpoint {} is {}, not in a vault; what is verified is what is stored",
            checkpoint.id, checkpoint.durability
        ),
    )
}
