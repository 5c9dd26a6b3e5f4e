//! Trees to store, vaults to store them in, and stores that misbehave.

use bytes::Bytes;
use forkpoint_domain::ids::{CheckpointId, OrgId, SandboxId};
use forkpoint_vault::{
    Header, MasterKey, PersistJob, Persisted, Progress, SnapshotRef, Vault, VaultOptions,
    store::{Keep, LocalStore, ObjectInfo, Store, StoreError},
};
use jiff::Timestamp;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

pub fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

pub fn org(n: u128) -> OrgId {
    OrgId::from_uuid(uuid(n))
}

pub fn snapshot(org_number: u128, n: u128) -> SnapshotRef {
    SnapshotRef { org: org(org_number), checkpoint: CheckpointId::from_uuid(uuid(n)) }
}

pub fn header(name: SnapshotRef) -> Header {
    Header {
        org: name.org,
        checkpoint: name.checkpoint,
        sandbox: SandboxId::from_uuid(uuid(77)),
        parent: None,
        template_name: "default".into(),
        template_digest: "abc123".into(),
        scope: serde_json::json!({"include": ["/workspace"], "exclude": []}),
        metadata: serde_json::json!({"name": "first", "accuracy": 0.95}),
        env: Some(b"\x01sealed\xff".to_vec()),
        created_at: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
    }
}

pub fn job(tree: &Path, name: SnapshotRef) -> PersistJob {
    PersistJob {
        tree: tree.into(),
        header: header(name),
        parent: None,
        captured_after: Timestamp::UNIX_EPOCH,
        images: Vec::new(),
        progress: Arc::default(),
    }
}

/// A vault in a directory of its own.
pub struct Home {
    pub folder: TempDir,
    pub options: VaultOptions,
    pub vault: Vault,
}

impl Home {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut VaultOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = VaultOptions::new(folder.path().join("store").to_str().unwrap());
        options.cache = Some(folder.path().join("cache"));
        options.pack_bytes = 256 << 10;
        options.first_pause = Duration::from_millis(1);
        change(&mut options);
        let vault = Vault::open(&options, &Self::key(folder.path())).unwrap();
        Self { folder, options, vault }
    }

    pub fn key(folder: &Path) -> MasterKey {
        MasterKey::open_or_create(&folder.join("master.key")).unwrap()
    }

    /// The same store, seen by another server.
    pub fn another(&self) -> Vault {
        let mut options = self.options.clone();
        options.cache = Some(self.folder.path().join(format!("cache-{:x}", rand::random::<u32>())));
        Vault::open(&options, &Self::key(self.folder.path())).unwrap()
    }

    pub fn persist(&self, tree: &Path, name: SnapshotRef) -> Persisted {
        self.vault.persist(&job(tree, name)).unwrap()
    }

    /// Restores into a new directory below the home.
    pub fn restore(&self, name: SnapshotRef) -> PathBuf {
        restore(&self.vault, self.folder.path(), name)
    }

    pub fn packs(&self) -> Vec<PathBuf> {
        objects(self.folder.path(), "packs")
    }
}

pub fn restore(vault: &Vault, below: &Path, name: SnapshotRef) -> PathBuf {
    let into = below.join(format!("restored-{:x}", rand::random::<u64>()));
    fs::create_dir(&into).unwrap();
    vault.materialize(name, &into, &Progress::default()).unwrap();
    into
}

