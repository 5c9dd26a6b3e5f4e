//! Collection gives back what nothing needs, and nothing else.

use crate::support::{Home, described, job, many_files, noise, objects, org, snapshot};
use forkpoint_vault::{CollectOptions, Progress, Vault};
use std::{collections::BTreeSet, fs, time::Duration};

fn collect(vault: &Vault) -> forkpoint_vault::Collected {
    vault.collect(&CollectOptions::default()).unwrap()
}

#[test]
fn deleting_gives_back_private_bytes_and_harms_no_other() {
    let home = Home::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for tree in [&one, &two] {
        many_files(tree.path(), 1, 100, 4000);
        fs::write(tree.path().join("shared"), noise(1, 2_000_000)).unwrap();
    }
    fs::write(one.path().join("private"), noise(2, 3_000_000)).unwrap();
    home.persist(one.path(), snapshot(1, 1));
    home.persist(two.path(), snapshot(1, 2));
    let usage = home.vault.usage(org(1)).unwrap();
    let private = usage[&snapshot(1, 1)].unique_bytes;
    assert!((3_000_000..3_100_000).contains(&private), "{usage:?}");
    assert!(usage[&snapshot(1, 2)].unique_bytes < 50_000, "{usage:?}");
    let before = home.vault.stats(None).unwrap();
    assert_eq!(collect(&home.vault).packs_removed, 0, "everything is needed");
    home.vault.delete(snapshot(1, 1)).unwrap();
    let preview = home.vault.collect(&CollectOptions { dry_run: true, ..CollectOptions::default() }).unwrap();
    assert!(preview.packs_condemned > 0 && preview.packs_removed == 0);
    assert_eq!(home.vault.stats(None).unwrap().packs, before.packs);
    let collected = collect(&home.vault);
    assert!(collected.packs_removed > 0, "{collected:?}");
    let after = home.vault.stats(None).unwrap();
    assert!(before.bytes - after.bytes > private * 9 / 10, "{before:?} {after:?}");
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(two.path()));
    assert_eq!(
        described(&crate::support::restore(&home.another(), home.folder.path(), snapshot(1, 2))),
        described(two.path())
    );
    home.vault.delete(snapshot(1, 2)).unwrap();
    collect(&home.vault);
    assert_eq!(home.packs(), Vec::<std::path::PathBuf>::new());
    assert!(objects(home.folder.path(), "condemned").is_empty() && objects(home.folder.path(), "leases").is_empty());
}

#[test]
fn records_that_are_not_live_go_unless_they_are_young() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 10, 4000);
    for n in 1..=3 {
        home.persist(tree.path(), snapshot(1, n));
    }
    let live = Some(BTreeSet::from([snapshot(1, 2)]));
    let hour = Duration::from_secs(3600);
    let young = CollectOptions { live: live.clone(), keep_newer_than: hour, ..CollectOptions::default() };
    assert_eq!(home.vault.collect(&young).unwrap().records_removed, 0);
    let all = CollectOptions { live, ..CollectOptions::default() };
    assert_eq!(home.vault.collect(&all).unwrap().records_removed, 2);
    assert_eq!(home.vault.list(org(1)).unwrap(), [snapshot(1, 2)]);
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(tree.path()));
}

#[test]
fn partly_needed_packs_are_written_anew_and_readers_follow() {
    let home = Home::with(|options| options.pack_bytes = 64 << 20);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 100, 4000);
    fs::write(tree.path().join("big"), noise(5, 4_000_000)).unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    let keep = tempfile::tempdir().unwrap();
    many_files(keep.path(), 1, 30, 4000);
    home.persist(keep.path(), snapshot(1, 2));
    // A server that learned of the packs before they are rewritten.
    let reader = home.another();
    reader.verify(snapshot(1, 2), None, &Progress::default()).unwrap();
    home.vault.delete(snapshot(1, 1)).unwrap();
    let collected = collect(&home.vault);
    assert!(collected.packs_rewritten > 0 && collected.bytes_removed > 4_000_000, "{collected:?}");
    assert!(home.vault.stats(None).unwrap().pack_bytes < 400_000);
    assert_eq!(
        described(&crate::support::restore(&reader, home.folder.path(), snapshot(1, 2))),
        described(keep.path())
    );
    assert!(home.vault.check(100, &Progress::default()).unwrap().problems.is_empty());
}

