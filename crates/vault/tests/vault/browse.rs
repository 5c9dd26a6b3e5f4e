//! A stored tree looked at directory by directory is what was stored, and damage in it is never told as truth.

use crate::support::{Home, many_files, noise, one_of_everything, snapshot};
use forkpoint_domain::stored::{StoredKey, StoredKind, StoredLayer};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

type Told = BTreeMap<Vec<u8>, String>;

/// Everything below a directory of a stored layer, as text per path.
fn told(layer: &dyn StoredLayer, at: Option<&StoredKey>, path: &[u8], all: &mut Told) {
    let directory = layer.directory(at).unwrap();
    let own = directory.attributes;
    all.insert(
        path.to_vec(),
        format!("directory {:o} {}:{} {} {:?}", own.mode, own.uid, own.gid, directory.opaque, directory.redirect),
    );
    for entry in &directory.entries {
        let path = [path, b"/", &*entry.name].concat();
        let known = entry.attributes.map(|one| format!("{:o} {}:{}", one.mode, one.uid, one.gid));
        let known = known.unwrap_or_default();
        let text = match &entry.kind {
            StoredKind::Directory { hash, key } => {
                assert_eq!(layer.directory(Some(key)).unwrap().hash, *hash);
                told(layer, Some(key), &path, all);
                continue;
            }
            StoredKind::File { size, key, .. } => {
                let content = layer.content(key).unwrap();
                assert_eq!(content.len() as u64, *size);
                format!("file {known} {}", blake3::hash(&content))
            }
            StoredKind::Symlink { target } => format!("link {:?}", String::from_utf8_lossy(target)),
            StoredKind::Fifo => format!("fifo {known}"),
            StoredKind::Whiteout => "whiteout".to_owned(),
        };
        all.insert(path, text);
    }
}

/// The same of a directory of this machine, with plain calls.
fn seen(root: &Path, path: &Path, all: &mut Told) {
    let meta = path.symlink_metadata().unwrap();
    let kind = meta.file_type();
    if kind.is_socket() {
        return;
    }
    let known = format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
    let text = if kind.is_dir() {
        let value = |name: &str| {
            let mut value = vec![0; 100];
            let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
            value.truncate(length);
            Some(value)
        };
        for entry in fs::read_dir(path).unwrap() {
            seen(root, &entry.unwrap().path(), all);
        }
        let opaque = value("trusted.overlay.opaque").is_some_and(|value| value == b"y");
        format!("directory {known} {opaque} {:?}", value("trusted.overlay.redirect"))
    } else if kind.is_symlink() {
        format!("link {:?}", fs::read_link(path).unwrap().to_string_lossy())
    } else if kind.is_fifo() {
        format!("fifo {known}")
    } else if kind.is_char_device() {
        "whiteout".to_owned()
    } else {
        format!("file {known} {}", blake3::hash(&fs::read(path).unwrap()))
    };
    let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
    all.insert(if below.is_empty() { Vec::new() } else { [b"/", below].concat() }, text);
}

#[test]
fn what_is_told_is_what_was_stored() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    many_files(tree.path(), 1, 120, 3000);
    home.persist(tree.path(), snapshot(1, 1));
    let layer = home.another().browse(snapshot(1, 1)).unwrap();
    let (mut stored, mut here) = (Told::new(), Told::new());
    told(&layer, None, b"", &mut stored);
    seen(tree.path(), tree.path(), &mut here);
    assert_eq!(stored, here);
    assert!(home.vault.browse(snapshot(1, 2)).is_err());
    let strange: StoredKey = std::sync::Arc::new(5_u8);
    assert!(layer.directory(Some(&strange)).is_err() && layer.content(&strange).is_err());
}

#[test]
fn a_file_of_this_machine_has_the_digest_that_it_would_have_stored() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    home.persist(tree.path(), snapshot(1, 1));
    let layer = home.vault.browse(snapshot(1, 1)).unwrap();
    let mut compared = 0;
    for entry in layer.directory(None).unwrap().entries {
        let StoredKind::File { size, digest, .. } = entry.kind else { continue };
        let path = tree.path().join(std::ffi::OsStr::from_bytes(&entry.name));
        let file = File::open(&path).unwrap();
        assert_eq!(layer.digest(&file, size).unwrap(), digest, "{}", path.display());
        if size > 0 {
            let mut other = fs::read(&path).unwrap();
            other[0] ^= 1;
            let copy = tree.path().join("copy");
            fs::write(&copy, other).unwrap();
            assert_ne!(layer.digest(&File::open(&copy).unwrap(), size).unwrap(), digest);
        }
        compared += 1;
    }
    assert!(compared > 8, "{compared}");
}

#[test]
fn damage_is_an_error_and_never_an_answer() {
    let home = Home::with(|options| options.pack_bytes = 4 << 10);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 3, 40, 2000);
    fs::write(tree.path().join("big"), noise(9, 300_000)).unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    let mut whole = Told::new();
    told(&home.vault.browse(snapshot(1, 1)).unwrap(), None, b"", &mut whole);
    let mut refused = 0;
    for pack in home.packs() {
        let good = fs::read(&pack).unwrap();
        let mut bad = good.clone();
        bad[20] ^= 1;
        fs::write(&pack, bad).unwrap();
        let vault = home.another();
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut all = Told::new();
            told(&vault.browse(snapshot(1, 1)).unwrap(), None, b"", &mut all);
            all
        }));
        match looked {
            Ok(all) => assert_eq!(all, whole),
            Err(_) => refused += 1,
        }
        fs::write(&pack, good).unwrap();
    }
    assert!(refused > 0, "some pack is needed");
}
