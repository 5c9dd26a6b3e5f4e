//! What the tests of this crate share: a private mount namespace, a real store, real overlays, and
//! an independent reading of a mounted tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use forkpoint_volumes::{DriverChoice, LayerStore, Region, StoreOptions, Tree, read_tree};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use uuid::Uuid;

/// Runs a test in a thread with a mount namespace of its own: whatever it mounts goes with it,
/// also when it fails.
pub(crate) fn privately<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            // Only this new thread gets another namespace.
            unshare_mounts();
            rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            test()
        });
        match run.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[allow(unsafe_code)]
fn unshare_mounts() {
    let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS;
    // SAFETY: the flags change mounts and working directory of this thread, no descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
}

/// How layers are kept in this run: `FORKPOINT_TEST_LAYERS`, else btrfs. For `reflink`, the temporary directory must be
/// on a file system that can share blocks, as with `scripts/with-xfs`.
pub(crate) fn driver() -> DriverChoice {
    let chosen = std::env::var("FORKPOINT_TEST_LAYERS");
    chosen.map_or(DriverChoice::Btrfs, |name| name.parse().unwrap())
}

/// A temporary directory in memory, on disk if there is little memory or layers must be there.
pub(crate) fn memory_dir() -> tempfile::TempDir {
    if driver() == DriverChoice::Reflink {
        return tempfile::tempdir().unwrap();
    }
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |s| s.f_bavail * s.f_frsize);
    if room > 2 << 30 { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A data directory with an open store on a small image.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: LayerStore,
}

pub(crate) fn options(driver: DriverChoice) -> StoreOptions {
    StoreOptions {
        driver,
        initial_bytes: 512 << 20,
        step_bytes: 128 << 20,
        headroom_bytes: 64 << 20,
        host_reserve_bytes: 0,
        max_bytes: None,
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), driver())
    }

    /// On btrfs, whatever this run tests.
    pub(crate) fn on_btrfs() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), DriverChoice::Btrfs)
    }

    /// In memory if there is room: thousands of commits would wait for the disk.
    pub(crate) fn in_memory() -> Self {
        Self::in_dir(memory_dir(), driver())
    }

    fn in_dir(dir: tempfile::TempDir, driver: DriverChoice) -> Self {
        let small = StoreOptions { initial_bytes: 256 << 20, ..options(driver) };
        let store = LayerStore::open(dir.path(), small).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn new_layer(&self) -> Uuid {
        let id = Uuid::new_v4();
        self.store.create(id).unwrap();
        id
    }

    pub(crate) fn snapshot(&self, from: Uuid) -> Uuid {
        let id = Uuid::new_v4();
        self.store.snapshot(from, id).unwrap();
        id
    }

    pub(crate) fn tree(&self, template: &Path, layer: Uuid) -> Tree {
        Tree { template: template.to_owned(), layer: Some(self.store.path(layer)) }
    }

    pub(crate) fn mount(&self, template: &Path, layer: Uuid) -> Overlay {
        Overlay::new(self.dir.path(), template, &self.store.path(layer))
    }
}

/// An XFS in a file, on a loop device that goes with its mount; only in a private mount namespace.
#[derive(Debug)]
pub(crate) struct Xfs {
    dir: tempfile::TempDir,
}

impl Xfs {
    pub(crate) fn new() -> Self {
        let xfs = Self { dir: tempfile::tempdir().unwrap() };
        let image = xfs.dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(xfs.path()).unwrap();
        for (program, flags, at) in
            [("mkfs.xfs", ["-q", "-m", "reflink=1"], None), ("mount", ["-t", "xfs", "-oloop"], Some(xfs.path()))]
        {
            let made = std::process::Command::new(program).args(flags).arg(&image).args(at).output().unwrap();
            assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
        }
        xfs
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // Detached: also when something still uses it because a test failed.
        rustix::mount::unmount(self.path(), UnmountFlags::DETACH).ok();
    }
}

/// A mounted overlay, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) at: PathBuf,
}