/// Files of the store whose path has a part of that name.
pub fn objects(home: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![home.join("store")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else if entry.path().iter().any(|have| have == part) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

pub fn key_of(home: &Path, object: &Path) -> String {
    object.strip_prefix(home.join("store")).unwrap().to_str().unwrap().to_owned()
}

/// Everything that a layer is, as text per path: to compare trees without the code under test.
pub fn described(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut names: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut paths = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        if meta.file_type().is_socket() {
            continue;
        }
        let content = if meta.is_file() {
            format!("{} {}", meta.len(), blake3::hash(&fs::read(&path).unwrap()))
        } else if meta.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).unwrap())
        } else if meta.file_type().is_char_device() {
            format!("device {}", meta.rdev())
        } else {
            format!("{:?}", meta.file_type())
        };
        let first = if meta.is_dir() {
            relative.clone()
        } else {
            names.entry(meta.ino()).or_insert_with(|| relative.clone()).clone()
        };
        let mut list = vec![0; 65_536];
        let length = rustix::fs::llistxattr(&path, &mut list).unwrap_or(0);
        let mut xattrs = BTreeMap::new();
        for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
            xattrs.insert(String::from_utf8_lossy(name).into_owned(), blake3::hash(&value[..length]).to_string());
        }
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        let text = format!(
            "{content} mode {mode:o} {}:{} {}.{} as {:?} {xattrs:?}",
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            String::from_utf8_lossy(&first)
        );
        all.insert(relative, text);
    }
    all
}

pub fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn own(path: &Path, uid: u32, gid: u32) {
    rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
        .unwrap();
}

pub fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
}

pub fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub fn node(path: &Path, kind: FileType) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), 0).unwrap();
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A layer with one of everything that an overlay's upper directory can hold.
pub fn one_of_everything(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("etc/small"), b"hello").unwrap();
    fs::write(root.join("etc/block"), noise(1, 65_536)).unwrap();
    fs::write(root.join("etc/more"), noise(2, 65_537)).unwrap();
    fs::write(root.join("large"), noise(3, 3_000_001)).unwrap();
    fs::write(root.join("text"), "all work and no play\n".repeat(40_000)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 26).unwrap();
    sparse.write_all_at(&noise(4, 300_000), 1 << 20).unwrap();
    sparse.write_all_at(b"end", (1 << 26) - 100_000).unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(200_000).unwrap();
    fs::write(root.join("zeros"), vec![0; 70_000]).unwrap();
    std::os::unix::fs::symlink("etc/small", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/no/where/../at all", root.join("etc/dangling")).unwrap();
    node(&root.join("fifo"), FileType::Fifo);
    node(&root.join("etc/gone"), FileType::CharacterDevice);
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    fs::hard_link(root.join("large"), root.join("etc/deep/again")).unwrap();
    fs::hard_link(root.join("large"), root.join("z-last")).unwrap();
    fs::hard_link(root.join("link"), root.join("etc/link2")).unwrap();
    for name in [&b"bad \xff\xfe name"[..], b"new\nline", b" ", b"-rf", "π".as_bytes(), &[b'n'; 255]] {
        fs::write(root.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    xattr(&root.join("etc/deep"), "trusted.overlay.opaque", b"y");
    xattr(&root.join("etc"), "trusted.overlay.redirect", b"/old\xff");
    xattr(&root.join("etc/small"), "trusted.overlay.origin", &noise(5, 40));
    xattr(&root.join("etc/small"), "user.large", &noise(6, 1500));
    xattr(&root.join("link"), "trusted.note", b"on a link");
    xattr(&root.join("etc/gone"), "trusted.note", b"on a whiteout");
    own(&root.join("etc/more"), 1000, 100);
    own(&root.join("link"), 65_534, 65_533);
    // cap_net_bind_service=ep, version 2.
    xattr(&root.join("etc/more"), "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    own(&root.join("text"), 7, 8);
    chmod(&root.join("text"), 0o6755);
    chmod(&root.join("empty"), 0);
    chmod(&root.join("etc/deep"), 0o1777);
    set_time(&root.join("etc/small"), -5, 999_999_999);
    set_time(&root.join("link"), 12, 34);
    set_time(&root.join("fifo"), 1 << 33, 1);
    set_time(&root.join("etc/deep/er"), 1, 2);
    set_time(&root.join("etc/deep"), 3, 4);
    set_time(&root.join("etc"), 5, 6);
    chmod(root, 0o751);
    set_time(root, 7, 8);
}

/// `count` files of random sizes around `size` in some directories.
pub fn many_files(root: &Path, seed: u64, count: usize, size: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for n in 0..count {
        let folder = root.join(format!("d{}/e{}", n % 7, n % 3));
        fs::create_dir_all(&folder).unwrap();
        let length = rng.random_range(0..=size * 2);
        fs::write(folder.join(format!("f{n}")), noise(rng.random(), length)).unwrap();
    }
}

/// How a [`Faulty`] store misbehaves.
#[derive(Debug, Default, Clone, Copy)]
pub struct Faults {
    /// Of 1,000 calls, how many fail without effect.
    pub fail: u32,
    /// Of 1,000 writes, how many are done and then reported as failed.
    pub forget: u32,
    /// Of 1,000 reads, how many give less than asked.
    pub truncate: u32,
    /// Of 1,000 reads, how many have a bit flipped.
    pub lie: u32,
    /// Lies are told only of keys with this in them.
    pub lie_of: Option<&'static str>,
    /// Of 1,000 calls, how many take some milliseconds.
    pub slow: u32,
    /// Writes fail for lack of space.
    pub full: bool,
    /// Every call fails.
    pub down: bool,
    /// Records are listed, and denied when they are asked for.
    pub deny_records: bool,
}

/// A store with faults, by a seed.
#[derive(Debug)]
pub struct Faulty {
    inner: LocalStore,
    pub faults: Mutex<Faults>,
    rng: Mutex<StdRng>,
    pub calls: AtomicU64,
    pub bytes_written: AtomicU64,
    pub lies: AtomicU32,
}

impl Faulty {
    pub fn new(root: &Path, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: LocalStore::open(root).unwrap(),
            faults: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            calls: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            lies: AtomicU32::new(0),
        })
    }

    pub fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    fn hit(&self, per_mille: u32) -> bool {
        self.rng.lock().unwrap().random_range(0..1000) < per_mille
    }

    fn before(&self, key: &str) -> Result<Faults, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let faults = *self.faults.lock().unwrap();
        if self.hit(faults.slow) {
            std::thread::sleep(Duration::from_millis(3));
        }
        if faults.down || self.hit(faults.fail) {
            return Err(StoreError::Unavailable { action: "reach", key: key.into(), problem: "injected".into() });
        }
        Ok(faults)
    }

    fn after_write<T>(&self, faults: Faults, key: &str, done: T) -> Result<T, StoreError> {
        if self.hit(faults.forget) {
            return Err(StoreError::Unavailable { action: "answer for", key: key.into(), problem: "injected".into() });
        }
        Ok(done)
    }
}

