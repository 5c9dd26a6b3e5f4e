//! What the runtime remembers of running sandboxes across its own restarts: `<data-dir>/run/instances/<id>.json`.

use forkpoint_domain::ids::{LayerId, SandboxId};
use forkpoint_engine::ports::runtime::RuntimeError;
use forkpoint_protocol::Token;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// One running sandbox, as it is found again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) sandbox: SandboxId,
    pub(super) layer: LayerId,
    pub(super) boot_id: String,
    /// Host id and start time of its first process.
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) slot: u16,
    pub(super) address: Ipv4Addr,
    /// The agent's secret; the file is readable by root only.
    pub(super) token: Token,
}

/// Makes `<run_dir>` and its folders, 0700.
pub(super) fn make_folders(run_dir: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir.join("instances"))
        .map_err(|error| RuntimeError::Failed { step: "make run directory", problem: error.to_string() })
}

pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("instances")
}

fn path(data_dir: &Path, sandbox: SandboxId) -> PathBuf {
    folder(data_dir).join(format!("{sandbox}.json"))
}

/// Remembers a sandbox. Not synced: after a power loss nothing runs that could be found again.
pub(super) fn remember(data_dir: &Path, what: &Remembered) -> io::Result<()> {
    write_beside(&path(data_dir, what.sandbox), &serde_json::to_vec(what)?, false)
}

/// Forgets a sandbox; one that is not remembered is forgotten already.
pub(super) fn forget(data_dir: &Path, sandbox: SandboxId) -> io::Result<()> {
    match fs::remove_file(path(data_dir, sandbox)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Everything remembered. Files that do not read back are passed over, since their groups tell of them too.
pub(super) fn recall(data_dir: &Path) -> io::Result<Vec<Remembered>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder(data_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // A running server may forget one between listing and reading.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&bytes) {
            Ok(one) if path.extension().is_some_and(|end| end == "json") => found.push(one),
            _ => tracing::warn!(path = %path.display(), "not a remembered sandbox"),
        }
    }
    Ok(found)
}

/// Removes what is no remembered sandbox: files that were being written when the server or the host was lost.
pub(super) fn remove_unreadable(data_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder(data_dir))? {
        let path = entry?.path();
        let is_whole = path.extension().is_some_and(|end| end == "json")
            && serde_json::from_slice::<Remembered>(&fs::read(&path)?).is_ok();
        if !is_whole {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Where the boot is noted in which records and host were last in step.
fn boot_file(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("boot")
}

/// Whether an earlier server brought records and host in step since the host was started.
pub(super) fn is_same_boot(data_dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(boot_file(data_dir)) {
        Ok(noted) => Ok(noted == boot_id()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes this boot for the next start.
pub(super) fn note_boot(data_dir: &Path) -> io::Result<()> {
    write_beside(&boot_file(data_dir), boot_id()?.as_bytes(), false)
}

/// Tells this boot of the host from others.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Writes a whole file beside (mode 0600) and renames it into place; with `durable` both are synced.
pub(super) fn write_beside(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&beside, path)?;
    if durable && let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
