//! What a data directory remembers about its hub: `<run_dir>/hub.json`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The file's content. Only a memory: links, mounts and tables are looked at themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Index of the hub on this host, which its addresses and uids follow from.
    pub(crate) index: u8,
    /// The subnet that the index stood for, as text.
    pub(crate) subnet: String,
    /// The boot in which `forwarding` was changed.
    pub(crate) boot_id: String,
    /// Links for which forwarding was turned on for this hub.
    pub(crate) forwarding: BTreeSet<String>,
}

pub(crate) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("hub.json")
}

/// This boot's identity.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|source| Error::step("read", path, source))?;
    Ok(text.trim().to_owned())
}

/// Reads what is remembered. A file that makes no sense counts as none: everything in it can be found
/// out or chosen anew.
pub(crate) fn load(run_dir: &Path) -> Result<Option<State>> {
    let path = path(run_dir);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let state = serde_json::from_slice(&bytes);
            if let Err(error) = &state {
                tracing::warn!(path = %path.display(), %error, "unreadable hub state is ignored");
            }
            Ok(state.ok())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::step("read", path.display().to_string(), source)),
    }
}

/// Writes it so that a crash leaves the old content or the new.
pub(crate) fn save(run_dir: &Path, state: &State) -> Result<()> {
    let path = path(run_dir);
    let beside = run_dir.join("hub.json.new");
    let failed = |source| Error::step("write", path.display().to_string(), source);
    let bytes = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, &path).map_err(failed)?;
    File::open(run_dir).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Forgets everything.
pub(crate) fn remove(run_dir: &Path) -> Result<()> {
    for path in [run_dir.join("hub.json.new"), path(run_dir)] {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::step("remove file", path.display().to_string(), source));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nonsense_counts_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let state = State {
            index: 3,
            subnet: "10.213.12.0/22".into(),
            boot_id: boot_id().unwrap(),
            forwarding: ["eth0".to_owned()].into(),
        };
        save(dir.path(), &state).unwrap();
        save(dir.path(), &state).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(state));
        std::fs::write(path(dir.path()), "{\"index\":").unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
