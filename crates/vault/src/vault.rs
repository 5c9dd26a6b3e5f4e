//! The vault: opening it, and what it is asked. Each capability has a file of its own.

use crate::{
    MasterKey, VaultError,
    crypto::MasterSeal,
    error::Result,
    format::{self, VaultId},
    object_keys::{self, ObjectKey, SnapshotRef},
    org::{self, Org},
    port::Running,
    record::{self, MAX_RECORD, Stored},
    store::{self, Retrying, Store, StoreError},
    tree::NodeRef,
};
use forkpoint_domain::ids::OrgId;
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How a vault is opened.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// Address of the store; see [`store::open`].
    pub url: String,
    /// Where this machine keeps what only saves work (hints, copies of indexes); `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// How often each call to the store is tried.
    pub attempts: u32,
    /// Around how long the first pause between two tries is; it doubles each time, up to 5 s.
    pub first_pause: Duration,
    /// zstd level of new chunks.
    pub compression: i32,
    /// From how many bytes on a pack is uploaded; 8 to 64 MiB but in tests.
    pub pack_bytes: usize,
    /// Whether other servers may use the same store.
    pub shared: bool,
    /// How many threads cut, seal and open chunks.
    pub threads: usize,
}

impl VaultOptions {
    /// The usual options for the store at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            cache: None,
            attempts: 5,
            first_pause: Duration::from_millis(200),
            compression: 2,
            pack_bytes: 12 << 20,
            shared: false,
            threads: std::thread::available_parallelism().map_or(2, usize::from).min(4),
        }
    }
}

/// Durable checkpoints in one store. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Vault(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Box<dyn Store>,
    pub(crate) seal: MasterSeal,
    pub(crate) id: VaultId,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) is_remote: bool,
    /// The store's address, if other servers may use it too.
    pub(crate) shared: Option<String>,
    pub(crate) level: i32,
    pub(crate) pack_bytes: usize,
    pub(crate) threads: usize,
    orgs: Mutex<HashMap<OrgId, Arc<Org>>>,
    /// What the engine has going on, and how far it is.
    pub(crate) running: Running,
    /// One collection or repair at a time in this process.
    pub(crate) upkeep: Mutex<()>,
}

impl Vault {
    /// Opens the vault at `options.url`, making it in an empty store. Refuses a master key it was not made with.
    pub fn open(options: &VaultOptions, master: &MasterKey) -> Result<Self> {
        Self::open_on(store::open(&options.url)?, options, master)
    }

    /// Opens a vault in a store that is open already; `options.url` is only its name.
    pub fn open_on(store: Arc<dyn Store>, options: &VaultOptions, master: &MasterKey) -> Result<Self> {
        let store: Box<dyn Store> = Box::new(Retrying::new(store, options.attempts, options.first_pause));
        let seal = MasterSeal::new(master);
        let id = format::open_or_create(&*store, &options.url, &seal)?;
        Ok(Self(Arc::new(Inner {
            is_remote: options.url.contains("://") && !options.url.starts_with("file:"),
            shared: options.shared.then(|| options.url.clone()),
            store,
            seal,
            id,
            cache: options.cache.clone(),
            level: options.compression,
            pack_bytes: options.pack_bytes.clamp(4 << 10, 64 << 20),
            threads: options.threads.max(1),
            orgs: Mutex::default(),
            running: Running::default(),
            upkeep: Mutex::default(),
        })))
    }

    /// Organisations that have anything in the store.
    pub fn list_orgs(&self) -> Result<Vec<OrgId>> {
        let mut orgs = BTreeSet::new();
        self.0.store.list(object_keys::ORGS, &mut |info| {
            let id = info.key.strip_prefix(object_keys::ORGS).and_then(|rest| rest.split('/').next());
            orgs.extend(id.and_then(|id| id.parse::<OrgId>().ok()));
        })?;
        Ok(orgs.into_iter().collect())
    }

    /// Checkpoints of an organisation, in order of their ids.
    pub fn list(&self, org: OrgId) -> Result<Vec<SnapshotRef>> {
        Ok(self.0.records(org)?.into_iter().map(|(name, _)| name).collect())
    }

