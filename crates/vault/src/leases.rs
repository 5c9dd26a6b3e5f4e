//! Who is at work in the store, as an object that is renewed while its holder lives.
//!
//! Which of them belong to processes of this machine that died is known at once: each notes its lease in a file that
//! it keeps locked, so that nobody has to wait for the lease to grow old.

use crate::{
    VaultError,
    error::Result,
    object_keys::{self, Lease, ObjectKey},
    store::{Keep, ObjectInfo},
    vault::Inner,
};
use forkpoint_domain::ids::OrgId;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// After this long without a sign of life a lease counts for nothing.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// A holder that could not show life for this long gives up.
const TRUST: Duration = Duration::from_secs(30 * 60);
const RENEW_AFTER: Duration = Duration::from_secs(60);
/// How far clocks of servers and stores may be apart.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// How long to wait for somebody else's upkeep to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something is written: any number at a time.
    Writing,
    /// The store is collected or mended: one at a time.
    Upkeep,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Writing, Self::Upkeep];

    fn key(self, org: OrgId, lease: Lease) -> String {
        match self {
            Self::Writing => ObjectKey::Lease(org, lease).to_string(),
            Self::Upkeep => ObjectKey::Upkeep(org, lease).to_string(),
        }
    }

    fn prefix(self, org: OrgId) -> String {
        match self {
            Self::Writing => object_keys::leases(org),
            Self::Upkeep => object_keys::upkeep(org),
        }
    }

    /// Where notes of this kind lie on this machine.
    fn folder(self, cache: &Path, org: OrgId) -> PathBuf {
        let name = match self {
            Self::Writing => "leases",
            Self::Upkeep => "upkeep",
        };
        cache.join(name).join(org.to_string())
    }
}

/// A lease that is held; removed from the store when dropped.
#[derive(Debug)]
pub(crate) struct Held<'v> {
    vault: &'v Inner,
    key: String,
    /// Locked as long as this process lives; `None` without a cache directory.
    note: Option<Note>,
    renewed: Mutex<Instant>,
}

impl<'v> Held<'v> {
    /// Announces a writer.
    pub(crate) fn writing(vault: &'v Inner, org: OrgId) -> Result<Self> {
        Self::put(vault, org, Kind::Writing)
    }

    /// Announces upkeep, when nobody else does any. Whoever sees another withdraws: of two that come at once, at least
    /// one sees the other, for each lists after it has written.
    pub(crate) fn upkeep(vault: &'v Inner, org: OrgId) -> Result<Self> {
        let begun = Instant::now();
        loop {
            let held = Self::put(vault, org, Kind::Upkeep)?;
            let others = living(vault, org, Kind::Upkeep)?;
            let Some((other, _)) = others.iter().find(|(key, _)| *key != held.key) else { return Ok(held) };
            if begun.elapsed() > PATIENCE {
                return Err(VaultError::Busy { org, holder: other.clone() });
            }
            drop(held);
            std::thread::sleep(Duration::from_millis(rand::random_range(50..500)));
        }
    }

    fn put(vault: &'v Inner, org: OrgId, kind: Kind) -> Result<Self> {
        let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let lease = Lease { began_ms, nonce: rand::random() };
        // Before the lease, so that none is left of which this machine does not know whose it was.
        let note = vault.cache.as_ref().and_then(|cache| Note::write(&kind.folder(cache, org), lease));
        let held = Self { vault, key: kind.key(org, lease), note, renewed: Mutex::new(Instant::now()) };
        held.show_life()?;
        Ok(held)
    }

    fn show_life(&self) -> Result<()> {
        let at = Instant::now();
        self.vault.store.put(&self.key, bytes::Bytes::from_static(b"at work"), Keep::WhileRunning)?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
        Ok(())
    }

    /// Shows life if that is due.
    pub(crate) fn keep_alive(&self) -> Result<()> {
        let due = self.age() > RENEW_AFTER;
        self.check()?;
        if due { self.show_life() } else { Ok(()) }
    }

    /// Refuses if others may take the holder for dead.
    pub(crate) fn check(&self) -> Result<()> {
        if self.age() > TRUST { Err(VaultError::LeaseLost(TRUST.as_secs())) } else { Ok(()) }
    }

    fn age(&self) -> Duration {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.vault.store.delete(&self.key) {
            // Whoever collects on this machine tries again, and others ignore it once it is old enough.
            tracing::warn!(object = %self.key, %error, "lease was not removed");
            if let Some(note) = &mut self.note {
                note.outlives = true;
            }
        }
    }
}

/// When the writer at work for longest began. Leases of those who died are removed.
pub(crate) fn oldest_writer(vault: &Inner, org: OrgId) -> Result<Option<SystemTime>> {
    let began = |lease: Lease| SystemTime::UNIX_EPOCH + Duration::from_millis(lease.began_ms);
    Ok(living(vault, org, Kind::Writing)?.into_iter().map(|(_, lease)| began(lease)).min())
}

/// The leases of those at work; those of the dead are removed.
fn living(vault: &Inner, org: OrgId, kind: Kind) -> Result<Vec<(String, Lease)>> {
    end_dead(vault, org)?;
    let mut listed: Vec<ObjectInfo> = Vec::new();
    vault.store.list(&kind.prefix(org), &mut |info| listed.push(info))?;
    let mut living = Vec::new();
    for info in listed {
        let (ObjectKey::Lease(_, lease) | ObjectKey::Upkeep(_, lease)) = (match ObjectKey::parse(&info.key) {
            Some(key) => key,
            None => continue,
        }) else {
            continue;
        };
        if info.modified.elapsed().is_ok_and(|age| age > LIFE + CLOCK_SKEW) {
            vault.store.delete(&info.key)?;
            continue;
        }
        living.push((info.key, lease));
    }
    Ok(living)
}

/// Says that the holder of a lease lives, as long as it is held.
#[derive(Debug)]
struct Note {
    path: PathBuf,
    /// The lease could not be removed; whoever finds the note tries again.
    outlives: bool,
    _locked: File,
}

impl Note {
    /// Notes a lease that is about to be written. `None` if that does not work: then the lease ends by its age.
    fn write(folder: &Path, lease: Lease) -> Option<Self> {
        let path = folder.join(lease.to_string());
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

/// Removes the leases of processes of this machine that have died.
fn end_dead(vault: &Inner, org: OrgId) -> Result<()> {
    Kind::ALL.into_iter().try_for_each(|kind| end_dead_of(vault, org, kind))
}

fn end_dead_of(vault: &Inner, org: OrgId, kind: Kind) -> Result<()> {
    let Some(folder) = vault.cache.as_ref().map(|cache| kind.folder(cache, org)) else { return Ok(()) };
    // None of them wrote anything here, or this cannot be known; then their leases end by their age.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(file) = open(&path, OFlags::RDONLY) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // A note that was never finished names no lease: none was written.
        let key = path.file_name().and_then(|name| name.to_str()).map(|name| format!("{}{name}", kind.prefix(org)));
        if let Some(Some(ObjectKey::Lease(..) | ObjectKey::Upkeep(..))) = key.as_deref().map(ObjectKey::parse)
            && let Some(key) = &key
        {
            vault.store.delete(key)?;
            tracing::info!(object = %key, "removed the lease of a process that died");
        }
        let _ = std::fs::remove_file(&path);
    }
    Ok(())
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
        for kind in Kind::ALL {
            let key = kind.key(org, lease);
            assert_eq!(format!("{}{lease}", kind.prefix(org)), key);
            assert!(ObjectKey::parse(&key).is_some());
            assert_eq!(ObjectKey::parse(&format!("{key}.new")), None);
        }
    }
}