impl Overlay {
    pub(crate) fn new(scratch: &Path, template: &Path, layer: &Path) -> Self {
        let at = scratch.join(format!("merged-{}", Uuid::new_v4()));
        fs::create_dir(&at).unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=off,index=off,nfs_export=off",
            template.display(),
            layer.join("upper").display(),
            layer.join("work").display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("overlay", &at, "overlay", flags, options.as_c_str()).unwrap();
        Self { at }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.at, UnmountFlags::empty()).unwrap();
        fs::remove_dir(&self.at).unwrap();
    }
}

/// All that counts of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// Content of a file, target of a symlink.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first path with the same inode, for hard-linked files.
    pub(crate) first_link: Option<Vec<u8>>,
}

pub(crate) type Facade = BTreeMap<Vec<u8>, Facts>;

/// Reads a directory tree of the host, with plain calls and none of the code under test.
pub(crate) fn read_mounted(root: &Path) -> Facade {
    let mut seen = Facade::new();
    let mut links = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let inside = [b"/", below].concat();
        let (name, content) = if kind.is_file() {
            ("file", fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            ("symlink", fs::read_link(&path).unwrap().into_os_string().into_vec())
        } else if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            ("directory", Vec::new())
        } else if kind.is_fifo() {
            ("fifo", Vec::new())
        } else if kind.is_socket() {
            ("socket", Vec::new())
        } else {
            ("device", Vec::new())
        };
        if !kind.is_dir() && meta.nlink() > 1 {
            links.entry((meta.dev(), meta.ino())).or_insert_with(Vec::new).push(inside.clone());
        }
        let facts = Facts {
            kind: name,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            xattrs: xattrs(&path),
            first_link: None,
        };
        seen.insert(inside, facts);
    }
    name_links(&mut seen, links.into_values());
    seen
}

/// Reads a tree with the code under test.
pub(crate) fn read_unmounted(tree: &Tree, region: &dyn Region) -> Facade {
    let mut seen = Facade::new();
    let mut links: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
    read_tree(tree, region, &mut |entry| {
        use forkpoint_volumes::FileKind as K;
        use std::io::Read;
        let (kind, content) = match entry.meta.kind {
            K::File => {
                let mut bytes = Vec::new();
                entry.open()?.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes.len() as u64, entry.meta.size);
                ("file", bytes)
            }
            K::Symlink => ("symlink", entry.target()?),
            K::Directory => ("directory", Vec::new()),
            K::Fifo => ("fifo", Vec::new()),
            K::Socket => ("socket", Vec::new()),
            K::Device => ("device", Vec::new()),
        };
        if entry.meta.kind != K::Directory && entry.meta.links > 1 {
            links.entry(entry.meta.id).or_default().push(entry.path.to_vec());
        }
        let meta = entry.meta;
        let facts = Facts {
            kind,
            mode: meta.mode,
            owner: (meta.uid, meta.gid),
            mtime: (meta.mtime.secs, i64::from(meta.mtime.nanos)),
            content,
            xattrs: entry.xattrs()?,
            first_link: None,
        };
        assert!(seen.insert(entry.path.to_vec(), facts).is_none(), "each path once");
        Ok(())
    })
    .unwrap();
    name_links(&mut seen, links.into_values());
    seen
}

/// Names of one inode know the first of them; a name whose others are out of sight stands alone.
fn name_links(seen: &mut Facade, groups: impl Iterator<Item = Vec<Vec<u8>>>) {
    for mut group in groups.filter(|g| g.len() > 1) {
        group.sort();
        for path in &group {
            seen.get_mut(path).unwrap().first_link = Some(group[0].clone());
        }
    }
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut all = Vec::new();
    for name in list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        all.push((name.to_vec(), value));
    }
    all.sort();
    all
}

/// Fails with the differing paths only, not with two whole trees.
#[track_caller]
pub(crate) fn assert_same(left: &Facade, right: &Facade, what: &str) {
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys()) {
        let (l, r) = (left.get(path), right.get(path));
        if l != r {
            let short = |f: Option<&Facts>| {
                f.map(|f| {
                    let mut f = f.clone();
                    f.content.truncate(40);
                    f
                })
            };
            let line = format!("{}\n   left {:?}\n  right {:?}", String::from_utf8_lossy(path), short(l), short(r));
            if !differences.contains(&line) {
                differences.push(line);
            }
        }
    }
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}
