//! Checkpoints that leave as archives.

pub mod import;

use super::require_ready;
use crate::{
    Caller, Error, Platform, Result,
    platform::{claims::Claim, new_uuid, transfers::Pace},
    ports::{
        guest::ByteStream,
        portable::{EnvState, ExportJob, Lineage, Portable, Prepared},
        runtime::RuntimeError,
    },
};
use bytes::Bytes;
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    ids::{CheckpointId, LayerId},
    organization::KeyScope,
    restore::{TreeRef, plan_create},
    scope::Scope,
};
use futures::StreamExt as _;
use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// How long a client may take nothing of an archive that it asked for.
const LONGEST_STALL: Duration = Duration::from_secs(60);
/// Pieces of an archive that wait for the client: 256 KiB each.
const PIECES: usize = 4;

/// How a checkpoint is to be exported.
#[derive(Debug, Clone, Copy)]
pub struct ExportCheckpoint {
    /// Whether its environment is in the archive, in clear.
    pub with_env: bool,
    /// Whether its template is in the archive.
    pub with_template: bool,
}

/// An archive on its way.
pub struct Exported {
    /// The hash of the tree in it, `b3:<hex>`.
    pub checksum: String,
    /// Its bytes.
    pub size: u64,
    /// The archive. Dropping this ends the work behind it.
    pub content: ByteStream,
}

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exported").field("checksum", &self.checksum).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What of a layer is exported, and what keeps it there.
struct Source {
    layer: LayerId,
    /// Made for this alone.
    made: Option<Claim>,
}

impl Platform {
    /// Writes a checkpoint as an archive: an OCI image layout. It is looked through before this returns, so that what
    /// cannot be exported is refused; if the caller goes, nothing of the work is left.
    pub async fn export_checkpoint(
        &self,
        caller: &Caller,
        id: CheckpointId,
        request: ExportCheckpoint,
    ) -> Result<Exported> {
        // Whoever may only look gets to see no values of the environment anywhere else either.
        caller.require(if request.with_env { KeyScope::Write } else { KeyScope::Read })?;
        self.own_checkpoint(caller, id).await?;
        let portable = self.portable()?;
        let stop = CancellationToken::new();
        let gone = stop.clone().drop_guard();
        let place = self.transfer().await?;
        let (platform, caller, wanted) = (self.clone(), caller.clone(), stop.clone());
        let (prepared, kept) = self
            .to_the_end(async move {
                let (checkpoint, claim) = platform.claimed_checkpoint(&caller, id).await?;
                require_ready(&checkpoint)?;
                let source = platform.export_source(&checkpoint).await?;
                let kept = Kept {
                    platform: platform.clone(),
                    layer: source.layer,
                    made: source.made,
                    _claim: claim,
                    _place: place,
                };
                let env = platform.checkpoint_environment(&checkpoint).await?;
                let env = env.filter(|_| request.with_env);
                let lineage = lineage(&checkpoint, env.is_some());
                let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(kept.layer) };
                let job = ExportJob { tree, lineage, env, with_template: request.with_template };
                let prepared = portable.prepare(job, wanted).await?;
                Ok((prepared, kept))
            })
            .await?;
        let (checksum, size) = (prepared.checksum().to_owned(), prepared.size());
        let content = self.send(prepared, kept, stop);
        // From here on the stream itself says when nobody listens any more.
        gone.disarm();
        Ok(Exported { checksum, size, content })
    }

    /// What exports and imports.
    fn portable(&self) -> Result<Arc<dyn Portable>> {
        self.inner.runtime.portable().ok_or_else(|| {
            Error::conflict("export_unavailable", "checkpoints of this runtime cannot be exported or imported")
        })
    }

    /// Waits for a place among those that move archives.
    pub(crate) async fn transfer(&self) -> Result<OwnedSemaphorePermit> {
        self.inner.transfers.place(self.inner.settings.lock_wait).await
    }

    /// A layer that holds exactly what belongs to a checkpoint: its own, or one made for this.
    async fn export_source(&self, checkpoint: &Checkpoint) -> Result<Source> {
        let stored = matches!(checkpoint.durability, Durability::Durable | Durability::Verified);
        let everything = Scope::parse(checkpoint.scope.clone())?.is_everything();
        let vault = self.inner.vault.clone().filter(|_| stored && !everything);
        let Some(vault) = vault else {
            self.bring_layer_back(checkpoint).await?;
            let (layer, made) = self.layer_in_scope(checkpoint).await?;
            return Ok(Source { layer, made });
        };
        // What is stored of it has the checksum that was told; grafted anew it would have other times.
        let layer = LayerId::from_uuid(new_uuid());
        let made = self.inner.claims.claim(layer);
        let brought = async {
            self.inner.runtime.make_layer(layer, &plan_create(&checkpoint.template)).await?;
            let into = self.inner.runtime.layer_tree(layer).ok_or_else(super::durability::no_directories)?;
            let read = vault.materialize(checkpoint.org_id, checkpoint.id, &into).await;
            read.map_err(|failure| self.unreadable(checkpoint, &failure))
        }
        .await;
        if let Err(error) = brought {
            drop(made);
            self.behind_drop_layer(layer);
            return Err(error);
        }
        Ok(Source { layer, made: Some(made) })
    }

    /// Writes an archive behind the answer, as fast as it is taken.
    fn send(&self, prepared: Box<dyn Prepared>, kept: Kept, stop: CancellationToken) -> ByteStream {
        let (pieces, mut taken) = mpsc::channel(PIECES);
        let handle = tokio::runtime::Handle::current();
        let gone = stop.clone().drop_guard();
        self.behind(async move {
            let work = tokio::task::spawn_blocking(move || {
                let mut to = Pieces { pieces, handle, pace: Pace::begin(), taken: 0 };
                if let Err(error) = prepared.write(&mut to, &stop) {
                    tracing::info!(%error, "an export ended early");
                    to.put(Err(io::Error::other(error)));
                }
            });
            if let Err(error) = work.await {
                tracing::error!(%error, "an export broke off");
            }
            drop(kept);
        });
        let stream = futures::stream::poll_fn(move |context| {
            let _listening = &gone;
            taken.poll_recv(context)
        });
        stream.boxed()
    }
}

