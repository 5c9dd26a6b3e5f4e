//! What is stored comes back, for everything a layer can hold.

use crate::support::{Home, described, header, job, many_files, noise, objects, one_of_everything, org, snapshot};
use forkpoint_vault::{MasterKey, Progress, Vault, VaultError, VaultOptions};
use std::{fs, os::unix::fs::MetadataExt, os::unix::fs::PermissionsExt, sync::Arc};

#[test]
fn one_of_everything_comes_back_exactly() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    let name = snapshot(1, 1);
    let persisted = home.persist(tree.path(), name);
    let verified = home.vault.verify(name, None, &Progress::default()).unwrap();
    assert_eq!(verified.root, persisted.root);
    assert_eq!(verified.bytes, persisted.bytes_total);
    let restored = home.restore(name);
    let (want, have) = (described(tree.path()), described(&restored));
    assert_eq!(want.keys().collect::<Vec<_>>(), have.keys().collect::<Vec<_>>());
    for (path, text) in want {
        assert_eq!(have[&path], text, "{}", String::from_utf8_lossy(&path));
    }
    assert!(restored.join("sparse").metadata().unwrap().blocks() * 512 < 2 << 20, "holes stay holes");
    assert!(!restored.join("socket").exists());
    // The same tree, stored by someone else from the copy, has the same root: also under another key and chunking.
    let other = Home::with(|options| options.compression = 9);
    assert_eq!(other.persist(&restored, snapshot(5, 6)).root, persisted.root);
}

#[test]
fn the_header_comes_back_and_is_sealed() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("plain"), "find-me-in-the-store ".repeat(10_000)).unwrap();
    let name = snapshot(1, 1);
    let persisted = home.persist(tree.path(), name);
    let stored = home.another().read(name).unwrap();
    assert_eq!(stored.header, header(name));
    assert_eq!((stored.root, stored.entries), (persisted.root, 1));
    assert_eq!(home.vault.list(org(1)).unwrap(), [name]);
    assert_eq!(home.vault.list_orgs().unwrap(), [org(1)]);
    for object in objects(home.folder.path(), "store") {
        let bytes = fs::read(&object).unwrap();
        for secret in [&b"find-me"[..], b"workspace", b"accuracy", b"plain", b"sealed"] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{} shows {secret:?}",
                object.display()
            );
        }
        assert_eq!(object.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(object.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert!(matches!(home.vault.read(snapshot(1, 2)), Err(VaultError::NotFound(_))));
    assert!(matches!(home.vault.read(snapshot(2, 1)), Err(VaultError::NotFound(_))));
    home.vault.delete(name).unwrap();
    home.vault.delete(name).unwrap();
    assert!(matches!(home.vault.read(name), Err(VaultError::NotFound(_))));
}

#[test]
fn equal_data_of_one_organisation_is_stored_once_and_of_two_twice() {
    let home = Home::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("a"), noise(1, 4_000_000)).unwrap();
    fs::write(one.path().join("b"), noise(1, 4_000_000)).unwrap();
    many_files(one.path(), 3, 200, 3000);
    // Other names, other places, same contents.
    fs::create_dir(two.path().join("moved")).unwrap();
    fs::copy(one.path().join("a"), two.path().join("moved/x")).unwrap();
    fs::rename(
        &{
            let copy = tempfile::tempdir().unwrap().keep();
            many_files(&copy, 3, 200, 3000);
            copy
        },
        two.path().join("files"),
    )
    .unwrap();
    let first = home.persist(one.path(), snapshot(1, 1));
    assert!(first.bytes_sent < 4_000_000 + 1_000_000, "{first:?}");
    let second = home.persist(two.path(), snapshot(1, 2));
    assert!(second.bytes_sent < 60_000, "only directories are new: {second:?}");
    let third = home.persist(two.path(), snapshot(2, 2));
    assert!(third.bytes_sent > 4_000_000, "{third:?}");
    assert_eq!(described(&home.restore(snapshot(2, 2))), described(two.path()));
}

#[test]
fn compressible_and_small_files_take_little_room() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    for n in 0..2000 {
        fs::write(
            tree.path().join(format!("f{n}")),
            format!("{{\"number\": {n}, \"text\": \"some words that repeat\"}}\n").repeat(5),
        )
        .unwrap();
    }
    let persisted = home.persist(tree.path(), snapshot(1, 1));
    assert!(persisted.bytes_sent < 250_000, "{persisted:?}");
    assert!(persisted.packs <= 3);
}

#[test]
fn another_master_key_is_refused() {
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = MasterKey::open_or_create(&elsewhere.path().join("key")).unwrap();
    let refused = Vault::open(&home.options, &other);
    assert!(matches!(refused, Err(VaultError::WrongKey { .. })), "{refused:?}");
    assert!(Vault::open(&VaultOptions::new("ftp://x/y"), &other).is_err());
    assert!(Vault::open(&VaultOptions::new("relative/path"), &other).is_err());
}

#[test]
fn a_destroyed_organisation_is_unreadable_and_leaves_nothing() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 20, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    home.persist(tree.path(), snapshot(2, 1));
    let packs = home.packs();
    let key = home.folder.path().join("store/orgs").join(org(1).to_string()).join("key");
    fs::remove_file(key).unwrap();
    let cut_off = home.another();
    assert!(matches!(cut_off.read(snapshot(1, 1)), Err(VaultError::KeyDestroyed(_))));
    assert!(matches!(cut_off.persist(&job(tree.path(), snapshot(1, 2))), Err(VaultError::KeyDestroyed(_))));
    home.vault.destroy_org(org(1)).unwrap();
    assert_eq!(home.vault.list_orgs().unwrap(), [org(2)]);
    assert!(home.packs().len() < packs.len());
    assert_eq!(described(&home.restore(snapshot(2, 1))), described(tree.path()));
}

#[test]
fn only_an_empty_directory_is_filled_and_a_failure_empties_it() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 50, 20_000);
    home.persist(tree.path(), snapshot(1, 1));
    let into = home.folder.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("mine"), "x").unwrap();
    assert!(home.vault.materialize(snapshot(1, 1), &into, &Progress::default()).is_err());
    assert_eq!(fs::read(into.join("mine")).unwrap(), b"x");
    fs::remove_file(into.join("mine")).unwrap();
    let data = home.packs().into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[500] ^= 1;
    fs::write(&data, bytes).unwrap();
    assert!(home.vault.materialize(snapshot(1, 1), &into, &Progress::default()).is_err());
    assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    let stopped = Arc::new(Progress::default());
    stopped.cancel();
    assert!(matches!(home.vault.materialize(snapshot(1, 1), &into, &stopped), Err(VaultError::Cancelled)));
}
