//! Packs that gave wrong bytes: marked for all, not relied on, and trusted again when they are whole.

use crate::support::{
    Faults, Faulty, Home, described, job, key_of, many_files, noise, objects, org, restore, snapshot,
};
use forkpoint_vault::{CollectOptions, Progress, Vault, VaultError};
use std::{fs, path::PathBuf};

/// The largest pack, with a bit flipped in its middle; and its key.
fn damaged(home: &Home) -> (PathBuf, String) {
    let pack = home.packs().into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let key = key_of(home.folder.path(), &pack);
    (pack, key)
}

fn marks(home: &Home) -> usize {
    objects(home.folder.path(), "suspects").len()
}

#[test]
fn what_is_stored_again_mends_whatever_needed_the_damaged_pack() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 4_000_000)).unwrap();
    many_files(tree.path(), 1, 60, 5000);
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("big"), noise(1, 4_000_000)).unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    assert!(home.persist(other.path(), snapshot(1, 2)).bytes_sent < 100_000, "it relies on what is there");
    let (pack, key) = damaged(&home);

    // Whoever reads it marks it for all servers, and takes nothing away.
    let server = home.another();
    assert_eq!(server.suspects().unwrap(), []);
    let met = server.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    assert_eq!(met.damaged_object(), Some(&*key));
    assert_eq!((server.suspects().unwrap(), marks(&home)), (vec![(org(1), key.clone())], 1));
    assert!(pack.exists() && server.is_damaged(&key).unwrap());
    assert_eq!(server.touched(&key, &Progress::default()).unwrap(), [snapshot(1, 1), snapshot(1, 2)]);
    // A collection must not read it, nor take it for needless.
    let collected = server.collect(&CollectOptions::default()).unwrap();
    assert_eq!((collected.packs_removed, collected.skipped), (0, vec![]));

    // Another server, which never read it, does not rely on it.
    let third = home.another();
    let again = third.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    assert!(again.bytes_sent > 4_000_000, "{again:?}");
    for name in [snapshot(1, 1), snapshot(1, 2)] {
        for vault in [&server, &third] {
            vault.verify(name, None, &Progress::default()).unwrap();
        }
    }
    assert_eq!(described(&restore(&server, home.folder.path(), snapshot(1, 2))), described(other.path()));
    assert_eq!(server.touched(&key, &Progress::default()).unwrap(), []);

    // Nothing needs it any more: it is put aside, and its mark goes.
    for _ in 0..2 {
        server.collect(&CollectOptions::default()).unwrap();
    }
    assert!(!pack.exists() && home.folder.path().join("store/quarantine").join(&key).exists());
    assert_eq!((server.suspects().unwrap(), marks(&home)), (vec![], 0));
    assert_eq!(home.another().check(100, &Progress::default()).unwrap().problems, []);
    for (name, tree) in [(snapshot(1, 1), &tree), (snapshot(1, 2), &other)] {
        assert_eq!(described(&home.restore(name)), described(tree.path()));
    }
}

#[test]
fn a_chunk_that_is_elsewhere_too_is_read_there_at_once() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 3_000_000)).unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    let (pack, key) = damaged(&home);
    home.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    home.persist(tree.path(), snapshot(1, 2));
    // A server that has not heard of the mark meets the damage, and reads on in the other pack.
    for mark in objects(home.folder.path(), "suspects") {
        fs::remove_file(mark).unwrap();
    }
    for vault in [home.another(), home.another()] {
        vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
        assert_eq!(described(&restore(&vault, home.folder.path(), snapshot(1, 1))), described(tree.path()));
    }
    // Put aside, it is missed by nobody.
    home.vault.quarantine(&key).unwrap();
    assert!(!pack.exists());
    assert_eq!(marks(&home), 0);
    home.another().verify(snapshot(1, 1), None, &Progress::default()).unwrap();
}

#[test]
fn two_suspects_do_not_go_for_each_others_sake() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    let (pack, key) = damaged(&home);
    let before = home.packs();
    home.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    home.persist(tree.path(), snapshot(1, 2));
    let whole: Vec<_> = home.packs().into_iter().filter(|pack| !before.contains(pack)).collect();
    // Somebody met wrong bytes of the new packs, too.
    let folder = home.folder.path().join(format!("store/suspects/{}", org(1)));
    for pack in &whole {
        fs::write(folder.join(pack.file_name().unwrap()), "lied").unwrap();
    }
    for _ in 0..3 {
        let collected = home.another().collect(&CollectOptions::default()).unwrap();
        assert_eq!((collected.packs_removed, collected.packs_condemned), (0, 0), "{collected:?}");
    }
    assert!(pack.exists() && whole.iter().all(|pack| pack.exists()));
    // Read through, the new ones are trusted, and the old one is needless.
    let server = home.another();
    for pack in &whole {
        assert!(!server.is_damaged(&key_of(home.folder.path(), pack)).unwrap());
    }
    assert!(server.is_damaged(&key).unwrap());
    for _ in 0..2 {
        server.collect(&CollectOptions::default()).unwrap();
    }
    assert!(!pack.exists() && whole.iter().all(|pack| pack.exists()));
    for name in [snapshot(1, 1), snapshot(1, 2)] {
        home.another().verify(name, None, &Progress::default()).unwrap();
    }
}

