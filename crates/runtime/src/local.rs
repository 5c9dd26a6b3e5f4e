//! Sandboxes as containers on this machine: layers, jail, slots and agents put together.

mod adopt;
mod capture;
mod guest;
mod identity;
mod instance;
mod launch;
mod memory;
mod owned;
mod portable;
mod probe;
mod room;
mod spares;
mod templates;
mod trees;

pub use owned::{Orphan, Owned, orphans, owned, purge, server_of};
pub use probe::{HostCheck, HostReport, probe};
pub use room::total_memory;

use async_trait::async_trait;
use forkpoint_domain::{
    Invalid,
    checkpoint::CaptureLimits,
    diff::TreeDiff,
    ids::{LayerId, OrgId, SandboxId},
    recipe::Service,
    restore::{LayerPlan, TreeRef},
    sandbox::StopReason,
    scope::Scope,
    server::ServerId,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    guest::Guest,
    portable::Portable,
    runtime::{Capture, Captured, Death, FoundFile, Garbage, Instance, Launch, Measure, Room, Runtime, RuntimeError},
    templates::{NewTemplate, TemplateInfo},
};
use forkpoint_jail::{Cgroups, Launcher};
use forkpoint_network::{Cidr, Hub, HubOptions, SlotPool};
use forkpoint_templates::TemplateStore;
use forkpoint_volumes::{LayerStore, StoreOptions};
use instance::Running;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU8},
};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// How the local runtime is set up.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The data directory, made before with mode 0700.
    pub data_dir: PathBuf,
    /// Where the programs `forkpoint-jail` and `forkpoint-agent` are.
    pub program_dir: PathBuf,
    /// Where built templates are shared between data directories.
    pub cache_dir: PathBuf,
    /// How layers are kept.
    pub layers: StoreOptions,
    /// Addresses that servers on this host share out among themselves.
    pub network_pool: Cidr,
    /// Resolvers for sandboxes; `None`: the host's.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// Network slots kept ready.
    pub slot_pool: usize,
}

/// Runs sandboxes on this machine.
#[derive(Debug, Clone)]
pub struct LocalRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Eight hex digits that name everything this data directory owns on the host.
    name: String,
    data_dir: PathBuf,
    layers: LayerStore,
    templates: TemplateStore,
    /// Template versions that were used.
    known: Mutex<HashMap<TemplateRef, templates::Known>>,
    cgroups: Cgroups,
    launcher: Launcher,
    seccomp: Vec<u8>,
    hub: Hub,
    slots: SlotPool,
    running: Mutex<HashMap<SandboxId, Arc<Running>>>,
    /// What an earlier server left running and is dead, and why.
    lost: Mutex<HashMap<SandboxId, StopReason>>,
    /// Whether the earlier server worked since the host was started.
    same_boot: bool,
    host_reserve_bytes: u64,
    spares: spares::Spares,
    /// How many more times the layers' file system is to be told to give back the room of layers that were removed.
    settle: AtomicU8,
    deaths: mpsc::UnboundedSender<Death>,
    dead: AsyncMutex<mpsc::UnboundedReceiver<Death>>,
}

impl LocalRuntime {
    /// Opens layers, network and groups of a data directory, and takes over the sandboxes that an earlier
    /// server left running there. What an earlier server left half-made is removed.
    pub async fn open(options: LocalOptions) -> Result<Self, RuntimeError> {
        let name = identity::instance_name(&options.data_dir)?;
        let run_dir = options.data_dir.join("run");
        memory::make_folders(&run_dir)?;
        let programs = ["forkpoint-jail", "forkpoint-agent"].map(|program| options.program_dir.join(program));
        for program in &programs {
            launch::require_static(program)?;
        }
        let [jail, agent] = programs;
        let host_reserve_bytes = options.layers.host_reserve_bytes;
        let same_boot = memory::is_same_boot(&options.data_dir).map_err(failed("compare boot ids"))?;
        let (data_dir, layer_options) = (options.data_dir.clone(), options.layers);
        let layers =
            blocking(move || LayerStore::open(&data_dir, layer_options).map_err(trees::failed("open layers"))).await?;
        let templates = TemplateStore::open(&options.data_dir, &options.cache_dir).map_err(failed("open templates"))?;
        let cgroups = Cgroups::detect().map_err(|error| RuntimeError::Unsupported(error.to_string()))?;
        let mut hub_options = HubOptions::new(name.clone(), run_dir);
        hub_options.network_pool = options.network_pool;
        hub_options.resolvers = options.resolvers;
        let hub = Hub::open(hub_options).await.map_err(failed("open network"))?;
        let (deaths, dead) = mpsc::unbounded_channel();
        let runtime = Self {
            inner: Arc::new(Inner {
                name,
                data_dir: options.data_dir,
                layers,
                templates,
                known: Mutex::default(),
                cgroups,
                launcher: Launcher::new(jail, agent),
                seccomp: forkpoint_jail::seccomp::program(),
                // Nothing is made ahead before the slots in use are known.
                slots: SlotPool::new(hub.clone(), 0),
                hub,
                running: Mutex::default(),
                lost: Mutex::default(),
                same_boot,
                host_reserve_bytes,
                spares: spares::Spares::default(),
                settle: AtomicU8::new(0),
                deaths,
                dead: AsyncMutex::new(dead),
            }),
        };
        runtime.adopt().await?;
        runtime.with_pool(options.slot_pool)
    }

