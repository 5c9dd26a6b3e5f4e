//! Layers in real stores: each driver does the same, and interruptions leave nothing half-made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{Rig, Xfs, options, privately, read_mounted};
use forkpoint_volumes::{DriverChoice, DriverKind, Error, LayerStore, inventory, list_layers, probe, purge};
use uuid::Uuid;

/// What every driver owes, on an open store.
fn contract(store: &LayerStore) {
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(!store.exists(a).unwrap());
    store.create(a).unwrap();
    assert!(store.exists(a).unwrap());
    let upper = store.path(a).join("upper");
    let meta = upper.metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o755, 0, 0));
    assert!(store.path(a).join("work").is_dir());
    assert!(matches!(store.create(a), Err(Error::LayerExists(id)) if id == a));

    fill(&upper);
    let before = read_mounted(&upper);
    store.flush(a).unwrap();
    store.snapshot(a, b).unwrap();
    assert_eq!(read_mounted(&store.path(b).join("upper")), before);
    assert!(store.path(b).join("work").is_dir());
    // Marks that only overlayfs reads are part of a layer.
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(store.path(b).join("upper/dir"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"y");
    let sparse = store.path(b).join("upper/sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes, {} blocks", sparse.blocks());

    fs::write(upper.join("file"), "changed later").unwrap();
    fs::remove_dir_all(upper.join("dir")).unwrap();
    assert_eq!(read_mounted(&store.path(b).join("upper")), before, "a snapshot keeps its state");

    assert!(matches!(store.snapshot(a, b), Err(Error::LayerExists(id)) if id == b));
    let missing = Uuid::new_v4();
    assert!(matches!(store.snapshot(missing, Uuid::new_v4()), Err(Error::NoLayer(id)) if id == missing));
    assert!(matches!(store.flush(missing), Err(Error::NoLayer(id)) if id == missing));

    fs::create_dir(store.root().join("not-a-layer")).unwrap();
    let mut listed = store.list().unwrap();
    listed.sort();
    let mut expected = vec![a, b];
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(list_layers(store.data_dir()).unwrap().len(), 2);
    assert_eq!(inventory(store.data_dir()).unwrap().layers, expected);
    fs::remove_dir(store.root().join("not-a-layer")).unwrap();

    store.sync().unwrap();
    for id in [a, b, a] {
        store.delete(id).unwrap();
        assert!(!store.exists(id).unwrap());
    }
    let left: Vec<_> = fs::read_dir(store.root())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != ".empty")
        .collect();
    assert_eq!(left, Vec::<String>::new());
    let usage = store.usage().unwrap();
    assert!(usage.free_bytes > 0 && usage.total_bytes >= usage.free_bytes && usage.allocated_bytes > 0, "{usage:?}");
}

