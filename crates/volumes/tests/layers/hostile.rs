//! Layers made to trick whoever reads them: every attempt ends in an error or stays bounded.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use forkpoint_volumes::{
    Basis, Error, Everything, MeasureLimits, Tree, Under, changes, compare, graft, measure, read_tree,
};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};

use crate::support::{memory_dir, privately, read_unmounted};

/// A template and a layer in plain directories; nothing is mounted.
struct Trap {
    dir: tempfile::TempDir,
    tree: Tree,
}

impl Trap {
    fn new() -> Self {
        let dir = memory_dir();
        let template = dir.path().join("template");
        fs::create_dir_all(template.join("dir/sub")).unwrap();
        fs::write(template.join("dir/file"), "template").unwrap();
        let tree = Tree { template, layer: Some(Self::layer(dir.path(), "layer")) };
        fs::write(dir.path().join("secret"), "host").unwrap();
        Self { dir, tree }
    }

    fn layer(dir: &Path, name: &str) -> PathBuf {
        let layer = dir.join(name);
        fs::create_dir_all(layer.join("upper")).unwrap();
        fs::create_dir_all(layer.join("work")).unwrap();
        layer
    }

    fn upper(&self) -> PathBuf {
        self.dir.path().join("layer/upper")
    }

    fn redirect(&self, name: &str, target: &[u8]) {
        let path = self.upper().join(name);
        fs::create_dir_all(&path).unwrap();
        rustix::fs::setxattr(path, "trusted.overlay.redirect", target, XattrFlags::empty()).unwrap();
    }

    /// Everything that reads the layer, one after the other.
    fn read(&self) -> Vec<Result<(), Error>> {
        let onto = Self::layer(self.dir.path(), &format!("onto-{}", uuid::Uuid::new_v4()));
        let bare = Tree { layer: None, ..self.tree.clone() };
        let both = [Basis::Changes, Basis::Merged];
        let mut results = vec![
            changes(&self.tree, &mut |_| Ok(())),
            read_tree(&self.tree, &Everything, &mut |_| Ok(())),
            graft(&onto, &self.tree.template, &self.tree, &Everything, true).map(drop),
        ];
        for basis in both {
            results.push(measure(&self.tree, &Everything, basis, MeasureLimits::NONE).map(drop));
            results.push(compare(&bare, &Everything, basis, &self.tree, &Everything, basis).map(drop));
        }
        results
    }
}

#[test]
fn redirects_that_leave_the_template_are_refused() {
    for target in
        [&b"../secret"[..], b"..", b"/../secret", b"/dir/../..", b"/dir//sub", b"", b"/", b"a/b", b".", b"/dir\0x"]
    {
        let trap = Trap::new();
        trap.redirect("moved", target);
        for result in trap.read() {
            assert!(matches!(result, Err(Error::BadRedirect { .. })), "{target:?} {result:?}");
        }
    }
}

#[test]
fn redirects_do_not_follow_symlinks_or_loop() {
    let trap = Trap::new();
    symlink("/", trap.tree.template.join("out")).unwrap();
    trap.redirect("by-symlink", b"/out");
    trap.redirect("through-symlink", b"/out/etc");
    trap.redirect("nowhere", b"/no/such");
    // Each level shows the level above again: depth is bounded by the layer's own directories.
    trap.redirect("loop", b"/dir");
    trap.redirect("loop/sub", b"/dir");
    trap.redirect("loop/sub/sub", b"/dir");
    for result in trap.read() {
        result.unwrap();
    }
    let seen = read_unmounted(&trap.tree, &Everything);
    assert!(!seen.keys().any(|p| p.starts_with(b"/by-symlink/") || p.starts_with(b"/through-symlink/")));
    assert_eq!(seen[&b"/loop/sub/sub/file"[..]].content, b"template");
    assert_eq!(seen.keys().filter(|p| p.starts_with(b"/loop/sub/sub/sub")).count(), 1);
}