    fn with_pool(self, size: usize) -> Result<Self, RuntimeError> {
        let mut inner = Arc::try_unwrap(self.inner).map_err(|_| RuntimeError::Failed {
            step: "fill the slot pool",
            problem: "the runtime is in use already".into(),
        })?;
        inner.slots = SlotPool::new(inner.hub.clone(), size);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which server works on this data directory.
    pub fn server(&self) -> Result<ServerId, Invalid> {
        self.inner.name.parse()
    }

    /// The store of templates, to make the default one ready.
    pub fn templates(&self) -> &TemplateStore {
        &self.inner.templates
    }

    /// Gives the layers more room ahead of need; to be called every second or so.
    pub async fn grow_layers(&self) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || {
            inner.settle()?;
            inner.layers.grow_if_needed().map(drop).map_err(trees::failed("grow layers"))
        })
        .await
    }

    /// Reads the host's resolvers again.
    pub async fn refresh_resolvers(&self) -> Result<(), RuntimeError> {
        self.inner.hub.refresh_resolvers().await.map(drop).map_err(failed("refresh resolvers"))
    }

    /// Removes links that nothing uses and makes their slots free again; to be called every few seconds.
    pub async fn reconcile_network(&self) -> Result<(), RuntimeError> {
        let in_use: Vec<u16> = {
            let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.values().map(|one| one.slot).collect()
        };
        self.inner.hub.reconcile(&in_use).await.map(drop).map_err(failed("reconcile network"))
    }

    /// Ends the runtime's work on the host. Running sandboxes stay, and with them what they need; when none
    /// runs, network and layers are taken off the host too.
    pub async fn close(self) {
        if let Err(error) = self.drop_spares().await {
            tracing::warn!(%error, "could not remove the layers that were kept ready");
        }
        let Ok(inner) = Arc::try_unwrap(self.inner) else {
            tracing::warn!("the runtime is still in use; its mount and network stay");
            return;
        };
        let Inner { name, data_dir, layers, hub, slots, running, .. } = inner;
        drop(slots);
        if !running.into_inner().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        drop(hub);
        if let Err(error) = forkpoint_network::purge(&name, &data_dir.join("run")).await {
            tracing::warn!(%error, "could not take the network off the host");
        }
        let unmounted = blocking(move || layers.unmount().map_err(trees::failed("unmount layers"))).await;
        if let Err(error) = unmounted {
            tracing::warn!(%error, "could not unmount the layers");
        }
    }
}

impl Inner {
    fn running(&self, sandbox: SandboxId) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&sandbox).cloned()
    }
}

#[async_trait]
impl Runtime for LocalRuntime {
    async fn template(&self, org: OrgId, name: &TemplateName) -> Result<Option<TemplateInfo>, RuntimeError> {
        self.current_template(org, name).await
    }

    async fn templates(&self) -> Result<Vec<TemplateInfo>, RuntimeError> {
        self.all_templates().await
    }

    async fn template_version(&self, template: &TemplateRef) -> Result<Option<TemplateInfo>, RuntimeError> {
        self.version_of_template(template).await
    }

    async fn services(&self, template: &TemplateRef) -> Result<Arc<[Service]>, RuntimeError> {
        Ok(self.known_version(template).await?.services)
    }

    async fn publish(&self, new: NewTemplate) -> Result<TemplateInfo, RuntimeError> {
        self.publish_tree(new).await
    }

    async fn remove_template(&self, template: &TemplateRef) -> Result<(), RuntimeError> {
        self.remove_template_version(template).await
    }

    async fn make_layer(&self, layer: LayerId, plan: &LayerPlan) -> Result<(), RuntimeError> {
        self.make_planned_layer(layer, plan).await
    }

    fn spare_layer(&self, claim: &mut (dyn FnMut(LayerId) + Send)) -> Option<LayerId> {
        self.inner.spares.take(claim)
    }