fn fill(upper: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
    fs::write(upper.join("file"), "content").unwrap();
    fs::hard_link(upper.join("file"), upper.join("other name")).unwrap();
    std::os::unix::fs::symlink("nowhere", upper.join("symlink")).unwrap();
    fs::create_dir(upper.join("dir")).unwrap();
    fs::write(upper.join("dir/below\n\u{fffd}"), [7; 100_000]).unwrap();
    rustix::fs::setxattr(upper.join("dir"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(upper.join("file"), "user.mark", b"1", XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(upper.join("file"), Some(1000), Some(1000)).unwrap();
    mknodat(CWD, upper.join("whiteout"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    mknodat(CWD, upper.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let sparse = fs::File::create(upper.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"data", 32 << 20).unwrap();
}

#[test]
fn btrfs_image_keeps_the_contract() {
    privately(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path(), options(DriverChoice::Auto)).unwrap();
        assert_eq!(store.driver(), DriverKind::Btrfs);
        let found = probe(dir.path(), DriverChoice::Auto);
        assert_eq!((found.driver, found.image, found.mounted), (Some(DriverKind::Btrfs), true, true), "{found:?}");
        assert!(found.loop_device.is_some() && !found.reasons.is_empty());
        contract(&store);
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let root = store.root().to_str().unwrap().to_owned();
        let line = mounts.lines().find(|l| l.contains(&root)).unwrap();
        for flag in ["nosuid", "nodev", "noatime"] {
            assert!(line.contains(flag), "{line}");
        }
        store.unmount().unwrap();
        purge(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}

#[test]
fn btrfs_directory_keeps_the_contract() {
    privately(|| {
        let outer = Rig::on_btrfs();
        let dir = outer.store.root().join("nested");
        fs::create_dir(&dir).unwrap();
        let store = LayerStore::open(&dir, options(DriverChoice::Auto)).unwrap();
        assert_eq!(store.driver(), DriverKind::Btrfs);
        assert!(!dir.join("layers.img").exists());
        contract(&store);
        drop(store);
        purge(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    });
}

#[test]
fn reflink_on_btrfs_keeps_the_contract() {
    privately(|| {
        let outer = Rig::on_btrfs();
        let dir = outer.store.root().join("nested");
        fs::create_dir(&dir).unwrap();
        let store = LayerStore::open(&dir, options(DriverChoice::Reflink)).unwrap();
        assert_eq!(store.driver(), DriverKind::Reflink);
        contract(&store);
        let kept = Uuid::new_v4();
        store.create(kept).unwrap();
        drop(store);
        let again = LayerStore::open(&dir, options(DriverChoice::Auto)).unwrap();
        assert_eq!(again.driver(), DriverKind::Reflink, "what holds layers stays");
        assert_eq!(again.list().unwrap(), [kept]);
    });
}

#[test]
fn reflink_on_xfs_keeps_the_contract_and_shares_blocks() {
    privately(|| {
        let xfs = Xfs::new();
        let dir = xfs.path().join("data");
        fs::create_dir(&dir).unwrap();
        let store = LayerStore::open(&dir, options(DriverChoice::Reflink)).unwrap();
        assert_eq!(store.driver(), DriverKind::Reflink);
        contract(&store);
        let big = Uuid::new_v4();
        store.create(big).unwrap();
        fs::write(store.path(big).join("upper/big"), vec![7; 64 << 20]).unwrap();
        store.flush(big).unwrap();
        assert_eq!(store.weigh(big).unwrap(), 64 << 20);
        let before = store.usage().unwrap().free_bytes;
        for _ in 0..4 {
            store.snapshot(big, Uuid::new_v4()).unwrap();
        }
        let taken = before.saturating_sub(store.usage().unwrap().free_bytes);
        assert!(taken < 16 << 20, "four snapshots of 64 MiB took {taken} bytes");
        drop(store);
        purge(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    });
}

#[test]
fn a_snapshot_is_a_layer_only_when_it_is_finished() {
    privately(|| {
        let rig = Rig::new();
        let (from, to) = (rig.new_layer(), Uuid::new_v4());
        fs::write(rig.store.path(from).join("upper/file"), "then").unwrap();
        let taken = rig.store.begin_snapshot(from, to).unwrap();
        // Writers go on meanwhile.
        fs::write(rig.store.path(from).join("upper/file"), "now").unwrap();
        rig.store.finish_snapshot(taken).unwrap();
        assert_eq!(fs::read_to_string(rig.store.path(to).join("upper/file")).unwrap(), "then");
        assert!(matches!(rig.store.begin_snapshot(from, to), Err(Error::LayerExists(id)) if id == to));
        // One that nobody finishes stays as long as somebody might, and then is cleared away.
        let never = Uuid::new_v4();
        let taken = rig.store.begin_snapshot(from, never).unwrap();
        let left = || {
            let entries = fs::read_dir(rig.store.root()).unwrap();
            entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp-")).count()
        };
        let copies = usize::from(rig.store.driver() != DriverKind::Btrfs);
        rig.store.tidy().unwrap();
        assert_eq!(left(), copies);
        drop(taken);
        rig.store.tidy().unwrap();
        assert_eq!(left(), 0);
        let (dir, kind) = (rig.dir, rig.store.driver());
        drop(rig.store);
        let again = LayerStore::open(dir.path(), options(kind.to_string().parse().unwrap())).unwrap();
        if kind != DriverKind::Btrfs {
            assert!(!again.exists(never).unwrap());
        }
        let names = fs::read_dir(again.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.filter(|name| name.starts_with(".tmp-")).count() == 0);
        again.unmount().unwrap();
    });
}

#[test]
fn copy_driver_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path(), options(DriverChoice::Copy)).unwrap();
    assert_eq!(store.driver(), DriverKind::Copy);
    contract(&store);
}

#[test]
fn opening_again_finds_the_layers_the_mount_and_clears_leftovers() {
    privately(|| {
        let dir = tempfile::tempdir().unwrap();
        let open = || LayerStore::open(dir.path(), options(DriverChoice::Auto)).unwrap();
        let count = || {
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            mounts.lines().filter(|l| l.contains(dir.path().to_str().unwrap())).count()
        };
        let id = Uuid::new_v4();
        let store = open();
        store.create(id).unwrap();
        fs::write(store.path(id).join("upper/file"), "x").unwrap();
        // As a killed process leaves it: mounted, with something half-made inside.
        drop(store);
        fs::create_dir_all(dir.path().join("layers/.tmp-copy-1-1/upper/a/b")).unwrap();
        let store = open();
        assert_eq!(count(), 1, "the mount is adopted");
        assert_eq!(store.list().unwrap(), [id]);
        assert!(!dir.path().join("layers/.tmp-copy-1-1").exists());
        store.unmount().unwrap();
        assert_eq!(count(), 0);
        // A half-made image is not taken for one.
        fs::write(dir.path().join(".layers.img.new"), "half").unwrap();
        let store = open();
        assert_eq!(fs::read_to_string(store.path(id).join("upper/file")).unwrap(), "x");
        store.unmount().unwrap();
        fs::remove_file(dir.path().join("layers.img")).unwrap();
        let store = open();
        assert_eq!(store.list().unwrap(), Vec::<Uuid>::new(), "a new image over the half-made one");
        assert!(!dir.path().join(".layers.img.new").exists());
        store.unmount().unwrap();
    });
}

#[test]
fn an_image_mounted_elsewhere_gets_no_second_loop_device() {
    privately(|| {
        let rig = Rig::on_btrfs();
        let id = rig.new_layer();
        let held = |dir: &Path| inventory(dir).map(|found| (found.mounts, found.loops)).unwrap();
        let elsewhere = rig.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        rustix::mount::mount_bind(rig.store.root(), &elsewhere).unwrap();
        let Rig { dir, store } = rig;
        assert_eq!(held(dir.path()), (1, 1));
        store.unmount().unwrap();
        assert_eq!(held(dir.path()), (0, 1), "kept by the mount elsewhere");
        let store = LayerStore::open(dir.path(), options(DriverChoice::Auto)).unwrap();
        assert_eq!(store.list().unwrap(), [id]);
        fs::write(elsewhere.join(id.to_string()).join("upper/seen"), "").unwrap();
        assert!(store.path(id).join("upper/seen").exists(), "one file system, not two on one image");
        rustix::mount::unmount(&elsewhere, rustix::mount::UnmountFlags::empty()).unwrap();
        store.unmount().unwrap();
    });
}

#[test]
fn foreign_mounts_and_other_drivers_layers_are_refused() {
    privately(|| {
        let dir = tempfile::tempdir().unwrap();
        let layers = dir.path().join("layers");
        fs::create_dir(&layers).unwrap();
        rustix::mount::mount("none", &layers, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let refused = LayerStore::open(dir.path(), options(DriverChoice::Btrfs));
        assert!(matches!(refused, Err(Error::ForeignMount { .. })), "{refused:?}");
        assert!(matches!(purge(dir.path()), Err(Error::ForeignMount { .. })));
        rustix::mount::unmount(&layers, rustix::mount::UnmountFlags::empty()).unwrap();
        let store = LayerStore::open(dir.path(), options(DriverChoice::Btrfs)).unwrap();
        store.unmount().unwrap();
        let refused = LayerStore::open(dir.path(), options(DriverChoice::Copy));
        assert!(matches!(refused, Err(Error::DriverUnavailable { .. })), "{refused:?}");
    });
}

#[test]
fn the_image_grows_ahead_within_its_bounds_and_a_full_one_says_no_space() {
    privately(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut small = options(DriverChoice::Btrfs);
        small.initial_bytes = 256 << 20;
        small.headroom_bytes = 300 << 20;
        small.step_bytes = 128 << 20;
        small.max_bytes = Some(512 << 20);
        let store = LayerStore::open(dir.path(), small).unwrap();
        let before = store.usage().unwrap();
        let growth = store.grow_if_needed().unwrap();
        assert!(growth.grown_bytes >= 128 << 20, "{growth:?}");
        let after = store.usage().unwrap();
        assert_eq!(after.total_bytes, before.total_bytes + growth.grown_bytes);
        assert!(after.allocated_bytes >= after.total_bytes, "every block is allocated: {after:?}");

        let id = Uuid::new_v4();
        store.create(id).unwrap();
        let path = store.path(id).join("upper/big");
        let mut file = fs::File::create(&path).unwrap();
        let chunk = vec![1; 1 << 20];
        let mut error = None;
        for _ in 0..1024 {
            use std::io::Write;
            if let Err(e) = file.write_all(&chunk) {
                error = Some(e);
                break;
            }
            if let Err(e) = file.sync_data() {
                error = Some(e);
                break;
            }
            store.grow_if_needed().unwrap();
        }
        assert_eq!(error.unwrap().kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(dir.path().join("layers.img").metadata().unwrap().len(), 512 << 20, "up to the bound");
        assert!(store.grow_if_needed().unwrap().held_back);
        drop(file);
        store.delete(id).unwrap();
        store.sync().unwrap();
        let again = Uuid::new_v4();
        store.create(again).unwrap();
        fs::write(store.path(again).join("upper/f"), vec![2; 1 << 20]).unwrap();
        store.flush(again).unwrap();
        store.unmount().unwrap();
    });
}

#[test]
fn a_growth_cut_short_is_finished_at_the_next_start() {
    privately(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path(), options(DriverChoice::Btrfs)).unwrap();
        let before = store.usage().unwrap().total_bytes;
        drop(store);
        // The file had grown, neither device nor file system knew; and its tail was not allocated.
        let image = fs::OpenOptions::new().write(true).open(dir.path().join("layers.img")).unwrap();
        let len = image.metadata().unwrap().len();
        image.set_len(len + (128 << 20)).unwrap();
        let store = LayerStore::open(dir.path(), options(DriverChoice::Btrfs)).unwrap();
        let usage = store.usage().unwrap();
        assert_eq!(usage.total_bytes, before + (128 << 20));
        assert!(usage.allocated_bytes >= usage.total_bytes);
        store.unmount().unwrap();
    });
}

#[test]
fn no_image_is_made_into_the_hosts_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let mut greedy = options(DriverChoice::Btrfs);
    greedy.host_reserve_bytes = u64::MAX;
    let refused = LayerStore::open(dir.path(), greedy).unwrap_err();
    assert!(refused.is_out_of_space(), "{refused}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["layers"]);
}

#[test]
fn a_store_can_be_shared_by_threads_that_snapshot_at_once() {
    privately(|| {
        let rig = Rig::in_memory();
        let source = rig.new_layer();
        fs::write(rig.store.path(source).join("upper/file"), "x").unwrap();
        let store = &rig.store;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let id = Uuid::new_v4();
                        store.snapshot(source, id).unwrap();
                        store.flush(id).unwrap();
                        assert_eq!(fs::read_to_string(store.path(id).join("upper/file")).unwrap(), "x");
                        store.delete(id).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.list().unwrap(), [source]);
    });
}
