//! A repair puts aside what is damaged, saves what is good in it, and names what has to be stored anew.

use crate::support::{Home, described, key_of, many_files, noise, objects, org, snapshot};
use forkpoint_vault::Progress;
use std::fs;

#[test]
fn a_sound_store_is_left_as_it_is() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 50, 3000);
    home.persist(tree.path(), snapshot(1, 1));
    let before = objects(home.folder.path(), "store");
    let repair = home.vault.repair(&Progress::default()).unwrap();
    assert_eq!((repair.damaged, repair.broken), (vec![], vec![]));
    assert_eq!(objects(home.folder.path(), "store"), before);
}

#[test]
fn every_damaged_object_ends_aside_and_all_that_is_broken_can_be_stored_anew() {
    let trees = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    many_files(trees[0].path(), 1, 60, 4000);
    fs::write(trees[0].path().join("big"), noise(1, 500_000)).unwrap();
    many_files(trees[1].path(), 2, 60, 4000);
    let names = [snapshot(1, 1), snapshot(1, 2)];
    let make = || {
        let home = Home::with(|options| options.pack_bytes = 128 << 10);
        for (name, tree) in names.iter().zip(&trees) {
            home.persist(tree.path(), *name);
        }
        home
    };
    let count = objects(make().folder.path(), "orgs").len();
    for index in 0..count {
        let home = make();
        // How chunks fall into packs differs from run to run.
        let Some(object) = objects(home.folder.path(), "orgs").into_iter().nth(index) else { continue };
        let key = key_of(home.folder.path(), &object);
        if key.ends_with("/key") {
            continue;
        }
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 4;
        fs::write(&object, bytes).unwrap();
        let server = home.another();
        let repair = server.repair(&Progress::default()).unwrap();
        assert!(repair.damaged.iter().any(|one| one.object == key && one.aside.is_some()), "{key}: {repair:?}");
        assert!(!object.exists() && !repair.broken.is_empty(), "{key}: {repair:?}");
        for broken in &repair.broken {
            let at = names.iter().position(|name| *name == broken.name).unwrap();
            server.persist(&crate::support::job(trees[at].path(), broken.name)).unwrap();
        }
        assert_eq!(server.repair(&Progress::default()).unwrap().broken, [], "{key}");
        assert_eq!(home.another().check(100, &Progress::default()).unwrap().problems, [], "{key}");
        for (name, tree) in names.iter().zip(&trees) {
            assert_eq!(described(&home.restore(*name)), described(tree.path()), "{key}");
        }
    }
}

#[test]
fn a_key_of_an_organisation_is_named_and_stays() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a"), "1").unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    let key = home.folder.path().join(format!("store/orgs/{}/key", org(1)));
    let mut bytes = fs::read(&key).unwrap();
    bytes[30] ^= 1;
    fs::write(&key, bytes).unwrap();
    let repair = home.another().repair(&Progress::default());
    match repair {
        Ok(repair) => {
            assert_eq!(repair.damaged.len(), 1, "{repair:?}");
            assert!(repair.damaged[0].object.ends_with("/key") && repair.damaged[0].aside.is_none());
            assert_eq!(repair.broken.len(), 1, "{repair:?}");
        }
        Err(error) => panic!("{error}"),
    }
    assert!(key.exists());
}
