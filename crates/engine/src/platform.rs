//! The platform: its parts, its settings, and what all operations share (claims, locks, background work).

pub(crate) mod budget;
pub(crate) mod builds;
pub(crate) mod claims;
pub(crate) mod durabilities;
pub(crate) mod hot;
pub(crate) mod keys;
pub(crate) mod live;
pub(crate) mod servers;
pub(crate) mod templates;
pub(crate) mod transfers;

use crate::{
    Error, Result,
    ports::{clock::Clock, records::Records, runtime::Runtime, sealer::Sealer, vault::Vault},
};
pub use budget::Capacity;
pub use builds::BuildCache;
pub use transfers::Pace;

use budget::{Admission, Budget};
use builds::Builds;
use claims::Claims;
use durabilities::Durabilities;
use forkpoint_domain::{
    checkpoint::{CaptureLimits, DEFAULT_RETENTION_DAYS},
    env::Environment,
    ids::{ApiKeyId, EventId, OrgId, SandboxId},
    limits::Limits,
    organization::KeyScope,
    server::ServerId,
};
use hot::HotLayers;
use keys::KeyCache;
use live::LiveSandboxes;
use std::{future::Future, sync::Arc, time::Duration};
use tokio_util::task::TaskTracker;
use transfers::Transfers;
use uuid::Uuid;

/// What an operator can set of the engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This server, of those that share its records.
    pub server: ServerId,
    /// Limits of a sandbox for which none are asked for.
    pub default_limits: Limits,
    /// Limits on one captured set.
    pub capture_limits: CaptureLimits,
    /// How long checkpoints are kept, in days; 0: for ever.
    pub checkpoint_retention_days: u32,
    /// How many bytes of checkpoints' layers are kept on this machine before verified ones go, least recently used
    /// first; `None`: as many as there are.
    pub hot_layer_bytes: Option<u64>,
    /// How long the layer of a stopped sandbox is kept, in days; 0: for ever.
    pub stopped_retention_days: u32,
    /// How long an operation waits for another one on the same sandbox before it is refused.
    pub lock_wait: Duration,
    /// The most sandboxes that one request may make.
    pub max_count: u32,
    /// What sandboxes may take of the host together.
    pub capacity: Capacity,
    /// How much of what recipes' steps made is kept for later builds.
    pub build_cache: BuildCache,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: ServerId::NOBODY,
            default_limits: Limits::default(),
            capture_limits: CaptureLimits::default(),
            checkpoint_retention_days: DEFAULT_RETENTION_DAYS,
            hot_layer_bytes: None,
            stopped_retention_days: 30,
            lock_wait: Duration::from_secs(10),
            max_count: 100,
            capacity: Capacity::default(),
            build_cache: BuildCache::default(),
        }
    }
}

/// Who calls, as the credential proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose objects the caller reaches.
    pub org_id: OrgId,
    /// With which key.
    pub key_id: ApiKeyId,
    /// What the key may do; empty: everything.
    pub scopes: Vec<String>,
}

impl Caller {
    /// Refuses unless the key may do what needs `scope`.
    pub fn require(&self, scope: KeyScope) -> Result<()> {
        if self.scopes.is_empty() || self.scopes.iter().any(|held| held == "*" || held == scope.as_str()) {
            Ok(())
        } else {
            Err(Error::Forbidden(scope.as_str()))
        }
    }
}

/// The engine. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Platform {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) live: LiveSandboxes,
    pub(crate) claims: Claims,
    pub(crate) template_claims: templates::TemplateClaims,
    pub(crate) budget: Budget,
    pub(crate) keys: KeyCache,
    pub(crate) builds: Builds,
    pub(crate) vault: Option<Arc<dyn Vault>>,
    pub(crate) durability: Durabilities,
    pub(crate) hot: HotLayers,
    pub(crate) transfers: Transfers,
    tasks: TaskTracker,
}

impl Platform {
    /// Puts the parts together. Nothing runs yet; see `reconcilers`.
    pub fn new(
        records: Arc<dyn Records>,
        runtime: Arc<dyn Runtime>,
        sealer: Arc<dyn Sealer>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                records,
                runtime,
                sealer,
                clock,
                settings,
                live: LiveSandboxes::default(),
                claims: Claims::default(),
                template_claims: templates::TemplateClaims::default(),
                budget: Budget::default(),
                keys: KeyCache::default(),
                builds: Builds::default(),
                vault: None,
                durability: Durabilities::default(),
                hot: HotLayers::default(),
                transfers: Transfers::default(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Gives the platform a vault, before anything else has a clone of it.
    #[must_use]
    pub fn with_vault(mut self, vault: Arc<dyn Vault>) -> Self {
        match Arc::get_mut(&mut self.inner) {
            Some(inner) => inner.vault = Some(vault),
            None => tracing::error!("the platform is in use already; it stays without a vault"),
        }
        self
    }

    /// What is set.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.inner.records.ping().await?)
    }

    /// Ends the builds in progress, and lets none begin.
    pub fn end_builds(&self) {
        self.inner.builds.end_all();
    }

    /// Waits until operations that were begun have ended.
    pub async fn drain(&self) {
        self.end_builds();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Runs an operation to its end even if the caller goes away: a request that is dropped half-way
    /// (its client hung up) must not leave half-done work.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.inner.tasks.spawn(work).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "operation ended without a result");
                Err(Error::Unavailable("the operation was interrupted".into()))
            }
        }
    }

    /// Admits new sandboxes to the host, or refuses before anything is done and says what is free.
    pub(crate) async fn admit(&self, sandboxes: Vec<SandboxId>, memory_bytes: u64) -> Result<Admission> {
        let room = self.inner.runtime.room().await?;
        self.inner.budget.admit(&self.inner.settings.capacity, room, sandboxes, memory_bytes)
    }

    /// Runs work behind the answer.
    pub(crate) fn behind(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(work);
    }
}

impl Inner {
    /// Encrypts an environment for the row `context`.
    pub(crate) fn seal_env(&self, context: &str, env: &Environment) -> crate::ports::sealer::Sealed {
        let clear = zeroize::Zeroizing::new(serde_json::to_vec(env).unwrap_or_default());
        self.sealer.seal(context, &clear)
    }

    /// Decrypts the environment of the row `context`.
    pub(crate) fn open_env(&self, context: &str, sealed: &crate::ports::sealer::Sealed) -> Result<Environment> {
        let clear = self.sealer.open(context, sealed).map(zeroize::Zeroizing::new);
        clear.ok().and_then(|clear| serde_json::from_slice(&clear).ok()).ok_or_else(|| {
            tracing::error!(context, "sealed environment does not open");
            Error::Unavailable("a stored environment does not open with this server's master key".into())
        })
    }
}

/// A new id, ordered by time.
pub(crate) fn new_uuid() -> Uuid {
    Uuid::now_v7()
}

/// A new event id.
pub(crate) fn new_event_id() -> EventId {
    EventId::from_uuid(new_uuid())
}