impl Store for Faulty {
    fn put(&self, key: &str, body: Bytes, keep: Keep) -> Result<(), StoreError> {
        let faults = self.before(key)?;
        if faults.full {
            return Err(StoreError::NoSpace { action: "write", key: key.into() });
        }
        self.bytes_written.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.inner.put(key, body, keep)?;
        self.after_write(faults, key, ())
    }

    fn put_new(&self, key: &str, body: Bytes) -> Result<bool, StoreError> {
        let faults = self.before(key)?;
        if faults.full {
            return Err(StoreError::NoSpace { action: "write", key: key.into() });
        }
        let new = self.inner.put_new(key, body)?;
        self.after_write(faults, key, new)
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let faults = self.before(key)?;
        if faults.deny_records && key.contains("/checkpoints/") {
            return Err(StoreError::Missing { key: key.into() });
        }
        let mut bytes = self.inner.get(key, range)?.to_vec();
        if self.hit(faults.truncate) && !bytes.is_empty() {
            let length = self.rng.lock().unwrap().random_range(0..bytes.len());
            bytes.truncate(length);
        }
        let is_lied_of = faults.lie_of.is_none_or(|part| key.contains(part));
        if is_lied_of && self.hit(faults.lie) && !bytes.is_empty() {
            let at = self.rng.lock().unwrap().random_range(0..bytes.len());
            bytes[at] ^= 1 << self.rng.lock().unwrap().random_range(0..8);
            self.lies.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.before(prefix)?;
        self.inner.list(prefix, each)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let faults = self.before(key)?;
        self.inner.delete(key)?;
        self.after_write(faults, key, ())
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.inner.tidy()
    }
}