    async fn drop_layer(&self, layer: LayerId) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || inner.remove_layer(layer)).await
    }

    async fn layers(&self) -> Result<Vec<LayerId>, RuntimeError> {
        let inner = self.inner.clone();
        let found = blocking(move || {
            // Not in the way of collecting what is whole.
            if let Err(error) = inner.layers.tidy() {
                tracing::warn!(%error, "what failed operations left stays until later");
            }
            inner.layers.list().map_err(trees::failed("list layers"))
        })
        .await?;
        Ok(self.inner.spares.without(found.into_iter().map(LayerId::from_uuid).collect()))
    }

    async fn has_layer(&self, layer: LayerId) -> Result<bool, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || inner.layers.exists(layer.uuid()).map_err(trees::failed("look at layer"))).await
    }

    async fn layer_bytes(&self, layer: LayerId) -> Result<u64, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || inner.layers.weigh(layer.uuid()).map_err(trees::failed("measure layer"))).await
    }

    async fn collect_files(&self, dry_run: bool) -> Result<Vec<Garbage>, RuntimeError> {
        let inner = self.inner.clone();
        let stale = blocking(move || inner.templates.clean(dry_run).map_err(failed("clean templates"))).await?;
        let garbage = stale.into_iter();
        Ok(garbage
            .map(|one| Garbage { kind: one.kind, name: one.path.display().to_string(), bytes: one.bytes })
            .collect())
    }

    fn layer_tree(&self, layer: LayerId) -> Option<PathBuf> {
        Some(self.inner.layers.path(layer.uuid()).join("upper"))
    }

    fn portable(&self) -> Option<Arc<dyn Portable>> {
        Some(Arc::new(self.clone()))
    }

    async fn launch(&self, launch: &Launch) -> Result<Instance, RuntimeError> {
        self.start(launch).await
    }

    async fn end(&self, sandbox: SandboxId) -> Result<(), RuntimeError> {
        self.finish(sandbox).await
    }

    async fn instances(&self) -> Result<Vec<Instance>, RuntimeError> {
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose first process has died is no longer running, though its remains are still to be ended.
        Ok(running.values().filter(|one| !one.gone.is_cancelled()).map(|one| one.describe()).collect())
    }

    async fn strays(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        self.find_strays().await
    }

    fn lost(&self, sandbox: SandboxId) -> Option<StopReason> {
        let dead = self.inner.lost.lock().unwrap_or_else(PoisonError::into_inner).get(&sandbox).copied();
        // What runs is remembered until somebody sets out to end it; only a lost host takes that memory with it.
        dead.or((!self.inner.same_boot).then_some(StopReason::HostRestart))
    }

    async fn recovered(&self) {
        let inner = self.inner.clone();
        let noted = blocking(move || memory::note_boot(&inner.data_dir).map_err(failed("note boot id"))).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "a later start will take this one for the first since the host was started");
        }
    }

    async fn room(&self) -> Result<Room, RuntimeError> {
        let inner = self.inner.clone();
        blocking(move || inner.room()).await
    }

    async fn capture(&self, sandbox: SandboxId, layer: LayerId, into: LayerId) -> Result<Capture, RuntimeError> {
        self.capture_layer(sandbox, layer, into).await
    }

    async fn measure(&self, tree: &TreeRef, scope: &Scope, limits: CaptureLimits) -> Result<Measure, RuntimeError> {
        self.measure_tree(tree, scope, limits).await
    }

    async fn absent(&self, tree: &TreeRef, paths: Vec<String>) -> Result<Vec<String>, RuntimeError> {
        self.absent_paths(tree, paths).await
    }

    async fn compare(&self, first: &Captured, second: &Captured) -> Result<TreeDiff, RuntimeError> {
        self.compare_trees(first, second).await
    }

    async fn read_files(
        &self,
        of: &Captured,
        paths: Vec<Vec<u8>>,
        limit: u64,
    ) -> Result<Vec<Option<FoundFile>>, RuntimeError> {
        self.files_of(of, paths, limit).await
    }

    fn guest(&self, sandbox: SandboxId) -> Result<Arc<dyn Guest>, RuntimeError> {
        let running = self.inner.running(sandbox).filter(|one| !one.gone.is_cancelled());
        let running = running.ok_or(RuntimeError::NotRunning)?;
        Ok(Arc::new(guest::AgentGuest::new(running)))
    }

    async fn next_death(&self) -> Death {
        match self.inner.dead.lock().await.recv().await {
            Some(death) => death,
            // The sender lives as long as the runtime.
            None => std::future::pending().await,
        }
    }
}

/// Runs blocking work; a panic in it is an error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(RuntimeError::Failed { step: "run blocking work", problem: error.to_string() }))
}

/// Names the step that failed.
fn failed<E: std::error::Error>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |error| {
        let mut problem = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            problem = format!("{problem}: {cause}");
            source = cause.source();
        }
        RuntimeError::Failed { step, problem }
    }
}
