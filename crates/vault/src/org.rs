//! One organisation's part of the vault: its key, and the index of its packs kept in step with the store.

use crate::{
    VaultError,
    crypto::{OrgKeys, random},
    error::Result,
    index::Index,
    object_keys::{self, ObjectKey, PackId},
    pack::{self, Contents, FOOTER},
    store::{Keep, ObjectInfo, StoreError},
    vault::Inner,
};
use forkpoint_domain::ids::OrgId;
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use zeroize::Zeroizing;

const KEY_MAGIC: &[u8; 8] = b"FPVOKEY1";
/// How much of a pack's end is read at first; most indexes fit.
const TAIL: u64 = 64 << 10;

/// An organisation in use.
#[derive(Debug)]
pub(crate) struct Org {
    pub(crate) id: OrgId,
    pub(crate) keys: OrgKeys,
    index: Mutex<Index>,
    /// Packs that gave wrong bytes to this process, and that it has not read through since.
    doubted: Mutex<HashSet<PackId>>,
}

/// What listing the packs told.
#[derive(Debug, Default)]
pub(crate) struct Refreshed {
    /// All packs in the store.
    pub(crate) packs: BTreeMap<PackId, ObjectInfo>,
    /// Packs whose index cannot be read, and why.
    pub(crate) damaged: Vec<(PackId, VaultError)>,
    /// Packs that once gave wrong bytes, as marked.
    pub(crate) suspects: HashSet<PackId>,
}

