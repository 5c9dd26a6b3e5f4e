//! Checkpoints that come in as archives: taken whole, or nothing of them.

use super::of_archive;
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    operations::idempotency::IdempotencyKey,
    platform::{new_uuid, templates::TemplateClaim, transfers::Upload},
    ports::{
        guest::ByteStream,
        portable::{Archived, ArchivedTemplate, EnvState, Portable},
        records::Change,
    },
};
use forkpoint_domain::{
    checkpoint::{
        Checkpoint, CheckpointKind, CheckpointStatus, Durability, check_description, check_metadata, check_name,
        retention_end,
    },
    env::Environment,
    event::EventKind,
    ids::{CheckpointId, LayerId},
    organization::KeyScope,
    restore::{LayerPlan, TreeRef, plan_create},
    scope::Scope,
    template::{TemplateName, TemplateRef},
};
use futures::StreamExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{fs::File, sync::Arc};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

/// What an archive may have beyond the bytes of a checkpoint's files: its template, headers, documents.
const BESIDE_FILES: u64 = 16 << 30;
/// Room is looked at once in so many bytes.
const LOOK_EVERY: u64 = 16 << 20;
/// An archive is not taken in when less than this is left.
const LEAST_ROOM: u64 = 256 << 20;

/// How an archive is to be taken in.
#[derive(Debug, Clone, Default)]
pub struct ImportCheckpoint {
    /// What the checkpoint is called here; `None`: as the archive says.
    pub name: Option<String>,
    /// Bytes of the archive, as far as known.
    pub size: Option<u64>,
    /// The client's own name for this request.
    pub key: Option<String>,
}

/// An archive that is here whole, in a file without a name.
#[derive(Debug)]
pub struct ReceivedArchive {
    portable: Arc<dyn Portable>,
    file: Arc<File>,
    name: Option<String>,
    key: Option<IdempotencyKey>,
    _upload: Upload,
}

impl Platform {
    /// The largest archive that is taken, in bytes.
    pub fn largest_archive(&self) -> u64 {
        self.inner.settings.capture_limits.max_bytes.saturating_add(BESIDE_FILES)
    }

    /// Takes an archive in as it comes, before anything is made of it. If it stops coming, nothing of it is left.
    pub async fn receive_archive(
        &self,
        caller: &Caller,
        request: ImportCheckpoint,
        content: ByteStream,
    ) -> Result<ReceivedArchive> {
        caller.require(KeyScope::Write)?;
        if let Some(name) = &request.name {
            check_name(name)?;
        }
        let portable = self.portable()?;
        if request.size.is_some_and(|size| size > self.largest_archive()) {
            return Err(self.archive_too_large());
        }
        let upload = self.inner.transfers.upload(caller.org_id)?;
        let (file, digest) = self.receive(&*portable, content).await?;
        let key = request.key.map(|key| IdempotencyKey {
            key,
            fingerprint: fingerprint(request.name.as_deref().unwrap_or_default(), &digest),
        });
        Ok(ReceivedArchive { portable, file: Arc::new(file), name: request.name, key, _upload: upload })
    }

