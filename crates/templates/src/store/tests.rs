//! Placing, finding, and what is left after crashes, with a small tree in place of a built one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};

use super::*;

/// A data directory and a cache that already holds a "built" tree.
struct Place {
    directory: tempfile::TempDir,
    recipe: Recipe,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap(), recipe: Recipe::standard("") };
        place.fill_cache();
        place
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn entry(&self) -> PathBuf {
        self.cache().join("templates/default").join(&self.recipe.digest)
    }

    fn data(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn store(&self, name: &str) -> TemplateStore {
        // Building must not happen in these tests: there is nothing to build from.
        let store = TemplateStore::open(&self.data(name), &self.cache()).unwrap();
        store.with_apt(HostApt::at(self.directory.path().join("no-apt")))
    }

    fn fill_cache(&self) {
        let root = self.entry().join("rootfs");
        fs::create_dir_all(root.join("etc/deep/er")).unwrap();
        fs::create_dir_all(root.join("home/sandbox")).unwrap();
        fs::write(root.join("etc/file"), "content").unwrap();
        fs::set_permissions(root.join("etc/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(root.join("etc/file"), root.join("home/second name")).unwrap();
        fs::write(root.join("home/sandbox").join(std::ffi::OsStr::from_bytes(b"odd\xff\nname")), "odd").unwrap();
        symlink("../nowhere", root.join("etc/deep/link")).unwrap();
        std::os::unix::fs::lchown(root.join("etc/deep/link"), Some(1000), Some(1000)).unwrap();
        std::os::unix::fs::chown(root.join("home/sandbox"), Some(1000), Some(1000)).unwrap();
        fs::set_permissions(root.join("home"), fs::Permissions::from_mode(0o1777)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("etc/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        rustix::fs::setxattr(root.join("etc/file"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        for entry in ["etc/file", "etc/deep", "home/sandbox"] {
            let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(rustix::fs::CWD, root.join(entry), &times, AtFlags::empty()).unwrap();
        }
        self.write_manifest();
    }

    fn write_manifest(&self) {
        let measure = tree::measure(&self.entry().join("rootfs"), &Cancel::default()).unwrap();
        Manifest::new("default", &self.recipe.digest, "bookworm", &measure).write(&self.entry()).unwrap();
    }
}

/// Everything that can be told of a tree, by path.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>) {
        let meta = fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            let mut note = vec![0; 100];
            let size = rustix::fs::getxattr(path, "user.note", &mut note).unwrap_or(0);
            format!("{:?} {:?} links {}", fs::read(path).unwrap(), &note[..size], meta.nlink())
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(path).unwrap())
        } else {
            String::new()
        };
        // Reading a directory or file here must not count as a difference: access times are left out.
        let line = format!(
            "{kind:?} {:o} {}:{} {}.{} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
        if kind.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                walk(root, &entry.unwrap().path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn quiet(_: Progress) {}

fn hidden(directory: &Path) -> Vec<String> {
    directory_names(directory).unwrap().into_iter().filter(|n| n.starts_with(".tmp-")).collect()
}

#[test]
fn on_one_filesystem_files_are_hard_links_of_the_cached_ones() {
    let place = Place::new();
    let template = place.store("data").ensure_default(&mut quiet).unwrap();
    assert_eq!(template.root, place.data("data").join("templates/default").join(&template.digest).join("rootfs"));
    let inode = |root: &Path| fs::metadata(root.join("etc/file")).unwrap().ino();
    assert_eq!(inode(&template.root), inode(&place.entry().join("rootfs")));
    let mut cached = describe(&place.entry().join("rootfs"));
    let placed = describe(&template.root);
    assert_eq!(placed.len(), cached.len());
    cached.retain(|path, line| placed[path] != *line);
    assert!(cached.is_empty(), "{cached:?}");
    // Emptying the cache loses nothing.
    fs::remove_dir_all(place.cache()).unwrap();
    assert_eq!(fs::read(template.root.join("etc/file")).unwrap(), b"content");
    assert_eq!(place.store("data").ensure_default(&mut quiet).unwrap(), template);
}

#[test]
fn a_copy_keeps_owners_modes_times_attributes_and_hard_links() {
    let place = Place::new();
    let source = place.entry().join("rootfs");
    let target = place.directory.path().join("copy");
    fs::create_dir(&target).unwrap();
    let placed = tree::place(&source, &target, Method::Copy, &mut |_| Ok(())).unwrap().unwrap();
    assert_eq!((placed.files, placed.directories), (5, 6));
    assert_eq!(describe(&target), describe(&source));
    assert_ne!(
        fs::metadata(target.join("etc/file")).unwrap().ino(),
        fs::metadata(source.join("etc/file")).unwrap().ino()
    );
    let measure = |root: &Path| tree::measure(root, &Cancel::default()).unwrap();
    assert_eq!(measure(&target), measure(&source));
    assert_eq!(measure(&source).bytes, 7 + 3, "hard links count once");
}

#[test]
fn the_digest_changes_with_content_mode_owner_name_and_place() {
    let place = Place::new();
    let root = place.entry().join("rootfs");
    let mut seen = vec![tree::measure(&root, &Cancel::default()).unwrap().digest];
    let changes: [&dyn Fn(); 5] = [
        &|| fs::write(root.join("etc/file"), "CONTENT").unwrap(),
        &|| fs::set_permissions(root.join("etc/file"), fs::Permissions::from_mode(0o600)).unwrap(),
        &|| std::os::unix::fs::chown(root.join("etc/file"), Some(7), None).unwrap(),
        &|| fs::rename(root.join("etc/fifo"), root.join("etc/fifo2")).unwrap(),
        &|| fs::rename(root.join("etc/deep/er"), root.join("etc/er")).unwrap(),
    ];
    for change in changes {
        change();
        let digest = tree::measure(&root, &Cancel::default()).unwrap().digest;
        assert!(!seen.contains(&digest), "{seen:?}");
        seen.push(digest);
    }
}

#[test]
fn another_filesystem_gets_a_copy_and_a_full_one_a_clear_error_and_nothing_else() {
    let place = Place::new();
    let big = place.entry().join("rootfs/big");
    fs::write(&big, vec![7; 3_000_000]).unwrap();
    place.write_manifest();
    for (size, fits) in [("16m", true), ("1m", false)] {
        let data = place.data("data");
        let mount = Mounted::tmpfs(&data, size);
        let result = place.store("data").ensure_default(&mut quiet);
        if fits {
            let template = result.unwrap();
            assert_eq!(describe(&template.root), describe(&place.entry().join("rootfs")));
        } else {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::DiskFull { need_mb: 4, .. }), "{error}");
            assert_eq!(directory_names(&data.join("templates/default")).unwrap(), [".lock"]);
        }
        drop(mount);
    }
}

#[test]
fn a_disk_that_fills_up_while_copying_leaves_nothing() {
    let place = Place::new();
    // Inodes run out, which no look at free bytes foresees.
    for n in 0..64 {
        fs::write(place.entry().join("rootfs").join(format!("f{n}")), "x").unwrap();
    }
    place.write_manifest();
    let data = place.data("data");
    let _mount = Mounted::tmpfs(&data, "16m,nr_inodes=40");
    let error = place.store("data").ensure_default(&mut quiet).unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert_eq!(directory_names(&data.join("templates/default")).unwrap(), [".lock"]);
}

/// A mount of this test's own, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path, size: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o"]).arg(format!("mode=0700,size={size}"));
        assert!(mount.arg("forkpoint-test").arg(path).status().unwrap().success());
        Self(path.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn what_a_killed_process_left_is_not_a_template_and_is_removed() {
    let place = Place::new();
    let store = place.store("data");
    let (data, cache) = (place.data("data").join("templates/default"), place.cache().join("templates/default"));
    for directory in [&data, &cache] {
        fs::create_dir_all(directory.join(".tmp-99-0/rootfs/deep")).unwrap();
        fs::write(directory.join(".tmp-99-0/rootfs/deep/file"), "half").unwrap();
    }
    // A version whose manifest is missing was being removed.
    let manifest = Manifest::read(&place.entry()).unwrap().unwrap();
    fs::create_dir_all(data.join(&manifest.digest).join("rootfs/old")).unwrap();
    assert!(store.list().unwrap().is_empty());
    let template = store.ensure_default(&mut quiet).unwrap();
    assert!(!template.root.join("old").exists());
    assert_eq!((hidden(&data), hidden(&cache)), (vec![], vec![]));
}

#[test]
fn a_leftover_is_removed_without_following_its_links_or_mounts() {
    let place = Place::new();
    let outside = place.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let leftover = place.directory.path().join("left");
    fs::create_dir_all(leftover.join("mnt")).unwrap();
    symlink(&outside, leftover.join("link")).unwrap();
    let mount = Mounted::tmpfs(&leftover.join("mnt"), "1m");
    fs::write(leftover.join("mnt/inner"), "x").unwrap();
    assert!(tree::remove(&leftover).is_err());
    assert!(leftover.join("mnt/inner").exists());
    drop(mount);
    tree::remove(&leftover).unwrap();
    assert!(!leftover.exists() && outside.join("precious").exists());
}

#[test]
fn an_entry_that_differs_from_its_manifest_is_refused_and_discarded() {
    let place = Place::new();
    fs::remove_file(place.entry().join("rootfs/etc/file")).unwrap();
    let error = place.store("data").ensure_default(&mut quiet).unwrap_err();
    // The rebuild that follows has no sources to build from (or, on a tight disk, no room).
    assert!(matches!(error, Error::NoSources { .. } | Error::DiskFull { .. }), "{error}");
    assert!(!place.entry().exists());
    assert!(hidden(&place.cache().join("templates/default")).is_empty());
    assert!(place.store("data").list().unwrap().is_empty());
}

#[test]
fn devices_and_sockets_are_refused() {
    for (kind, device) in [(FileType::CharacterDevice, rustix::fs::makedev(1, 3)), (FileType::Socket, 0)] {
        let place = Place::new();
        let path = place.entry().join("rootfs/etc/bad");
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR, device).unwrap();
        let error = place.store("data").ensure_default(&mut quiet).unwrap_err();
        assert!(matches!(error, Error::UnfitFile { .. }), "{error}");
        assert!(hidden(&place.data("data").join("templates/default")).is_empty());
    }
}

#[test]
fn many_stores_at_once_make_one_template_each_and_agree() {
    let place = Place::new();
    let waits = AtomicUsize::new(0);
    let digests: Vec<String> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..8)
            .map(|n| {
                let store = place.store(&format!("data{}", n % 4));
                let waits = &waits;
                scope.spawn(move || {
                    let mut note = |p: Progress| {
                        waits.fetch_add(usize::from(p.stage == Stage::Waiting), Ordering::Relaxed);
                    };
                    store.ensure_default(&mut note).unwrap().digest
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    assert!(digests.iter().all(|d| *d == digests[0]));
    for n in 0..4 {
        assert_eq!(place.store(&format!("data{n}")).list().unwrap().len(), 1);
    }
}

#[test]
fn whoever_finds_the_cache_locked_waits_and_can_be_stopped() {
    let place = Place::new();
    let store = place.store("data");
    let lock = fs::File::create(place.cache().join("templates/default/.lock")).unwrap();
    lock.lock().unwrap();
    let cancel = store.canceller();
    let mut note = |p: Progress| {
        if p.stage == Stage::Waiting {
            cancel.cancel();
        }
    };
    assert!(matches!(store.ensure_default(&mut note), Err(Error::Cancelled)));
    let mut stages = Vec::new();
    let mut release = |p: Progress| {
        stages.push(p.stage);
        lock.unlock().unwrap();
    };
    place.store("data").ensure_default(&mut release).unwrap();
    assert_eq!(stages, [Stage::Waiting, Stage::Placing, Stage::Ready]);
}

#[test]
fn templates_are_found_by_name_alias_and_version() {
    let place = Place::new();
    let store = place.store("data");
    let error = store.get("default").unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let template = store.ensure_default(&mut quiet).unwrap();
    assert_eq!(store.get("default").unwrap(), template);
    assert_eq!(store.get("base").unwrap(), template);
    assert_eq!(store.get_version("base", &template.digest).unwrap(), template);
    assert_eq!(store.list().unwrap(), [template]);
    for unknown in ["other", "default2"] {
        let error = store.get(unknown).unwrap_err().to_string();
        assert_eq!(error, format!("template {unknown:?} is unknown; known are: default"));
    }
    for bad in ["../default", "", ".lock"] {
        assert!(matches!(store.get(bad), Err(Error::InvalidName { .. })));
    }
    let other = "0".repeat(32);
    assert!(matches!(store.get_version("default", &other), Err(Error::Unknown { .. })));
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let place = Place::new();
    let cache = place.cache().join("templates");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let error = TemplateStore::open(&place.data("data"), &place.cache()).unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
}

#[test]
fn a_damaged_manifest_is_named() {
    let place = Place::new();
    let store = place.store("data");
    let template = store.ensure_default(&mut quiet).unwrap();
    let manifest = template.root.with_file_name("template.json");
    for text in ["", "{", "{\"format\": 2}", "[]"] {
        fs::write(&manifest, text).unwrap();
        let error = store.get("default").unwrap_err();
        assert!(error.to_string().contains(manifest.to_str().unwrap()), "{error}");
    }
}