    /// What was given when a checkpoint was stored, and the hash of its tree. The tree itself is not looked at.
    pub fn read(&self, name: SnapshotRef) -> Result<Stored> {
        let org = self.0.org(name.org)?.ok_or(VaultError::NotFound(name))?;
        Ok(self.0.record(&org, name)?.0)
    }

    /// Removes a checkpoint from the store; one that is not there is removed already. Its bytes go with the next
    /// collection, as far as no other checkpoint needs them.
    pub fn delete(&self, name: SnapshotRef) -> Result<()> {
        self.0.store.delete(&ObjectKey::Record(name).to_string())?;
        if let Some(cache) = &self.0.cache {
            let _ = std::fs::remove_file(crate::hints::file(cache, name));
        }
        Ok(())
    }

    /// Destroys all an organisation has stored: its key first, which makes the rest unreadable at once.
    pub fn destroy_org(&self, org: OrgId) -> Result<()> {
        self.0.orgs().remove(&org);
        let store = &self.0.store;
        store.delete(&ObjectKey::OrgKey(org).to_string())?;
        let mut keys = Vec::new();
        for prefix in [object_keys::org(org), object_keys::suspects(org)] {
            store.list(&prefix, &mut |info| keys.push(info.key))?;
        }
        keys.iter().try_for_each(|key| store.delete(key))?;
        if let Some(cache) = &self.0.cache {
            for kind in ["hints", "indexes"] {
                let _ = std::fs::remove_dir_all(cache.join(kind).join(org.to_string()));
            }
        }
        Ok(())
    }
}

impl Inner {
    fn orgs(&self) -> std::sync::MutexGuard<'_, HashMap<OrgId, Arc<Org>>> {
        // Entries are whole when they are put in.
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Organisations that this process has opened.
    pub(crate) fn known_orgs(&self) -> Vec<Arc<Org>> {
        self.orgs().values().cloned().collect()
    }

    /// An organisation the vault knows; `None`: it has stored nothing.
    pub(crate) fn org(&self, id: OrgId) -> Result<Option<Arc<Org>>> {
        self.find_org(id, false)
    }

    /// An organisation, new or known.
    pub(crate) fn org_or_new(&self, id: OrgId) -> Result<Arc<Org>> {
        self.find_org(id, true)?.ok_or(VaultError::Broken("an organisation was neither found nor made"))
    }

    fn find_org(&self, id: OrgId, create: bool) -> Result<Option<Arc<Org>>> {
        if let Some(org) = self.orgs().get(&id) {
            return Ok(Some(org.clone()));
        }
        let Some(org) = org::open(self, id, create)? else { return Ok(None) };
        // Two that open it at the same moment must share one index, for its pins.
        Ok(Some(self.orgs().entry(id).or_insert_with(|| Arc::new(org)).clone()))
    }

    /// Records of an organisation and when they were written, in order.
    pub(crate) fn records(&self, org: OrgId) -> Result<Vec<(SnapshotRef, std::time::SystemTime)>> {
        let mut names = Vec::new();
        self.store.list(&object_keys::records(org), &mut |info| {
            if let Some(ObjectKey::Record(name)) = ObjectKey::parse(&info.key) {
                names.push((name, info.modified));
            }
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// Whether the store lists a record, whatever it says when it is asked for it.
    pub(crate) fn is_listed(&self, name: SnapshotRef) -> Result<bool> {
        Ok(self.records(name.org)?.iter().any(|(listed, _)| *listed == name))
    }

    pub(crate) fn record(&self, org: &Org, name: SnapshotRef) -> Result<(Stored, NodeRef)> {
        let key = ObjectKey::Record(name).to_string();
        self.twice(|| match self.store.get(&key, None) {
            Ok(bytes) if bytes.len() > MAX_RECORD => Err(VaultError::corrupt(&key, "it is too large for a record")),
            Ok(bytes) => record::open(&org.keys, name, &bytes),
            Err(StoreError::Missing { .. }) => Err(VaultError::NotFound(name)),
            Err(error) => Err(error.into()),
        })
    }

    /// Reads again what came wrong: a transfer may have gone wrong where the object has not.
    pub(crate) fn twice<T>(&self, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        match read() {
            Err(VaultError::Corrupt { .. }) => read(),
            other => other,
        }
    }
}