    /// Makes a checkpoint of an archive. Whatever is wrong with that, nothing is left.
    pub async fn import_checkpoint(&self, caller: &Caller, archive: ReceivedArchive) -> Result<Checkpoint> {
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move { platform.take_in(&caller, archive).await }).await
    }

    /// Keeps an archive in a file without a name; gives also its SHA-256.
    async fn receive(&self, portable: &dyn Portable, mut content: ByteStream) -> Result<(File, [u8; 32])> {
        let mut file = tokio::fs::File::from_std(portable.spool().await?);
        let (mut size, mut looked, mut hasher) = (0_u64, None, Sha256::new());
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(|error| {
                forkpoint_domain::Invalid::new(
                    "archive",
                    format!("broke off after {size} bytes ({error}); nothing was kept"),
                )
            })?;
            size += piece.len() as u64;
            if size > self.largest_archive() {
                return Err(self.archive_too_large());
            }
            if looked.is_none_or(|at| size - at > LOOK_EVERY) {
                looked = Some(size);
                if self.inner.runtime.room().await?.host_bytes < LEAST_ROOM {
                    return Err(Error::OutOfSpace(
                        "the host has too little disk space left for the archive; nothing was kept".into(),
                    ));
                }
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(unwritten)?;
        }
        file.flush().await.map_err(unwritten)?;
        Ok((file.into_std().await, hasher.finalize().into()))
    }

    fn archive_too_large(&self) -> Error {
        Error::TooLarge(format!("the archive has more than {} bytes; nothing was kept", self.largest_archive()))
    }

    async fn take_in(&self, caller: &Caller, received: ReceivedArchive) -> Result<Checkpoint> {
        let ReceivedArchive { portable, file: archive, name, key, _upload } = received;
        let _place = self.transfer().await?;
        let inner = &self.inner;
        if let Some(made) = self.made_before(caller, key.as_ref()).await? {
            let id = made.first().and_then(|id| id.parse::<CheckpointId>().ok());
            if let Some(id) = id
                && let Some(checkpoint) = inner.records.checkpoint(id).await?
            {
                return Ok(checkpoint);
            }
            if let Some(key) = &key {
                self.forget_key(caller, key).await?;
            }
        }
        // Nobody can stop this one: it is bounded, and a client that went may ask for what it made by its key.
        let stop = CancellationToken::new();
        let archived = portable.read(archive.clone(), stop.clone()).await.map_err(of_archive)?;
        let lineage = archived.lineage.clone();
        let name = name.unwrap_or(lineage.name.clone());
        check_name(&name)?;
        lineage.description.as_deref().map_or(Ok(()), check_description)?;
        check_metadata(&lineage.metadata)?;
        let scope = Scope::parse(lineage.scope.clone())?;
        let env = match lineage.env {
            EnvState::Included => Some(Environment::parse("env", archived.env.clone())?),
            EnvState::None | EnvState::LeftOut => None,
        };
        let Below { template, claim: template_claim, is_new } =
            self.template_of(caller, &*portable, &archive, &archived, &stop).await?;
        let (beside, layer) = (LayerId::from_uuid(new_uuid()), LayerId::from_uuid(new_uuid()));
        let beside_claim = inner.claims.claim(beside);
        let claim = inner.claims.claim(layer).with_template(template_claim);
        let id = CheckpointId::from_uuid(new_uuid());
        let outcome = async {
            inner.runtime.make_layer(beside, &plan_create(&template)).await?;
            let limits = inner.settings.capture_limits;
            let checksum = portable.fill(archive, beside, limits, stop).await.map_err(of_archive)?;
            pass(Point::ImportFilled);
            let whole = LayerPlan { template: template.clone(), base: Some(beside), graft: None };
            inner.runtime.make_layer(layer, &whole).await?;
            pass(Point::ImportLayer);
            let tree = TreeRef { template: template.clone(), layer: Some(layer) };
            let measure = inner.runtime.measure(&tree, &scope, limits).await?;
            let parent = match lineage.parent {
                Some(parent) => inner.records.checkpoint(parent).await?.filter(|one| one.org_id == caller.org_id),
                None => None,
            };
            let created_at = inner.clock.now();
            let checkpoint = Checkpoint {
                id,
                org_id: caller.org_id,
                sandbox_id: lineage.sandbox,
                parent_id: parent.map(|parent| parent.id),
                cloned_from: None,
                name,
                description: lineage.description,
                kind: CheckpointKind::Files,
                status: CheckpointStatus::Ready,
                failure: None,
                durability: Durability::Captured,
                durability_reason: None,
                durable_at: None,
                verified_at: None,
                template: template.clone(),
                layer,
                scope: lineage.scope,
                has_env: env.is_some(),
                metadata: lineage.metadata,
                file_count: measure.file_count,
                size_bytes: measure.size_bytes,
                checksum,
                pause_ms: 0.0,
                copy_duration_ms: 0.0,
                created_at,
                expires_at: retention_end(created_at, inner.settings.checkpoint_retention_days),
                pinned: false,
                step_key: None,
                server: self.here(),
            };
            let data = json!({ "checkpointId": id, "name": checkpoint.name, "importedFrom": lineage.checkpoint });
            let mut changes = vec![
                Change::InsertCheckpoint {
                    checkpoint: Box::new(checkpoint.clone()),
                    env: env.map(|env| inner.seal_env(&id.to_string(), &env)),
                },
                Change::InsertEvent(self.checkpoint_event(&checkpoint, EventKind::CheckpointCreated, data)),
            ];
            changes.extend(key.map(|key| self.remember(caller, &key, vec![id.to_string()])));
            inner.records.commit(changes).await?;
            pass(Point::ImportRow);
            tracing::info!(checkpoint.id = %id, origin = %lineage.checkpoint, "checkpoint imported");
            Ok(checkpoint)
        }
        .await;
        drop((beside_claim, claim));
        self.behind_drop_layer(beside);
        if outcome.is_err() {
            self.behind_drop_layer(layer);
            if is_new {
                self.undo_template(&template).await;
            }
        }
        outcome
    }

    /// Removes a template that came with a checkpoint which was refused, unless somebody uses it already.
    async fn undo_template(&self, template: &TemplateRef) {
        let removed = match self.removable(template).await {
            Ok(_removal) => self.inner.runtime.remove_template(template).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%template, %error, "a template that came with a refused checkpoint stays");
        }
    }

    /// The template that an archive's checkpoint lies on, as it is here; made of the archive's if it is not.
    async fn template_of(
        &self,
        caller: &Caller,
        portable: &dyn Portable,
        archive: &Arc<File>,
        archived: &Archived,
        stop: &CancellationToken,
    ) -> Result<Below> {
        let wanted = &archived.lineage.template;
        let origin = archived.base.as_ref().map(|base| format!("archive of a checkpoint on {wanted}, {base}"));
        let known = self.inner.runtime.templates().await?;
        let own = caller.org_id;
        let visible = || known.iter().filter(move |one| one.owner.is_none_or(|owner| owner == own));
        let same = visible()
            .find(|one| one.template == *wanted)
            // The operator's digests are of the contents alone.
            .or_else(|| visible().find(|one| one.owner.is_none() && one.template.digest == wanted.digest))
            .or_else(|| visible().find(|one| one.owner.is_some() && Some(&one.origin) == origin.as_ref()));
        let (found, is_new) = match (same, origin) {
            (Some(same), _) => (same.template.clone(), false),
            (None, Some(origin)) => {
                self.require_room_for_template(caller).await?;
                let template = ArchivedTemplate { name: name_here(wanted)?, owner: own, origin };
                let made = portable.make_template(archive.clone(), template, stop.clone()).await.map_err(of_archive)?;
                (made.template, true)
            }
            (None, None) => {
                return Err(Error::conflict(
                    "template_missing",
                    format!(
                        "the checkpoint lies on template {wanted}, which is neither here nor in the archive; export it \
                         with its template, or have the operator import that template first"
                    ),
                ));
            }
        };
        let claim = self.inner.template_claims.claim_by_name(&found).ok_or_else(|| {
            Error::conflict("operation_in_progress", format!("template '{}' is being removed; try again", found.name))
        })?;
        Ok(Below { template: found, claim, is_new })
    }
}

/// What a checkpoint that comes in lies on.
struct Below {
    template: TemplateRef,
    claim: TemplateClaim,
    /// Whether it was made of the archive's.
    is_new: bool,
}

/// What a template from elsewhere is called here: a name that says which version it is.
fn name_here(template: &TemplateRef) -> Result<TemplateName> {
    let name: String = template.name.as_str().chars().take(47).collect();
    let digest: String = template.digest.to_lowercase().chars().take(16).collect();
    Ok(TemplateName::parse(&format!("{name}-{digest}"))?)
}

fn fingerprint(name: &str, archive: &[u8; 32]) -> String {
    let mut digest = Sha256::new();
    for part in [&b"import"[..], name.as_bytes(), archive] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unwritten(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::OutOfSpace("the host has no disk space left for the archive; nothing was kept".into())
        }
        _ => {
            tracing::error!(%error, "could not keep an archive that came in");
            Error::Unavailable("the archive could not be kept on this host; nothing was done".into())
        }
    }
}