#[test]
fn symlinks_in_a_layer_are_never_followed() {
    let trap = Trap::new();
    let secret = trap.dir.path().join("secret");
    symlink(&secret, trap.upper().join("link")).unwrap();
    symlink(trap.dir.path(), trap.upper().join("dir")).unwrap();
    let seen = read_unmounted(&trap.tree, &Everything);
    assert_eq!(seen[&b"/link"[..]].kind, "symlink");
    assert_eq!(seen[&b"/dir"[..]].kind, "symlink");
    assert!(!seen.keys().any(|p| p.starts_with(b"/dir/")));
    // Onto a layer whose directory is a symlink to the outside, too.
    let source = Trap::layer(trap.dir.path(), "source");
    fs::create_dir(source.join("upper/dir")).unwrap();
    fs::write(source.join("upper/dir/secret"), "overwritten").unwrap();
    let from = Tree { template: trap.tree.template.clone(), layer: Some(source) };
    let onto = trap.dir.path().join("layer");
    for region in [Under(vec![b"/dir/secret".to_vec()]), Under(vec![b"/dir".to_vec()]), Under(vec![b"/".to_vec()])] {
        graft(&onto, &trap.tree.template, &from, &region, true).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "host", "{region:?}");
    }
    assert_eq!(read_unmounted(&trap.tree, &Everything)[&b"/dir/secret"[..]].content, b"overwritten");
}

#[test]
fn an_upper_directory_that_is_a_symlink_is_refused() {
    let trap = Trap::new();
    fs::remove_dir(trap.upper()).unwrap();
    symlink("/", trap.upper()).unwrap();
    for result in trap.read() {
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    }
}

