//! The engine's port, by this vault: its blocking calls on threads that may block.

use crate::{CollectOptions, Header, PersistJob, Progress, SnapshotRef, Vault, VaultError};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::Checkpoint,
    ids::{CheckpointId, OrgId},
    stored::StoredLayer,
};
use forkpoint_engine::ports::vault as port;
use forkpoint_engine::ports::{
    sealer::Sealed,
    vault::{Examined, Stored, Vault as VaultPort, VaultFailure},
};
use jiff::SignedDuration;
use serde_json::json;
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

/// A capture has ended when its row is written: what it captured is at most this much older.
const CAPTURE: SignedDuration = SignedDuration::from_secs(60);

#[async_trait]
impl VaultPort for Vault {
    async fn persist(
        &self,
        checkpoint: &Checkpoint,
        env: Option<Sealed>,
        tree: &Path,
        parent: Option<CheckpointId>,
    ) -> Result<Stored, VaultFailure> {
        let header = Header {
            org: checkpoint.org_id,
            checkpoint: checkpoint.id,
            sandbox: checkpoint.sandbox_id,
            parent: checkpoint.parent_id,
            template_name: checkpoint.template.name.to_string(),
            template_digest: checkpoint.template.digest.clone(),
            scope: json!(checkpoint.scope),
            metadata: metadata(checkpoint),
            env: env.map(|sealed| sealed.0),
            created_at: checkpoint.created_at,
        };
        let job = PersistJob {
            tree: tree.to_owned(),
            header,
            parent: parent.map(|checkpoint_id| SnapshotRef { org: checkpoint.org_id, checkpoint: checkpoint_id }),
            captured_after: checkpoint.created_at - CAPTURE,
            images: Vec::new(),
            progress: Arc::new(Progress::default()),
        };
        let vault = self.clone();
        let _shown = self.0.running.show(checkpoint.id, port::Step::Storing, &job.progress);
        let done = blocking(move || vault.persist(&job)).await?;
        Ok(Stored { checksum: done.root.to_string(), bytes_sent: done.bytes_sent })
    }

