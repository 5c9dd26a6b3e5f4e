//! What a data directory owns on this host, found without its server; and taking it away.

use super::{blocking, failed, identity, memory};
use forkpoint_domain::{
    ids::{LayerId, SandboxId},
    server::ServerId,
};
use forkpoint_engine::ports::runtime::RuntimeError;
use forkpoint_jail::{Cgroups, process};
use serde::Serialize;
use std::{collections::BTreeSet, fs, io::ErrorKind, path::Path};

/// Kernel resources and layers of one data directory, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Owned {
    /// Processes in its sandboxes' groups.
    pub processes: usize,
    /// Its sandboxes' groups (one each, in however many hierarchies).
    pub cgroups: usize,
    /// Mounts on the host: the layers' file system and the hub's namespace.
    pub mounts: usize,
    /// Network namespaces: the hub's and one a slot.
    pub namespaces: usize,
    /// Network links: the hub's and one a slot.
    pub links: usize,
    /// Packet filter rules, on the host and in the hub.
    pub rules: usize,
    /// Layers of sandboxes and checkpoints, if their file system is mounted.
    pub layers: usize,
    /// Loop devices.
    pub loops: usize,
}

impl Owned {
    /// Name and count of each kind.
    pub fn rows(&self) -> [(&'static str, usize); 8] {
        [
            ("processes", self.processes),
            ("cgroups", self.cgroups),
            ("mounts", self.mounts),
            ("namespaces", self.namespaces),
            ("links", self.links),
            ("rules", self.rules),
            ("layers", self.layers),
            ("loops", self.loops),
        ]
    }
}

/// Something that belongs to the data directory and that nothing names any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Orphan {
    /// `cgroup`, `sandbox` or `layer`.
    pub kind: &'static str,
    /// Which.
    pub name: String,
}

/// Counts what the data directory owns.
pub async fn owned(data_dir: &Path) -> Result<Owned, RuntimeError> {
    let Some(name) = existing_name(data_dir)? else { return Ok(Owned::default()) };
    let network = forkpoint_network::owned(&name, &data_dir.join("run")).await.map_err(failed("look at network"))?;
    let data_dir = data_dir.to_owned();
    let (processes, cgroups, storage) = blocking(move || {
        let groups = Cgroups::detect().map_err(|error| RuntimeError::Unsupported(error.to_string()))?;
        let ids = groups.list(&name).map_err(failed("list control groups"))?;
        let mut processes = 0;
        for id in &ids {
            let group = groups.group(&name, id).map_err(failed("find control group"))?;
            processes += group.pids().map_err(failed("list processes"))?.len();
        }
        let storage = forkpoint_volumes::inventory(&data_dir).map_err(super::trees::failed("look at layers"))?;
        Ok((processes, ids.len(), storage))
    })
    .await?;
    Ok(Owned {
        processes,
        cgroups,
        mounts: network.mounts + storage.mounts,
        namespaces: network.namespaces,
        links: network.links,
        rules: network.rules,
        layers: storage.layers.len(),
        loops: storage.loops,
    })
}

/// Finds what nothing names: groups without a remembered living sandbox, remembered sandboxes that are
/// dead, layers that are not in `named` (if it is known what is named). A `live` server may keep empty layers ready.
pub async fn orphans(
    data_dir: &Path,
    named: Option<BTreeSet<LayerId>>,
    live: bool,
) -> Result<Vec<Orphan>, RuntimeError> {
    let Some(name) = existing_name(data_dir)? else { return Ok(Vec::new()) };
    let data_dir = data_dir.to_owned();
    blocking(move || {
        let mut found = Vec::new();
        let boot_id = memory::boot_id().map_err(failed("read boot id"))?;
        let mut living = BTreeSet::<SandboxId>::new();
        for one in memory::recall(&data_dir).map_err(failed("recall sandboxes"))? {
            let lives = one.boot_id == boot_id && matches!(process::open(one.pid, one.start_time), Ok(Some(_)));
            if lives {
                living.insert(one.sandbox);
            } else {
                found.push(Orphan { kind: "sandbox", name: one.sandbox.to_string() });
            }
        }
        let groups = Cgroups::detect().map_err(|error| RuntimeError::Unsupported(error.to_string()))?;
        for id in groups.list(&name).map_err(failed("list control groups"))? {
            if !id.parse().is_ok_and(|id: SandboxId| living.contains(&id)) {
                found.push(Orphan { kind: "cgroup", name: id });
            }
        }
        let storage = forkpoint_volumes::inventory(&data_dir).map_err(super::trees::failed("list layers"))?;
        for layer in storage.layers {
            let layer = LayerId::from_uuid(layer);
            let unnamed = named.as_ref().is_some_and(|named| !named.contains(&layer));
            if unnamed && !(live && super::spares::is_spare(layer)) {
                found.push(Orphan { kind: "layer", name: layer.to_string() });
            }
        }
        found.sort();
        Ok(found)
    })
    .await
}

/// Ends all sandboxes of a data directory, removes everything it has on the host, and everything a server
/// made in it. The caller makes sure that no server works on it.
pub async fn purge(data_dir: &Path) -> Result<(), RuntimeError> {
    if let Some(name) = existing_name(data_dir)? {
        let groups = name.clone();
        blocking(move || {
            let cgroups = Cgroups::detect().map_err(|error| RuntimeError::Unsupported(error.to_string()))?;
            cgroups.remove_instance(&groups).map_err(failed("end sandboxes"))
        })
        .await?;
        forkpoint_network::purge(&name, &data_dir.join("run")).await.map_err(failed("remove network"))?;
    }
    let data_dir = data_dir.to_owned();
    blocking(move || {
        forkpoint_volumes::purge(&data_dir).map_err(super::trees::failed("remove layers"))?;
        for folder in ["run", "templates", "vault", "keys"] {
            remove(fs::remove_dir_all(data_dir.join(folder)))?;
        }
        // The id goes last but one: until then a repeated purge still finds everything.
        for file in ["forkpoint.db", "forkpoint.db-wal", "forkpoint.db-shm", "id", "lock"] {
            remove(fs::remove_file(data_dir.join(file)))?;
        }
        Ok(())
    })
    .await
}

fn remove(outcome: std::io::Result<()>) -> Result<(), RuntimeError> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove data")(error)),
        _ => Ok(()),
    }
}

/// Which server works on a data directory, now or in general; `None` if none ever did.
pub fn server_of(data_dir: &Path) -> Result<Option<ServerId>, RuntimeError> {
    existing_name(data_dir)?.map(|name| name.parse().map_err(failed("read instance name"))).transpose()
}

/// The name that the data directory's resources carry; `None` if no server ever worked on it.
fn existing_name(data_dir: &Path) -> Result<Option<String>, RuntimeError> {
    if data_dir.join("id").exists() { identity::instance_name(data_dir).map(Some) } else { Ok(None) }
}
