//! Which leases belong to writers of this machine that died: each writer notes its lease in a file that it keeps
//! locked, so that nobody has to wait for the lease to grow old.

use crate::{
    error::Result,
    object_keys::{Lease, ObjectKey},
    vault::Inner,
};
use forkpoint_domain::ids::OrgId;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Says that the writer with a lease lives, as long as it is held.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
    /// The lease could not be removed; whoever finds the note tries again.
    pub(crate) outlives: bool,
    _locked: File,
}

impl Note {
    /// Notes a lease that is about to be written. `None` if that does not work: then the lease ends by its age.
    pub(crate) fn write(cache: &Path, org: OrgId, lease: Lease) -> Option<Self> {
        let path = folder(cache, org).join(name(lease));
        match noted(&path) {
            Ok(_locked) => Some(Self { path, outlives: false, _locked }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "lease was not noted");
                None
            }
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if !self.outlives {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the leases of writers of this machine that have died.
pub(crate) fn end_dead(vault: &Inner, org: OrgId) -> Result<()> {
    let Some(folder) = vault.cache.as_ref().map(|cache| folder(cache, org)) else { return Ok(()) };
    // None of them wrote anything here, or this cannot be known; then their leases end by their age.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(file) = open(&path, OFlags::RDONLY) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // A note that was never finished names no lease: none was written.
        let key = path.file_name().and_then(|name| name.to_str()).map(|name| object_key(org, name));
        if let Some(Some(ObjectKey::Lease(..))) = key.as_deref().map(ObjectKey::parse)
            && let Some(key) = &key
        {
            vault.store.delete(key)?;
            tracing::info!(object = %key, "removed the lease of a writer that died");
        }
        let _ = std::fs::remove_file(&path);
    }
    Ok(())
}

fn folder(cache: &Path, org: OrgId) -> PathBuf {
    cache.join("leases").join(org.to_string())
}

fn object_key(org: OrgId, name: &str) -> String {
    format!("{}{name}", crate::object_keys::leases(org))
}

/// The last part of the lease's own key.
fn name(lease: Lease) -> String {
    format!("{:013}-{:016x}", lease.began_ms, lease.nonce)
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?.into())
}

/// A note that is locked from the moment on at which it has its name.
fn noted(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension("new");
    let file = open(&beside, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::rename(&beside, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_the_names_of_leases() {
        let (org, lease) =
            (OrgId::from_uuid(uuid::Uuid::from_u128(1)), Lease { began_ms: 1_700_000_000_000, nonce: 5 });
        assert_eq!(ObjectKey::parse(&object_key(org, &name(lease))), Some(ObjectKey::Lease(org, lease)));
        assert_eq!(ObjectKey::parse(&object_key(org, &format!("{}.new", name(lease)))), None);
    }
}
