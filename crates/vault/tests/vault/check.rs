//! A check finds every kind of damage and names it; damage is put aside and mended where that is possible.

use crate::support::{Home, described, job, key_of, many_files, noise, objects, org, snapshot};
use forkpoint_vault::{Progress, VaultError};
use std::fs;

#[test]
fn a_sound_store_has_no_problems_and_strangers_are_told() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    home.persist(tree.path(), snapshot(2, 1));
    fs::write(home.folder.path().join("store/left-by-someone"), "x").unwrap();
    let report = home.vault.check(100, &Progress::default()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.strangers, ["left-by-someone"]);
    assert_eq!((report.checkpoints, report.packs_read), (2, report.packs));
    assert!(report.packs >= 4 && report.bytes_read > 500_000, "{report:?}");
}

#[test]
fn every_flipped_bit_is_found_named_and_never_served() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    fs::write(tree.path().join("big"), noise(1, 700_000)).unwrap();
    let (one, two) = (snapshot(1, 1), snapshot(1, 2));
    home.persist(tree.path(), one);
    fs::write(tree.path().join("more"), noise(2, 400_000)).unwrap();
    home.persist(tree.path(), two);
    let want = described(tree.path());
    for object in objects(home.folder.path(), "orgs") {
        let good = fs::read(&object).unwrap();
        let key = key_of(home.folder.path(), &object);
        for at in (0..12).map(|n| n * good.len() / 12).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&object, &bad).unwrap();
            let server = home.another();
            let report = server.check(100, &Progress::default()).unwrap();
            assert!(report.problems.iter().any(|problem| problem.object == key), "{key} byte {at}: {report:?}");
            for name in [one, two] {
                let into = tempfile::tempdir().unwrap();
                match server.materialize(name, into.path(), &Progress::default()) {
                    Ok(_) if name == two => assert_eq!(described(into.path()), want, "{key} byte {at}"),
                    Ok(_) => {}
                    Err(error) => {
                        assert!(error.to_string().contains(&key), "{key} byte {at}: {error}");
                        let touched = report.problems.iter().any(|problem| problem.affects.contains(&name));
                        assert!(touched, "{key} byte {at}: {name} is not named in {report:?}");
                    }
                }
            }
        }
        fs::write(&object, &good).unwrap();
    }
    assert_eq!(home.another().check(100, &Progress::default()).unwrap().problems, []);
}

#[test]
fn a_missing_pack_is_found_with_what_needs_it() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 700_000)).unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("big"), noise(2, 700_000)).unwrap();
    let before = home.packs();
    home.persist(other.path(), snapshot(1, 2));
    let data = before.into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    fs::remove_file(data).unwrap();
    let report = home.vault.check(0, &Progress::default()).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(report.problems[0].affects, [snapshot(1, 1)]);
    let lost = home.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    assert!(matches!(lost, VaultError::ChunkMissing { .. }), "{lost}");
    home.vault.verify(snapshot(1, 2), None, &Progress::default()).unwrap();
}

#[test]
fn a_damaged_pack_is_put_aside_its_good_chunks_saved_and_the_rest_stored_anew() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 4_000_000)).unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    let data = home.packs().into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, &bytes).unwrap();
    let key = key_of(home.folder.path(), &data);
    let damage = home.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap_err();
    assert_eq!(damage.damaged_object(), Some(&*key));
    let aside = home.vault.quarantine(&key).unwrap();
    assert!(aside.chunks_lost > 0 && aside.chunks_saved > aside.chunks_lost, "{aside:?}");
    assert_eq!(fs::read(home.folder.path().join("store").join(&aside.moved_to)).unwrap(), bytes);
    assert!(!data.exists());
    assert!(home.vault.verify(snapshot(1, 1), None, &Progress::default()).is_err());
    // Stored again, only what was lost is sent.
    let again = home.persist(tree.path(), snapshot(1, 1));
    assert!(again.bytes_sent > 0 && again.bytes_sent < 3_000_000, "{again:?}");
    home.another().verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    assert!(home.vault.quarantine("format").is_err());
    assert!(home.vault.quarantine("../x").is_err());
}

#[test]
fn verification_reads_again_only_what_is_not_trusted() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    home.persist(tree.path(), snapshot(1, 1));
    fs::write(tree.path().join("new"), noise(4, 10_000)).unwrap();
    home.vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap();
    let all = home.vault.verify(snapshot(1, 2), None, &Progress::default()).unwrap();
    let rest = home.vault.verify(snapshot(1, 2), Some(snapshot(1, 1)), &Progress::default()).unwrap();
    assert_eq!((rest.files, rest.bytes, rest.files_trusted + 1), (1, 10_000, all.files));
    assert_eq!(home.vault.stats(Some(org(1))).unwrap().checkpoints, 2);
}