    async fn verify(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure> {
        let vault = self.clone();
        let name = SnapshotRef { org, checkpoint };
        let progress = Arc::new(Progress::default());
        let _shown = self.0.running.show(checkpoint, port::Step::Verifying, &progress);
        blocking(move || vault.verify(name, None, &progress)).await.map(drop)
    }

    async fn examine(&self, org: OrgId, checkpoint: CheckpointId) -> Result<Examined, VaultFailure> {
        let vault = self.clone();
        let name = SnapshotRef { org, checkpoint };
        let read = blocking(move || vault.verify(name, None, &Progress::default())).await?;
        Ok(Examined {
            checksum: read.root.to_string(),
            directories: read.directories,
            files: read.files,
            bytes: read.bytes,
        })
    }

    async fn holds(&self, org: OrgId, checkpoint: CheckpointId, checksum: &str) -> Result<bool, VaultFailure> {
        let (vault, checksum, name) = (self.clone(), checksum.to_owned(), SnapshotRef { org, checkpoint });
        blocking(move || match vault.read(name) {
            Ok(snapshot) => Ok(snapshot.root.to_string() == checksum),
            // A store that lists it all the same is not to be believed.
            Err(VaultError::NotFound(_)) if vault.list(org)?.contains(&name) => {
                Err(VaultError::Broken("the store lists a record, and says that it does not have it; try again"))
            }
            Err(VaultError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    async fn is_damaged(&self, object: &str) -> Result<bool, VaultFailure> {
        let (vault, object) = (self.clone(), object.to_owned());
        blocking(move || vault.is_damaged(&object)).await
    }

    async fn suspects(&self) -> Result<Vec<(OrgId, String)>, VaultFailure> {
        let vault = self.clone();
        blocking(move || vault.suspects()).await
    }

    async fn touched(&self, object: &str) -> Result<Vec<CheckpointId>, VaultFailure> {
        let (vault, object) = (self.clone(), object.to_owned());
        let touched = blocking(move || vault.touched(&object, &Progress::default())).await?;
        Ok(touched.into_iter().map(|name| name.checkpoint).collect())
    }

    async fn restate(&self, checkpoint: &Checkpoint) -> Result<(), VaultFailure> {
        let (vault, name) = (self.clone(), SnapshotRef { org: checkpoint.org_id, checkpoint: checkpoint.id });
        let metadata = metadata(checkpoint);
        blocking(move || vault.restate(name, metadata)).await
    }

    async fn prove(
        &self,
        org: OrgId,
        checkpoint: CheckpointId,
        path: Vec<u8>,
    ) -> Result<Option<serde_json::Value>, VaultFailure> {
        let vault = self.clone();
        let name = SnapshotRef { org, checkpoint };
        blocking(move || {
            let root = vault.read(name)?.root;
            match vault.prove(name, Path::new(OsStr::from_bytes(&path))) {
                Ok(proof) => proof.to_json(root).map(Some),
                Err(VaultError::Tree { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn materialize(&self, org: OrgId, checkpoint: CheckpointId, into: &Path) -> Result<(), VaultFailure> {
        let (vault, into) = (self.clone(), into.to_owned());
        let name = SnapshotRef { org, checkpoint };
        let progress = Arc::new(Progress::default());
        let _shown = self.0.running.show(checkpoint, port::Step::Restoring, &progress);
        blocking(move || vault.materialize(name, &into, &progress)).await.map(drop)
    }

    async fn browse(&self, org: OrgId, checkpoint: CheckpointId) -> Result<Arc<dyn StoredLayer>, VaultFailure> {
        let vault = self.clone();
        let browser = blocking(move || vault.browse(SnapshotRef { org, checkpoint })).await?;
        Ok(Arc::new(browser))
    }

    fn progress(&self, checkpoint: CheckpointId) -> Option<port::Progress> {
        self.0.running.of(checkpoint)
    }

    async fn stored(&self) -> Result<Vec<(OrgId, CheckpointId)>, VaultFailure> {
        let vault = self.clone();
        blocking(move || {
            let mut all = Vec::new();
            for org in vault.list_orgs()? {
                all.extend(vault.list(org)?.into_iter().map(|name| (name.org, name.checkpoint)));
            }
            Ok(all)
        })
        .await
    }

    async fn usage(&self, org: OrgId) -> Result<Vec<(CheckpointId, port::Usage)>, VaultFailure> {
        let vault = self.clone();
        let usage = blocking(move || vault.usage(org)).await?;
        let told =
            |usage: crate::Usage| port::Usage { unique_bytes: usage.unique_bytes, total_bytes: usage.total_bytes };
        Ok(usage.into_iter().map(|(name, usage)| (name.checkpoint, told(usage))).collect())
    }

    async fn delete(&self, org: OrgId, checkpoint: CheckpointId) -> Result<(), VaultFailure> {
        let vault = self.clone();
        blocking(move || vault.delete(SnapshotRef { org, checkpoint })).await
    }

    fn shared(&self) -> Option<&str> {
        self.0.shared.as_deref()
    }

    async fn collect(&self, org: Option<OrgId>) -> Result<(), VaultFailure> {
        let vault = self.clone();
        let options = CollectOptions { org, ..CollectOptions::default() };
        let done = blocking(move || vault.collect(&options)).await?;
        tracing::info!(?done, "collected the vault");
        Ok(())
    }
}

/// What a rebuilt row needs besides what the header names.
fn metadata(checkpoint: &Checkpoint) -> serde_json::Value {
    json!({
        "name": checkpoint.name,
        "description": checkpoint.description,
        "metadata": checkpoint.metadata,
        "kind": checkpoint.kind.as_str(),
        "cloned_from": checkpoint.cloned_from,
        "file_count": checkpoint.file_count,
        "size_bytes": checkpoint.size_bytes,
        "expires_at": checkpoint.expires_at,
        "pinned": checkpoint.pinned,
    })
}

type Shown = HashMap<CheckpointId, (port::Step, Arc<Progress>)>;

/// What is going on, for those who ask how far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<Shown>>);

impl Running {
    fn all(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a piece of work until the guard is dropped.
    fn show(&self, checkpoint: CheckpointId, step: port::Step, progress: &Arc<Progress>) -> ShownWork {
        self.all().insert(checkpoint, (step, progress.clone()));
        ShownWork { running: self.clone(), checkpoint, progress: progress.clone() }
    }

    fn of(&self, checkpoint: CheckpointId) -> Option<port::Progress> {
        let (step, progress) = self.all().get(&checkpoint).cloned()?;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Some(port::Progress {
            step,
            files_total: read(&progress.files_total),
            files_done: read(&progress.files_done),
            bytes_total: read(&progress.bytes_total),
            bytes_done: read(&progress.bytes_done),
        })
    }
}

struct ShownWork {
    running: Running,
    checkpoint: CheckpointId,
    progress: Arc<Progress>,
}

impl Drop for ShownWork {
    fn drop(&mut self) {
        let mut all = self.running.all();
        // Another piece of work on the same checkpoint may have taken its place.
        if all.get(&self.checkpoint).is_some_and(|(_, shown)| Arc::ptr_eq(shown, &self.progress)) {
            all.remove(&self.checkpoint);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(VaultFailure {
            reason: error.to_string(),
            may_pass: error.may_pass(),
            damaged: error.damaged_object().map(str::to_owned),
            lost: error.is_lost(),
        }),
        Err(error) => Err(VaultFailure::new(error.to_string(), false)),
    }
}