#[test]
fn a_pack_whose_index_is_damaged_goes_once_all_is_elsewhere() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    let pack = home.packs().into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let key = key_of(home.folder.path(), &pack);
    let server = home.another();
    for _ in 0..2 {
        server.collect(&CollectOptions::default()).unwrap();
        assert!(pack.exists(), "what is in it may be needed");
    }
    assert!(server.is_damaged(&key).unwrap());
    assert_eq!(server.touched(&key, &Progress::default()).unwrap(), [snapshot(1, 1)]);
    server.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    for _ in 0..2 {
        server.collect(&CollectOptions::default()).unwrap();
    }
    assert!(!pack.exists() && home.folder.path().join("store/quarantine").join(&key).exists());
    assert!(!server.is_damaged(&key).unwrap());
    assert_eq!(marks(&home), 0);
    assert_eq!(home.another().check(100, &Progress::default()).unwrap().problems, []);
    assert_eq!(described(&restore(&home.another(), home.folder.path(), snapshot(1, 1))), described(tree.path()));
}

#[test]
fn a_lie_on_the_way_takes_nothing_away() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 80, 8000);
    home.persist(tree.path(), snapshot(1, 1));
    let store = Faulty::new(&home.folder.path().join("store"), 7);
    let vault = Vault::open_on(store.clone(), &home.options, &Home::key(home.folder.path())).unwrap();
    // Its packs are known by now.
    vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    store.set(Faults { lie: 1000, lie_of: Some("/packs/"), ..Faults::default() });
    let met = vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    assert!(matches!(met, VaultError::Corrupt { .. }), "{met}");
    let suspects = vault.suspects().unwrap();
    assert!(!suspects.is_empty() && suspects.len() == marks(&home));
    for (_, object) in &suspects {
        assert!(vault.is_damaged(object).unwrap(), "as far as it can tell");
    }
    let packs = home.packs();
    // When records lie, too, nobody can tell what needs them: then all is taken for needed.
    store.set(Faults { lie: 1000, ..Faults::default() });
    for (_, object) in &suspects {
        assert_eq!(vault.touched(object, &Progress::default()).unwrap(), [snapshot(1, 1)]);
    }
    let collected = vault.collect(&CollectOptions::default()).unwrap();
    assert_eq!((collected.packs_removed, collected.skipped.len()), (0, 1), "{collected:?}");
    store.set(Faults::default());
    // Until somebody has read them through nothing new relies on them.
    let anew = vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap();
    assert!(anew.bytes_sent > 0, "{anew:?}");
    for (_, object) in &suspects {
        assert!(!vault.is_damaged(object).unwrap());
    }
    assert_eq!((vault.suspects().unwrap(), marks(&home)), (vec![], 0));
    assert!(packs.iter().all(|pack| pack.exists()));
    for name in [snapshot(1, 1), snapshot(1, 2)] {
        home.another().verify(name, None, &Progress::default()).unwrap();
    }
    let relied = vault.persist(&job(tree.path(), snapshot(1, 3))).unwrap();
    assert_eq!(relied.bytes_sent, 0, "{relied:?}");
}

#[test]
fn what_is_kept_for_a_row_can_change_and_its_tree_cannot() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 20, 3000);
    home.persist(tree.path(), snapshot(1, 1));
    let before = home.vault.read(snapshot(1, 1)).unwrap();
    let metadata = serde_json::json!({ "pinned": true, "more": [1, 2] });
    home.vault.restate(snapshot(1, 1), metadata.clone()).unwrap();
    let server = home.another();
    let mut after = server.read(snapshot(1, 1)).unwrap();
    assert_eq!(after.header.metadata, metadata);
    after.header.metadata = before.header.metadata.clone();
    assert_eq!(after, before);
    server.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    // What is not stored is not made up.
    home.vault.restate(snapshot(1, 2), metadata.clone()).unwrap();
    home.vault.restate(snapshot(9, 1), metadata).unwrap();
    assert_eq!((server.list(org(1)).unwrap(), server.list(org(9)).unwrap()), (vec![snapshot(1, 1)], vec![]));
}
