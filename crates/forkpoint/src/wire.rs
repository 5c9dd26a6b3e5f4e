//! Puts the adapters together: the one place where they are constructed.

use crate::config::Config;
use anyhow::Context;
use forkpoint_domain::{checkpoint::CaptureLimits, limits};
use forkpoint_engine::{
    BuildCache, Capacity, Platform, Settings,
    ports::{clock::SystemClock, records::Records as _},
};
use forkpoint_records::Database;
use forkpoint_runtime::local::{LocalOptions, LocalRuntime, server_of, total_memory};
use forkpoint_vault::{MasterKey, MasterKeySealer, Vault, VaultOptions};
use forkpoint_volumes::{DriverChoice, StoreOptions};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The parts of a running server that outlive the requests.
pub(crate) struct Parts {
    pub(crate) platform: Platform,
    pub(crate) runtime: LocalRuntime,
}

/// Makes the data directory (0700) if it is not there, and refuses one that others may enter.
pub(crate) fn prepare_data_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("make data directory {}", data_dir.display()))?;
    let data_dir = data_dir.canonicalize().context("find data directory")?;
    std::fs::set_permissions(&data_dir, PermissionsExt::from_mode(0o700)).context("close data directory to others")?;
    for folder in ["keys", "vault"] {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir.join(folder)).context("make data directory")?;
    }
    Ok(data_dir)
}

/// Held as long as a server works on a data directory; the file names its process.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Takes the lock of a data directory; `None` if another process has it.
pub(crate) fn lock(data_dir: &Path) -> anyhow::Result<Option<DirectoryLock>> {
    let path = data_dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error).context("lock data directory"),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(DirectoryLock { _file: file }))
}

/// Whether another process holds a data directory's lock. Takes nothing and writes nothing.
pub(crate) fn is_locked(data_dir: &Path) -> anyhow::Result<bool> {
    let file = match File::open(data_dir.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context("open lock of data directory"),
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).context("look at lock of data directory"),
    }
}

/// The process that holds a data directory's lock, as it says itself.
pub(crate) fn lock_holder(data_dir: &Path) -> Option<u32> {
    std::fs::read_to_string(data_dir.join("lock")).ok()?.trim().parse().ok()
}

/// There once a database knows the server of this data directory.
const ENROLLED: &str = "enrolled";

/// Notes that the database knows this data directory's server.
pub(crate) fn note_enrolled(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join(ENROLLED);
    if path.exists() {
        return Ok(());
    }
    let file = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.sync_all().and_then(|()| std::fs::File::open(data_dir)?.sync_all()).context("sync the data directory")
}

/// Refuses a database that has never seen this data directory, although another has: to it every layer would be one
/// that nothing needs.
async fn require_own(records: &Database, data_dir: &Path) -> anyhow::Result<()> {
    let Some(server) = server_of(data_dir)?.filter(|_| data_dir.join(ENROLLED).exists()) else { return Ok(()) };
    if records.server(server).await?.is_none() {
        anyhow::bail!(
            "this database does not know server {server}, whose data directory is {}: it is not the database that the \
             server worked with (see --database-url). If that one is lost, follow docs/durability.md with a new data \
             directory; to give up all layers of this one, remove {}",
            data_dir.display(),
            data_dir.join(ENROLLED).display()
        );
    }
    Ok(())
}

/// Opens everything of a data directory and brings it in step with the host. Templates come later.
pub(crate) async fn open(config: &Config, data_dir: &Path) -> anyhow::Result<Parts> {
    let master = MasterKey::open_or_create(&data_dir.join("keys").join("master.key")).context("master key")?;
    let records = open_records(config, data_dir).await?;
    require_own(&records, data_dir).await?;
    let program_dir = std::env::current_exe()
        .context("find this program")?
        .parent()
        .map(Path::to_owned)
        .context("this program has no folder")?;
    let runtime = LocalRuntime::open(LocalOptions {
        data_dir: data_dir.to_owned(),
        program_dir,
        cache_dir: config.cache_dir.clone(),
        layers: StoreOptions {
            driver: layer_driver(config),
            host_reserve_bytes: config.host_reserve_bytes,
            ..StoreOptions::default()
        },
        network_pool: config.network_pool.parse().context("network_pool")?,
        resolvers: config.resolvers.clone(),
        slot_pool: config.slot_pool,
    })
    .await
    .context("open the sandbox runtime")?;
    let settings = Settings {
        server: runtime.server().context("name of this server")?,
        default_limits: limits::Limits {
            cpu_millis: limits::parse_cpus(&config.default_cpus)?,
            memory_bytes: limits::parse_memory(&config.default_memory)?,
            pids: config.sandbox_pids,
            disk_bytes: config.sandbox_disk_bytes,
        },
        capture_limits: CaptureLimits {
            max_files: config.max_checkpoint_files,
            max_bytes: config.max_checkpoint_bytes,
        },
        checkpoint_retention_days: config.checkpoint_retention_days,
        hot_layer_bytes: config.hot_layer_bytes,
        stopped_retention_days: config.stopped_retention_days,
        build_cache: BuildCache { layers: config.build_cache_layers, bytes: config.build_cache_bytes },
        max_count: config.max_count,
        capacity: Capacity {
            sandboxes: config.max_sandboxes,
            memory_bytes: config
                .memory_budget_bytes
                .unwrap_or_else(|| total_memory() / 10 * 9)
                .saturating_mul(u64::from(config.memory_overcommit)),
            memory_reserve_bytes: config.host_memory_reserve_bytes,
        },
        ..Settings::default()
    };
    let platform = Platform::new(
        Arc::new(records),
        Arc::new(runtime.clone()),
        Arc::new(MasterKeySealer::new(&master)),
        Arc::new(SystemClock),
        settings,
    );
    let platform = match open_vault(config, data_dir, master).await? {
        Some(vault) => platform.with_vault(Arc::new(vault)),
        None => platform,
    };
    Ok(Parts { platform, runtime })
}

/// How layers are to be kept; the name was checked when it was read.
pub(crate) fn layer_driver(config: &Config) -> DriverChoice {
    config.layer_driver.parse().unwrap_or_default()
}

/// Opens the vault that the settings name; `None` if it is off.
pub(crate) async fn open_vault(config: &Config, data_dir: &Path, master: MasterKey) -> anyhow::Result<Option<Vault>> {
    if config.vault == "off" {
        return Ok(None);
    }
    let local = data_dir.join("vault");
    let url = if config.vault == "local" { local.to_string_lossy().into_owned() } else { config.vault.clone() };
    let shared = config.vault != "local";
    let cache = Some(data_dir.join("run").join("vault-cache"));
    let options = VaultOptions { cache, shared, ..VaultOptions::new(url) };
    // It may wait for the network.
    let opened = tokio::task::spawn_blocking(move || Vault::open(&options, &master)).await?;
    Ok(Some(opened.context("open the vault")?))
}

/// Opens the database that the settings name.
pub(crate) async fn open_records(config: &Config, data_dir: &Path) -> anyhow::Result<Database> {
    let location = match &config.database_url {
        Some(url) => url.clone(),
        None => data_dir.join("forkpoint.db").to_string_lossy().into_owned(),
    };
    Database::open(&location).await.context("open database")
}