/// What has to stay until an archive is written.
struct Kept {
    platform: Platform,
    layer: LayerId,
    made: Option<Claim>,
    _claim: Claim,
    _place: OwnedSemaphorePermit,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(claim) = self.made.take() {
            drop(claim);
            self.platform.behind_drop_layer(self.layer);
        }
    }
}

/// Hands bytes to a stream, waiting a bounded time for its reader, and with it all in all.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    handle: tokio::runtime::Handle,
    pace: Pace,
    taken: u64,
}

impl Pieces {
    /// `false` if nobody takes it.
    fn put(&self, piece: io::Result<Bytes>) -> bool {
        self.handle
            .block_on(async { tokio::time::timeout(LONGEST_STALL, self.pieces.send(piece)).await })
            .is_ok_and(|sent| sent.is_ok())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match !self.pace.is_too_slow(self.taken) && self.put(Ok(Bytes::copy_from_slice(bytes))) {
            true => {
                self.taken += bytes.len() as u64;
                Ok(bytes.len())
            }
            false => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client takes nothing any more")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lineage(checkpoint: &Checkpoint, with_env: bool) -> Lineage {
    // A clone's checksum is its origin's until it is stored under a name of its own.
    let known = checkpoint.cloned_from.is_none() || checkpoint.durability != Durability::Captured;
    Lineage {
        checkpoint: checkpoint.id,
        sandbox: checkpoint.sandbox_id,
        parent: checkpoint.parent_id,
        name: checkpoint.name.clone(),
        description: checkpoint.description.clone(),
        metadata: checkpoint.metadata.clone(),
        template: checkpoint.template.clone(),
        scope: checkpoint.scope.clone(),
        created_at: checkpoint.created_at,
        checksum: if known { checkpoint.checksum.clone() } else { String::new() },
        env: match (checkpoint.has_env, with_env) {
            (false, _) => EnvState::None,
            (true, false) => EnvState::LeftOut,
            (true, true) => EnvState::Included,
        },
    }
}

/// A refusal that an archive is the cause of, in the words of requests.
fn of_archive(error: RuntimeError) -> Error {
    use crate::ports::portable::{ARCHIVE_TOO_LARGE, ARCHIVE_UNFIT};
    match error {
        RuntimeError::Refused { code: ARCHIVE_UNFIT, problem } => {
            forkpoint_domain::Invalid::new("archive", problem).into()
        }
        RuntimeError::Refused { code: ARCHIVE_TOO_LARGE, problem } => Error::TooLarge(problem),
        error => error.into(),
    }
}