impl Org {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is complete before its lock is given back.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the index in step with the store: new packs, packs that are gone, packs that are to go.
    pub(crate) fn refresh(&self, vault: &Inner) -> Result<Refreshed> {
        let before: HashSet<PackId> = self.index().packs.keys().copied().collect();
        let mut packs = BTreeMap::new();
        vault.store.list(&object_keys::packs(self.id), &mut |info| {
            if let Some(ObjectKey::Pack(_, pack)) = ObjectKey::parse(&info.key) {
                packs.insert(pack, info);
            }
        })?;
        let condemned = self.condemned(vault)?.into_keys().collect();
        let new: Vec<&ObjectInfo> = packs.iter().filter(|(id, _)| !before.contains(id)).map(|(_, info)| info).collect();
        let (damaged, next) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let threads = vault.store.parallelism().min(new.len()).max(1);
        let fatal = std::thread::scope(|scope| {
            let reading: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        while let Some(info) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                            let Some(ObjectKey::Pack(_, pack)) = ObjectKey::parse(&info.key) else { continue };
                            match self.read_index(vault, pack, info) {
                                Ok(contents) => self.index().add(pack, contents),
                                Err(VaultError::Store(StoreError::Missing { .. })) => {}
                                Err(error @ VaultError::Store(_)) => return Err(error),
                                Err(error) => {
                                    tracing::error!(object = %info.key, %error, "pack is damaged");
                                    damaged.lock().unwrap_or_else(PoisonError::into_inner).push((pack, error));
                                }
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            reading.into_iter().map(|thread| thread.join()).find_map(|end| match end {
                Ok(end) => end.err(),
                Err(_) => Some(VaultError::Broken("reading pack indexes panicked")),
            })
        });
        if let Some(error) = fatal {
            return Err(error);
        }
        let mut index = self.index();
        // Only what was known before the listing began: newer packs may have been written since.
        index.remove(&before.into_iter().filter(|pack| !packs.contains_key(pack)).collect());
        index.condemn(&condemned);
        drop(index);
        let damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().for_each(|(pack, _)| self.suspect(vault, *pack));
        let suspects = self.read_suspects(vault)?;
        Ok(Refreshed { packs, damaged, suspects })
    }

    /// Reads the marks of packs that once gave wrong bytes, and applies them; what this process doubts counts, too.
    pub(crate) fn read_suspects(&self, vault: &Inner) -> Result<HashSet<PackId>> {
        let mut suspects = HashSet::new();
        vault.store.list(&object_keys::suspects(self.id), &mut |info| {
            if let Some(ObjectKey::Suspect(_, pack)) = ObjectKey::parse(&info.key) {
                suspects.insert(pack);
            }
        })?;
        // Marks that could not be put when they were due.
        self.doubts().difference(&suspects).for_each(|pack| self.mark(vault, *pack));
        let mut index = self.index();
        suspects.extend(self.doubts());
        index.suspect(&suspects);
        drop(index);
        Ok(suspects)
    }

    /// Packs that gave wrong bytes to this process, and that it has not read through since.
    pub(crate) fn doubts(&self) -> HashSet<PackId> {
        self.doubted().clone()
    }

    fn doubted(&self) -> MutexGuard<'_, HashSet<PackId>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pack gave wrong bytes. Nothing new relies on it from now on, here or on other servers, until it was read
    /// through and found whole ([`Org::trust`]); nothing is taken away, for it may have been the way from the store.
    pub(crate) fn suspect(&self, vault: &Inner, pack: PackId) {
        if !self.doubted().insert(pack) {
            return;
        }
        self.index().mark(|id, info| info.suspect |= *id == pack);
        self.mark(vault, pack);
    }

    fn mark(&self, vault: &Inner, pack: PackId) {
        let key = ObjectKey::Suspect(self.id, pack).to_string();
        match vault.store.put(&key, bytes::Bytes::from_static(b"gave wrong bytes"), Keep::Always) {
            Ok(()) => tracing::error!(object = %key, "a pack gave wrong bytes; nothing new relies on it"),
            // Here it is known, and the next listing of marks tries again.
            Err(error) => tracing::error!(object = %key, %error, "a pack gave wrong bytes, and could not be marked"),
        }
    }

    /// A pack that was suspect was read through, and is whole.
    pub(crate) fn trust(&self, vault: &Inner, pack: PackId) -> Result<()> {
        self.unmark(vault, pack)?;
        self.index().mark(|id, info| info.suspect &= *id != pack);
        Ok(())
    }

    /// Takes a pack's mark away; as long as the index has it, it stays suspect there.
    pub(crate) fn unmark(&self, vault: &Inner, pack: PackId) -> Result<()> {
        // First, or who reads the marks between the two would put it again.
        self.doubted().remove(&pack);
        Ok(vault.store.delete(&ObjectKey::Suspect(self.id, pack).to_string())?)
    }

    /// Packs that are marked to go, and the marks.
    pub(crate) fn condemned(&self, vault: &Inner) -> Result<BTreeMap<PackId, ObjectInfo>> {
        let mut condemned = BTreeMap::new();
        vault.store.list(&object_keys::condemned(self.id), &mut |info| {
            if let Some(ObjectKey::Condemned(_, pack)) = ObjectKey::parse(&info.key) {
                condemned.insert(pack, info);
            }
        })?;
        Ok(condemned)
    }

    /// The index of a pack, from this machine's copy or from the pack.
    fn read_index(&self, vault: &Inner, pack: PackId, info: &ObjectInfo) -> Result<Contents> {
        if let Some(copy) = self.copy_path(vault, pack)
            && let Ok(bytes) = std::fs::read(&copy)
            && let Some((end, sealed)) = bytes.split_first_chunk::<8>()
            && let Ok(contents) = pack::open_index(&self.keys, &info.key, pack, sealed, u64::from_le_bytes(*end))
        {
            return Ok(contents);
        }
        let (sealed, end) = vault.twice(|| read_sealed_index(vault, info))?;
        let contents = pack::open_index(&self.keys, &info.key, pack, &sealed, end)?;
        self.keep_copy(vault, pack, end, &sealed);
        Ok(contents)
    }

    /// Reads a pack's index from the store itself.
    pub(crate) fn read_stored_index(&self, vault: &Inner, pack: PackId, info: &ObjectInfo) -> Result<Contents> {
        vault.twice(|| {
            let (sealed, end) = read_sealed_index(vault, info)?;
            pack::open_index(&self.keys, &info.key, pack, &sealed, end)
        })
    }

    fn copy_path(&self, vault: &Inner, pack: PackId) -> Option<PathBuf> {
        // A local store is as near as any copy of it.
        let cache = vault.cache.as_ref().filter(|_| vault.is_remote)?;
        Some(cache.join("indexes").join(self.id.to_string()).join(pack.to_string()))
    }

    fn keep_copy(&self, vault: &Inner, pack: PackId, end: u64, sealed: &[u8]) {
        if let Some(path) = self.copy_path(vault, pack) {
            crate::hints::write_beside(&path, &[&end.to_le_bytes()[..], sealed].concat());
        }
    }

    /// Removes this machine's copies of indexes of packs that are gone.
    pub(crate) fn drop_copy(&self, vault: &Inner, pack: PackId) {
        if let Some(path) = self.copy_path(vault, pack) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read_sealed_index(vault: &Inner, info: &ObjectInfo) -> Result<(Vec<u8>, u64)> {
    if info.size < FOOTER as u64 {
        return Err(VaultError::corrupt(&info.key, "it is too short for a pack"));
    }
    let from = info.size.saturating_sub(TAIL);
    let tail = vault.store.get(&info.key, Some(from..info.size)).map_err(|error| short(error, &info.key))?;
    let range = pack::read_footer(&info.key, &tail[tail.len() - FOOTER..], info.size)?;
    let end = range.start;
    let sealed = match range.start.checked_sub(from) {
        Some(at) => tail[at as usize..(at + range.end - range.start) as usize].to_vec(),
        None => vault.store.get(&info.key, Some(range)).map_err(|error| short(error, &info.key))?.to_vec(),
    };
    Ok((sealed, end))
}

/// An object that is shorter than the listing said, also when asked again, is damaged.
pub(crate) fn short(error: StoreError, key: &str) -> VaultError {
    match error {
        StoreError::Short { .. } => VaultError::corrupt(key, "it is cut short"),
        error => error.into(),
    }
}

/// Opens an organisation; with `create`, one that the vault has never seen gets its key.
pub(crate) fn open(vault: &Inner, id: OrgId, create: bool) -> Result<Option<Org>> {
    let key = ObjectKey::OrgKey(id).to_string();
    let context = [b"organisation key ".as_slice(), &vault.id, id.to_string().as_bytes()].concat();
    let secret: Zeroizing<[u8; 32]> = loop {
        match vault.store.get(&key, None) {
            Ok(bytes) => {
                let sealed = bytes.strip_prefix(KEY_MAGIC).ok_or_else(|| VaultError::corrupt(&key, "it is no key"))?;
                let clear = vault.seal.open(&context, sealed);
                let clear = clear.ok_or_else(|| VaultError::corrupt(&key, "it does not open with the master key"))?;
                let Ok(secret) = <[u8; 32]>::try_from(&clear[..]) else {
                    return Err(VaultError::corrupt(&key, "it has no 32 bytes"));
                };
                break Zeroizing::new(secret);
            }
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut leftovers = false;
        vault.store.list(&object_keys::org(id), &mut |_| leftovers = true)?;
        if leftovers {
            // The listing may have seen the key itself, made by another server after our read.
            if vault.store.get(&key, None).is_ok() {
                continue;
            }
            return Err(VaultError::KeyDestroyed(id));
        }
        if !create {
            return Ok(None);
        }
        let mut secret = Zeroizing::new([0; 32]);
        random(&mut *secret)?;
        let bytes = [&KEY_MAGIC[..], &vault.seal.seal(&context, &*secret)?].concat();
        if vault.store.put_new(&key, bytes.into())? {
            break secret;
        }
    };
    Ok(Some(Org { id, keys: OrgKeys::new(&secret), index: Mutex::default(), doubted: Mutex::default() }))
}
