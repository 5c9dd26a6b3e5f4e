//! Records in memory: a commit happens as a whole or not at all, and refuses what a database would refuse.

use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointStatus, Durability},
    event::Event,
    ids::{ApiKeyId, CheckpointId, LayerId, OrgId, SandboxId},
    organization::{ApiKey, Organization, User},
    sandbox::Sandbox,
    server::{Server, ServerId},
};
use forkpoint_engine::ports::{
    records::{Change, CheckpointFilter, IdempotencyRecord, Records, RecordsError, SandboxFilter},
    sealer::Sealed,
};
use jiff::Timestamp;
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryRecords {
    rows: Mutex<Rows>,
    unavailable: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct Rows {
    organizations: BTreeMap<OrgId, Organization>,
    users: Vec<User>,
    keys: BTreeMap<ApiKeyId, ApiKey>,
    sandboxes: BTreeMap<SandboxId, (Sandbox, Sealed)>,
    checkpoints: BTreeMap<CheckpointId, (Checkpoint, Option<Sealed>)>,
    deleted: Vec<(OrgId, CheckpointId, Timestamp)>,
    events: Vec<Event>,
    idempotency: BTreeMap<(OrgId, String), IdempotencyRecord>,
    servers: BTreeMap<ServerId, Server>,
    leases: BTreeMap<String, (ServerId, Timestamp)>,
}

type Outcome<T = ()> = Result<T, RecordsError>;

impl MemoryRecords {
    /// From now on every call fails, or works again.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::SeqCst);
    }

    fn rows(&self) -> Outcome<MutexGuard<'_, Rows>> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(RecordsError::Unavailable("switched off by a test".into()));
        }
        Ok(self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rows {
    fn bury(&mut self, id: CheckpointId, at: Timestamp) {
        if let Some((checkpoint, _)) = self.checkpoints.remove(&id) {
            self.deleted.push((checkpoint.org_id, id, at));
        }
    }

    fn apply(&mut self, change: Change) -> Outcome {
        let conflict = |what| Err(RecordsError::Conflict(what));
        match change {
            Change::InsertOrganization(organization) => {
                if self.organizations.values().any(|one| one.slug == organization.slug) {
                    return conflict("slug");
                }
                self.organizations.insert(organization.id, organization);
            }
            Change::InsertUser(user) => self.users.push(user),
            Change::InsertApiKey(key) => {
                if self.keys.values().any(|one| one.hash == key.hash) {
                    return conflict("api key");
                }
                self.keys.insert(key.id, key);
            }
            Change::RevokeApiKey { org, id, at } => match self.keys.get_mut(&id) {
                Some(key) if key.org_id == org && key.is_valid(at) => key.revoked_at = Some(at),
                _ => return conflict("api key"),
            },
            Change::TouchApiKey { id, at } => {
                if let Some(key) = self.keys.get_mut(&id) {
                    key.last_used_at = Some(at);
                }
            }
            Change::InsertSandbox { sandbox, env } => {
                if self.sandboxes.insert(sandbox.id, (*sandbox, env)).is_some() {
                    return conflict("sandbox");
                }
            }
            Change::UpdateSandbox { sandbox, from } => match self.sandboxes.get_mut(&sandbox.id) {
                Some((row, _)) if row.state == from && row.server == sandbox.server => *row = *sandbox,
                _ => return conflict("sandbox"),
            },
            Change::SetSandboxEnv { id, env } => match self.sandboxes.get_mut(&id) {
                Some((_, sealed)) => *sealed = env,
                None => return conflict("sandbox"),
            },
            Change::DeleteSandbox { id, .. } => {
                if self.sandboxes.remove(&id).is_none() {
                    return conflict("sandbox");
                }
            }
            Change::InsertCheckpoint { checkpoint, env } => {
                if self.checkpoints.insert(checkpoint.id, (*checkpoint, env)).is_some() {
                    return conflict("checkpoint");
                }
            }
            Change::UpdateCheckpoint { checkpoint } => match self.checkpoints.get_mut(&checkpoint.id) {
                Some((row, _)) => *row = *checkpoint,
                None => return conflict("checkpoint"),
            },
            Change::SetDurability { checkpoint, from } => match self.checkpoints.get_mut(&checkpoint.id) {
                Some((row, _)) if row.durability == from => {
                    let Checkpoint { durability, durability_reason, checksum, durable_at, verified_at, .. } =
                        *checkpoint;
                    *row =
                        Checkpoint { durability, durability_reason, checksum, durable_at, verified_at, ..row.clone() };
                }
                _ => return conflict("checkpoint"),
            },
            Change::SetRetention { id, from, to } => match self.checkpoints.get_mut(&id) {
                Some((row, _)) if (row.expires_at, row.pinned) == (from.until, from.pinned) => {
                    (row.expires_at, row.pinned) = (to.until, to.pinned);
                }
                _ => return conflict("checkpoint"),
            },
            Change::ExpireCheckpoint { id, at } => match self.checkpoints.get(&id) {
                Some((row, _)) if row.retained_until().is_some_and(|end| end <= at) => self.bury(id, at),
                _ => return conflict("checkpoint"),
            },
            Change::DeleteCheckpoint { id, at } => {
                if !self.checkpoints.contains_key(&id) {
                    return conflict("checkpoint");
                }
                self.bury(id, at);
            }
            Change::InsertEvent(event) => self.events.push(event),
            Change::InsertIdempotency(record) => {
                if self.idempotency.insert((record.org, record.key.clone()), record).is_some() {
                    return conflict("idempotency key");
                }
            }
            Change::ForgetIdempotency { org, key } => drop(self.idempotency.remove(&(org, key))),
            Change::SeeServer(server) => drop(self.servers.insert(server.id, server)),
            Change::AdoptRows { server } => {
                let sandboxes = self.sandboxes.values_mut().map(|(row, _)| &mut row.server);
                let checkpoints = self.checkpoints.values_mut().map(|(row, _)| &mut row.server);
                sandboxes.chain(checkpoints).filter(|of| **of == ServerId::NOBODY).for_each(|of| *of = server);
            }
            Change::TakeLease { job, holder, now, until } => match self.leases.get(&job) {
                Some((other, end)) if *other != holder && *end > now => return conflict("lease"),
                _ => drop(self.leases.insert(job, (holder, until))),
            },
            Change::EndLease { job, holder } => match self.leases.remove(&job) {
                Some((of, _)) if of == holder => {}
                _ => return conflict("lease"),
            },
            Change::Prune { before } => {
                self.leases.retain(|_, (_, until)| *until >= before);
                self.deleted.retain(|(_, _, at)| *at >= before);
                self.idempotency.retain(|_, record| record.at >= before);
                self.events.retain(|event| event.at >= before);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Records for MemoryRecords {
    async fn commit(&self, changes: Vec<Change>) -> Outcome {
        let mut rows = self.rows()?;
        let mut next = rows.clone();
        changes.into_iter().try_for_each(|change| next.apply(change))?;
        *rows = next;
        Ok(())
    }

    async fn organization(&self, id: OrgId) -> Outcome<Option<Organization>> {
        Ok(self.rows()?.organizations.get(&id).cloned())
    }

    async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Outcome<Option<ApiKey>> {
        Ok(self.rows()?.keys.values().find(|key| key.hash == *hash).cloned())
    }

    async fn api_keys(&self, org: OrgId) -> Outcome<Vec<ApiKey>> {
        let mut keys: Vec<_> =
            self.rows()?.keys.values().filter(|key| key.org_id == org && key.revoked_at.is_none()).cloned().collect();
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
    }

    async fn sandbox(&self, id: SandboxId) -> Outcome<Option<Sandbox>> {
        Ok(self.rows()?.sandboxes.get(&id).map(|(sandbox, _)| sandbox.clone()))
    }

    async fn sandbox_env(&self, id: SandboxId) -> Outcome<Option<Sealed>> {
        Ok(self.rows()?.sandboxes.get(&id).map(|(_, env)| env.clone()))
    }

    async fn sandboxes(&self, filter: SandboxFilter) -> Outcome<Vec<Sandbox>> {
        let wanted = |one: &&Sandbox| {
            filter.org.is_none_or(|org| one.org_id == org)
                && filter.server.is_none_or(|server| one.server == server)
                && (filter.states.is_empty() || filter.states.contains(&one.state))
                && filter.expired_at.is_none_or(|at| one.expires_at <= at)
                && filter
                    .stopped_before
                    .is_none_or(|at| one.layer.is_some() && one.stopped_at.is_some_and(|stopped| stopped <= at))
        };
        let rows = self.rows()?;
        let mut found: Vec<_> = rows.sandboxes.values().map(|(sandbox, _)| sandbox).filter(wanted).cloned().collect();
        found.sort_by_key(|one| Reverse((one.created_at, one.id)));
        found.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        Ok(found)
    }

    async fn checkpoint(&self, id: CheckpointId) -> Outcome<Option<Checkpoint>> {
        Ok(self.rows()?.checkpoints.get(&id).map(|(checkpoint, _)| checkpoint.clone()))
    }

    async fn checkpoint_env(&self, id: CheckpointId) -> Outcome<Option<Sealed>> {
        Ok(self.rows()?.checkpoints.get(&id).and_then(|(_, env)| env.clone()))
    }

    async fn checkpoints(&self, filter: CheckpointFilter) -> Outcome<Vec<Checkpoint>> {
        let part = filter.name_contains.as_deref().map(str::to_lowercase);
        let wanted = |one: &&Checkpoint| {
            filter.org.is_none_or(|org| one.org_id == org)
                && filter.server.is_none_or(|server| one.server == server)
                && filter.durable_before.is_none_or(|at| {
                    one.durability == Durability::Durable && one.durable_at.is_some_and(|since| since <= at)
                })
                && filter.sandbox.is_none_or(|sandbox| one.sandbox_id == sandbox)
                && part.as_deref().is_none_or(|part| one.name.to_lowercase().contains(part))
                && filter.name_exact.as_deref().is_none_or(|name| one.name == name)
                && filter.expired_at.is_none_or(|at| one.retained_until().is_some_and(|end| end <= at))
                && filter.layer.is_none_or(|layer| one.layer == layer)
                && filter.durability.is_none_or(|durability| one.durability == durability)
                && (!filter.processing_only || one.status == CheckpointStatus::Processing)
                && filter.steps.is_none_or(|steps| one.step_key.is_some() == steps)
                && (filter.step_keys.is_empty()
                    || one.step_key.as_ref().is_some_and(|key| filter.step_keys.contains(key)))
                && (!filter.on_the_way
                    || (one.status == CheckpointStatus::Ready
                        && matches!(one.durability, Durability::Captured | Durability::Durable)))
        };
        let rows = self.rows()?;
        let mut found: Vec<_> =
            rows.checkpoints.values().map(|(checkpoint, _)| checkpoint).filter(wanted).cloned().collect();
        found.sort_by_key(|one| (one.created_at, one.id));
        if !filter.oldest_first {
            found.reverse();
        }
        if let Some(part) = &part {
            found.sort_by_key(|one| one.name.to_lowercase() != *part);
        }
        found.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        Ok(found)
    }

    async fn deleted_checkpoints(&self) -> Outcome<Vec<(OrgId, CheckpointId)>> {
        Ok(self.rows()?.deleted.iter().map(|(org, id, _)| (*org, *id)).collect())
    }

    async fn layers_in_use(&self) -> Outcome<Vec<LayerId>> {
        let rows = self.rows()?;
        let of_sandboxes = rows.sandboxes.values().filter_map(|(sandbox, _)| sandbox.layer);
        Ok(of_sandboxes.chain(rows.checkpoints.values().map(|(checkpoint, _)| checkpoint.layer)).collect())
    }

    async fn idempotent(&self, org: OrgId, key: &str) -> Outcome<Option<IdempotencyRecord>> {
        Ok(self.rows()?.idempotency.get(&(org, key.to_owned())).cloned())
    }

    async fn events(&self, org: OrgId, sandbox: Option<SandboxId>, limit: u32) -> Outcome<Vec<Event>> {
        let rows = self.rows()?;
        let wanted = |event: &&Event| event.org_id == org && sandbox.is_none_or(|id| event.sandbox_id == Some(id));
        Ok(rows.events.iter().rev().filter(wanted).take(limit as usize).cloned().collect())
    }

    async fn server(&self, id: ServerId) -> Outcome<Option<Server>> {
        Ok(self.rows()?.servers.get(&id).cloned())
    }

    async fn ping(&self) -> Outcome {
        self.rows().map(drop)
    }
}