#[test]
fn fifos_and_devices_are_listed_but_never_opened() {
    let trap = Trap::new();
    let upper = trap.upper();
    rustix::fs::mknodat(CWD, upper.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    // A terminal of the host: opening it could take it over, or wait for ever.
    rustix::fs::mknodat(CWD, upper.join("tty"), FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(4, 64))
        .unwrap();
    fs::create_dir(upper.join("dir")).unwrap();
    rustix::fs::mknodat(CWD, upper.join("dir/file"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for result in trap.read() {
        result.unwrap();
    }
    let bare = Tree { layer: None, ..trap.tree.clone() };
    let diff = compare(&bare, &Everything, Basis::Changes, &trap.tree, &Everything, Basis::Changes).unwrap();
    assert_eq!(diff.removed, [b"/dir/file".to_vec()], "a FIFO is no file: {diff:?}");
}

/// Makes a chain of directories that no single path can name.
fn deep(top: &Path, levels: usize, leaf: bool) {
    let mut dir = rustix::fs::open(top, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for level in 0..levels {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        if leaf {
            let name = format!("file{level}");
            drop(rustix::fs::openat(&dir, name, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap());
            // Siblings that make the walk come back to each level.
            rustix::fs::mkdirat(&dir, "z", Mode::RWXU).unwrap();
        }
        dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
}

#[test]
fn nesting_beyond_what_a_path_can_name_is_an_error_not_a_crash() {
    let trap = Trap::new();
    deep(&trap.upper(), 6000, false);
    for result in trap.read() {
        assert!(matches!(result, Err(Error::TooDeep { .. })), "{result:?}");
    }
    remove_by_store(&trap);
}

#[test]
fn nesting_up_to_the_longest_path_works_with_few_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(256), ..limit };
    let trap = Trap::new();
    deep(&trap.upper(), 2000, true);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let measured = measure(&trap.tree, &Everything, Basis::Changes, MeasureLimits::NONE).unwrap();
    assert_eq!(measured.file_count, 2000);
    let onto = Trap::layer(trap.dir.path(), "copy");
    graft(&onto, &trap.tree.template, &trap.tree, &Everything, true).unwrap();
    let copy = Tree { layer: Some(onto), ..trap.tree.clone() };
    let diff = compare(&trap.tree, &Everything, Basis::Changes, &copy, &Everything, Basis::Changes).unwrap();
    assert!(diff.is_empty(), "{} {} {}", diff.added.len(), diff.removed.len(), diff.modified.len());
    assert_eq!(measure(&copy, &Everything, Basis::Changes, MeasureLimits::NONE).unwrap().file_count, 2000);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    remove_by_store(&trap);
}

/// What no recursive removal can name, a store's removal of leftovers can.
fn remove_by_store(trap: &Trap) {
    use forkpoint_volumes::{DriverChoice, LayerStore};
    let data = trap.dir.path().join("data");
    fs::create_dir_all(data.join("layers")).unwrap();
    for entry in fs::read_dir(trap.dir.path()).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name != "data" {
            fs::rename(entry.path(), data.join("layers").join(format!(".tmp-{name}"))).unwrap();
        }
    }
    let store = LayerStore::open(&data, crate::support::options(DriverChoice::Copy)).unwrap();
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
}

#[test]
fn limits_end_a_measurement_early() {
    let trap = Trap::new();
    for n in 0..200 {
        fs::write(trap.upper().join(format!("f{n}")), [0; 100]).unwrap();
    }
    let limits = |max_files, max_bytes| MeasureLimits { max_files, max_bytes };
    for basis in [Basis::Changes, Basis::Merged] {
        let measure = |limits| measure(&trap.tree, &Under(vec![b"/f1".to_vec(), b"/f2".to_vec()]), basis, limits);
        assert_eq!(measure(limits(2, 200)).unwrap().size_bytes, 200);
        assert!(matches!(measure(limits(1, 200)), Err(Error::TooManyFiles { limit: 1 })));
        assert!(matches!(measure(limits(2, 199)), Err(Error::TooLarge { limit: 199 })));
    }
    // Sizes that no disk has must not wrap around.
    for n in 0..4 {
        fs::File::create(trap.upper().join(format!("f{n}"))).unwrap().set_len(1 << 43).unwrap();
    }
    let sparse = measure(&trap.tree, &Everything, Basis::Changes, limits(u64::MAX, 1 << 44));
    assert!(matches!(sparse, Err(Error::TooLarge { .. })), "{sparse:?}");
}

#[test]
fn huge_sparse_files_are_compared_and_grafted_by_their_data() {
    privately(|| {
        let rig = crate::support::Rig::in_memory();
        let template = rig.path("template");
        fs::create_dir(&template).unwrap();
        let [one, two, three] = [(); 3].map(|()| rig.new_layer());
        for (layer, byte) in [(one, 1), (two, 1), (three, 2)] {
            let file = fs::File::create(rig.store.path(layer).join("upper/sparse")).unwrap();
            file.set_len(1 << 50).unwrap();
            std::os::unix::fs::FileExt::write_at(&file, &[byte], 1 << 49).unwrap();
        }
        let differ = |a, b| {
            let (a, b) = (rig.tree(&template, a), rig.tree(&template, b));
            compare(&a, &Everything, Basis::Changes, &b, &Everything, Basis::Changes).unwrap().modified.len()
        };
        assert_eq!((differ(one, two), differ(one, three)), (0, 1));
        graft(&rig.store.path(two), &template, &rig.tree(&template, three), &Everything, true).unwrap();
        assert_eq!((differ(one, two), differ(two, three)), (1, 0));
    });
}

#[test]
fn attributes_of_any_size_survive_a_graft() {
    privately(|| {
        let rig = crate::support::Rig::in_memory();
        let template = rig.path("template");
        fs::create_dir(&template).unwrap();
        let (from, onto) = (rig.new_layer(), rig.new_layer());
        let file = rig.store.path(from).join("upper/file");
        fs::write(&file, "").unwrap();
        for n in 0..300 {
            rustix::fs::setxattr(&file, format!("user.number-{n}"), &[n as u8; 3], XattrFlags::empty()).unwrap();
        }
        rustix::fs::setxattr(&file, "user.large", &[1; 15_000], XattrFlags::empty()).unwrap();
        // Only the host can write these; a graft must not take them for the sandbox's own.
        rustix::fs::setxattr(&file, "trusted.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
        graft(&rig.store.path(onto), &template, &rig.tree(&template, from), &Everything, true).unwrap();
        let seen = read_unmounted(&rig.tree(&template, onto), &Everything);
        assert_eq!(seen[&b"/file"[..]].xattrs.len(), 301);
        assert_eq!(seen, read_unmounted(&rig.tree(&template, from), &Everything));
    });
}

#[test]
fn files_replaced_during_a_walk_are_noticed() {
    let trap = Trap::new();
    fs::write(trap.upper().join("a"), "one").unwrap();
    let swapped = Rc::new(std::cell::Cell::new(false));
    let result = read_tree(&trap.tree, &Under(vec![b"/a".to_vec()]), &mut |entry| {
        // The sandbox swaps the file for a FIFO between the look and the open.
        fs::remove_file(trap.upper().join("a")).unwrap();
        rustix::fs::mknodat(CWD, trap.upper().join("a"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        swapped.set(true);
        entry.open().map(drop)
    });
    assert!(swapped.get() && matches!(result, Err(Error::Io { .. })), "{result:?}");
    rustix::fs::unlinkat(CWD, trap.upper().join("a"), AtFlags::empty()).unwrap();
}