#[test]
fn writers_beside_a_collector_lose_nothing() {
    let home = Home::new();
    let trees: Vec<_> = (0..3)
        .map(|n| {
            let tree = tempfile::tempdir().unwrap();
            many_files(tree.path(), n % 2, 40, 6000);
            fs::write(tree.path().join("big"), noise(n, 600_000)).unwrap();
            tree
        })
        .collect();
    let other_server = home.another();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = trees
            .iter()
            .enumerate()
            .map(|(n, tree)| {
                let vault = if n == 1 { &other_server } else { &home.vault };
                scope.spawn(move || {
                    // Stores, deletes and stores again: chunks become unneeded and needed all the time.
                    for round in 0..8u128 {
                        let name = snapshot(1, 10 * (n as u128 + 1));
                        vault.persist(&job(tree.path(), name)).unwrap();
                        if round < 7 {
                            vault.delete(name).unwrap();
                        }
                    }
                })
            })
            .collect();
        // Two at once: each might rely on the copy of a chunk that the other removes.
        let collectors = [&home.vault, &other_server].map(|vault| {
            let done = &done;
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    collect(vault);
                }
            })
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        collectors.into_iter().for_each(|collector| collector.join().unwrap());
    });
    for (n, tree) in trees.iter().enumerate() {
        let name = snapshot(1, 10 * (n as u128 + 1));
        let third_server = home.another();
        third_server.verify(name, None, &Progress::default()).unwrap();
        assert_eq!(
            described(&crate::support::restore(&third_server, home.folder.path(), name)),
            described(tree.path())
        );
    }
}

#[test]
fn a_pack_waits_while_a_writer_of_another_server_may_rely_on_it() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 500_000)).unwrap();
    home.persist(tree.path(), snapshot(1, 1));
    home.vault.delete(snapshot(1, 1)).unwrap();
    // A writer of another server is at work since a moment ago.
    let leases = home.folder.path().join("store/orgs").join(org(1).to_string()).join("leases");
    fs::create_dir_all(&leases).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let lease = leases.join(format!("{now:013}-{:016x}", 7));
    fs::write(&lease, "writing").unwrap();
    let waiting = collect(&home.vault);
    assert_eq!(waiting.packs_removed, 0);
    assert!(waiting.packs_condemned > 0 && waiting.packs_waiting == waiting.packs_condemned, "{waiting:?}");
    // A new writer does not rely on what is condemned: it stores the data again.
    let again = home.another().persist(&job(tree.path(), snapshot(1, 2))).unwrap();
    assert!(again.bytes_sent > 500_000);
    // It gave no sign of life for long.
    let old = std::time::SystemTime::now() - Duration::from_secs(3 * 3600);
    fs::File::options().write(true).open(&lease).unwrap().set_modified(old).unwrap();
    assert_eq!(collect(&home.vault).packs_removed, waiting.packs_condemned);
    assert!(!lease.exists());
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(tree.path()));
}

#[test]
fn an_organisation_that_cannot_be_read_is_left_alone() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 20, 4000);
    home.persist(tree.path(), snapshot(1, 1));
    home.persist(tree.path(), snapshot(1, 2));
    let record = objects(home.folder.path(), "checkpoints").remove(0);
    fs::write(&record, "garbage").unwrap();
    let packs = home.packs();
    let collected = collect(&home.vault);
    assert_eq!(collected.skipped.len(), 1);
    assert!(collected.skipped[0].1.contains("checkpoints/"), "names the object: {collected:?}");
    assert_eq!(home.packs(), packs);
}

#[test]
fn one_process_collects_or_mends_at_a_time() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 20, 4000);
    home.persist(tree.path(), snapshot(1, 1));
    home.vault.delete(snapshot(1, 1)).unwrap();
    // Another machine's collector is at work, of which this one has no note.
    let upkeep = home.folder.path().join("store/orgs").join(org(1).to_string()).join("upkeep");
    fs::create_dir_all(&upkeep).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let other = upkeep.join(format!("{now:013}-{:016x}", 7));
    fs::write(&other, "at work").unwrap();
    let packs = home.packs();
    let busy = std::thread::scope(|scope| scope.spawn(|| collect(&home.vault)).join().unwrap());
    assert!(busy.skipped[0].1.contains("by another process"), "{busy:?}");
    assert_eq!((home.packs(), busy.packs_condemned), (packs, 0));
    // It gave no sign of life for long.
    let old = std::time::SystemTime::now() - Duration::from_secs(3 * 3600);
    fs::File::options().write(true).open(&other).unwrap().set_modified(old).unwrap();
    assert!(collect(&home.vault).packs_removed > 0);
    assert!(objects(home.folder.path(), "upkeep").is_empty());
}
