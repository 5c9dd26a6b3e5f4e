//! A store that fails, forgets, lies and fills up: errors are typed, nothing wrong is served, nothing is lost.

use crate::support::{Faults, Faulty, Home, described, header, job, many_files, noise, snapshot};
use forkpoint_vault::{
    CollectOptions, PersistJob, Progress, SnapshotRef, Store, StoreError, Vault, VaultError, VaultOptions,
};
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    store: Arc<Faulty>,
    options: VaultOptions,
    vault: Vault,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Faulty::new(&folder.path().join("store"), seed);
        let mut options = VaultOptions::new("faulty");
        options.cache = Some(folder.path().join("cache"));
        options.pack_bytes = 64 << 10;
        options.attempts = 4;
        options.first_pause = Duration::from_micros(10);
        let vault = Self::open(&store, &options, folder.path());
        Self { folder, store, options, vault }
    }

    fn open(store: &Arc<Faulty>, options: &VaultOptions, folder: &Path) -> Vault {
        Vault::open_on(store.clone() as Arc<dyn Store>, options, &Home::key(folder)).unwrap()
    }

    fn restart(&mut self) {
        self.vault = Self::open(&self.store, &self.options, self.folder.path());
    }
}

#[test]
fn moments_of_failure_are_survived() {
    let bench = Bench::new(1);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 100, 5000);
    bench.store.set(Faults { fail: 100, forget: 50, truncate: 50, slow: 20, ..Faults::default() });
    bench.vault.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    bench.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    assert_eq!(
        described(&crate::support::restore(&bench.vault, bench.folder.path(), snapshot(1, 1))),
        described(tree.path())
    );
}

#[test]
fn a_full_or_dead_store_gives_a_typed_error_and_harms_nothing() {
    let bench = Bench::new(2);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 60, 5000);
    bench.vault.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    fs::write(tree.path().join("new"), noise(3, 300_000)).unwrap();
    bench.store.set(Faults { full: true, ..Faults::default() });
    let full = bench.vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap_err();
    assert!(matches!(full, VaultError::Store(StoreError::NoSpace { .. })) && full.may_pass(), "{full}");
    bench.store.set(Faults { down: true, ..Faults::default() });
    let calls = bench.store.calls.load(std::sync::atomic::Ordering::Relaxed);
    let dead = bench.vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap_err();
    assert!(matches!(dead, VaultError::Store(StoreError::Unavailable { .. })), "{dead}");
    assert!(bench.store.calls.load(std::sync::atomic::Ordering::Relaxed) - calls < 40, "tries are bounded");
    bench.store.set(Faults::default());
    assert!(matches!(bench.vault.read(snapshot(1, 2)), Err(VaultError::NotFound(_))));
    bench.vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    bench.vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap();
    bench.vault.collect(&CollectOptions::default()).unwrap();
    bench.vault.verify(snapshot(1, 2), None, &Progress::default()).unwrap();
    assert_eq!(bench.vault.check(100, &Progress::default()).unwrap().problems, []);
}

#[test]
fn a_store_that_always_lies_serves_nothing() {
    let bench = Bench::new(3);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 500_000)).unwrap();
    bench.vault.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    bench.store.set(Faults { lie: 1000, ..Faults::default() });
    let into = tempfile::tempdir().unwrap();
    let lied = bench.vault.materialize(snapshot(1, 1), into.path(), &Progress::default()).unwrap_err();
    assert!(lied.damaged_object().is_some(), "{lied}");
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0);
}

#[test]
fn a_persist_that_is_stopped_leaves_nothing_that_counts() {
    let bench = Bench::new(4);
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 100, 20_000);
    bench.store.set(Faults { slow: 1000, ..Faults::default() });
    let job = job(tree.path(), snapshot(1, 1));
    let stopped = std::thread::scope(|scope| {
        let persist = scope.spawn(|| bench.vault.persist(&job));
        while job.progress.bytes_moved.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        job.progress.cancel();
        persist.join().unwrap()
    });
    assert!(matches!(stopped, Err(VaultError::Cancelled)), "{stopped:?}");
    bench.store.set(Faults::default());
    assert!(matches!(bench.vault.read(snapshot(1, 1)), Err(VaultError::NotFound(_))));
    bench.vault.collect(&CollectOptions::default()).unwrap();
    assert_eq!(bench.vault.stats(None).unwrap().packs, 0);
}

#[test]
fn a_record_that_the_store_denies_having_is_not_collected_away() {
    let bench = Bench::new(9);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("f"), noise(1, 200_000)).unwrap();
    fs::write(two.path().join("f"), noise(2, 200_000)).unwrap();
    bench.vault.persist(&job(one.path(), snapshot(1, 1))).unwrap();
    bench.vault.persist(&job(two.path(), snapshot(1, 2))).unwrap();
    bench.store.set(Faults { deny_records: true, ..Faults::default() });
    let collected = bench.vault.collect(&CollectOptions::default()).unwrap();
    assert_eq!(
        (collected.packs_condemned, collected.packs_removed, collected.skipped.len()),
        (0, 0, 1),
        "{collected:?}"
    );
    bench.store.set(Faults::default());
    for n in 1..=2 {
        bench.vault.verify(snapshot(1, n), None, &Progress::default()).unwrap();
    }
}

/// Edits a tree at random.
fn edit(tree: &Path, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..6) {
        let path = tree.join(format!("d{}", rng.random_range(0..4)));
        fs::create_dir_all(&path).unwrap();
        let file = path.join(format!("f{}", rng.random_range(0..8)));
        match rng.random_range(0..6) {
            0 => drop(fs::remove_file(&file)),
            1 => drop(fs::remove_dir_all(&path)),
            2 => fs::write(&file, noise(rng.random_range(0..5), 150_000)).unwrap(),
            _ => fs::write(&file, noise(rng.random(), rng.random_range(0..40_000))).unwrap(),
        }
    }
}

/// Copies a tree with its times: what a checkpoint must restore to, whatever happens later.
fn keep(tree: &Path, below: &Path) -> PathBuf {
    let copy = below.join(format!("kept-{:x}", rand::random::<u64>()));
    let status = std::process::Command::new("cp").arg("-a").arg(tree).arg(&copy).status().unwrap();
    assert!(status.success());
    copy
}

/// Random work on a store with random faults; after every round what is recorded must be what was stored.
#[test]
fn torture() {
    let seed =
        std::env::var("VAULT_TORTURE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u32>);
    let rounds = std::env::var("VAULT_TORTURE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    println!("VAULT_TORTURE_SEED={seed} VAULT_TORTURE_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(u64::from(seed));
    let mut bench = Bench::new(rng.random());
    let trees = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let kept = tempfile::tempdir().unwrap();
    let mut stored: BTreeMap<SnapshotRef, PathBuf> = BTreeMap::new();
    let (mut refused, mut done) = (0, 0);
    for round in 0..rounds {
        let faults = if rng.random_bool(0.3) {
            Faults::default()
        } else {
            let mut some = |most: u32| if rng.random_bool(0.5) { rng.random_range(0..most) } else { 0 };
            Faults {
                fail: some(300),
                forget: some(200),
                truncate: some(200),
                lie: some(150),
                slow: some(20),
                ..Faults::default()
            }
        };
        bench.store.set(Faults { full: rng.random_bool(0.08), down: rng.random_bool(0.05), ..faults });
        let outcome: Result<(), VaultError> = match rng.random_range(0..10) {
            0..5 => {
                let tree = trees[rng.random_range(0..2)].path();
                edit(tree, &mut rng);
                let name = snapshot(u128::from(rng.random_range(1..3u8)), round + 100);
                let parent = stored.keys().rfind(|have| have.org == name.org).copied();
                let captured_after = if rng.random_bool(0.5) {
                    Timestamp::now()
                } else {
                    Timestamp::now() - SignedDuration::from_secs(1)
                };
                let job = PersistJob { header: header(name), parent, captured_after, ..job(tree, name) };
                let outcome = bench.vault.persist(&job);
                if outcome.is_ok() {
                    stored.insert(name, keep(tree, kept.path()));
                } else {
                    // What the caller was told failed may be recorded all the same, if only the answer was lost;
                    // it then is as good as any other, or the caller deletes it.
                    bench.store.set(Faults::default());
                    bench.vault.delete(name).unwrap();
                }
                outcome.map(|_| ())
            }
            5 => match stored.keys().nth(rng.random_range(0..stored.len().max(1))).copied() {
                Some(name) => bench.vault.delete(name).inspect(|()| drop(stored.remove(&name))),
                None => Ok(()),
            },
            6 | 7 => bench.vault.collect(&CollectOptions::default()).map(|_| ()),
            8 => match stored.iter().nth(rng.random_range(0..stored.len().max(1))) {
                Some((name, _)) => bench.vault.verify(*name, None, &Progress::default()).map(|_| ()),
                None => Ok(()),
            },
            _ => {
                bench.store.set(Faults::default());
                bench.restart();
                Ok(())
            }
        };
        *if outcome.is_ok() { &mut done } else { &mut refused } += 1;
        // A delete whose answer was lost may have been done.
        bench.store.set(Faults::default());
        stored.retain(|name, _| {
            !matches!(bench.vault.read(*name), Err(VaultError::NotFound(_))) || panic_unless_deleted(&outcome, *name)
        });
        if round % 10 == 9 {
            for (name, copy) in &stored {
                let into = tempfile::tempdir().unwrap();
                let restored = bench.vault.materialize(*name, into.path(), &Progress::default());
                assert!(restored.is_ok(), "seed {seed}, round {round}: {name}: {restored:?}");
                let (want, have) = (described(copy), described(into.path()));
                assert_eq!(without_times(want), without_times(have), "seed {seed}, round {round}: {name}");
            }
            let report = bench.vault.check(100, &Progress::default()).unwrap();
            assert_eq!(report.problems, [], "seed {seed}, round {round}");
        }
    }
    for name in stored.into_keys() {
        bench.vault.delete(name).unwrap();
    }
    bench.vault.collect(&CollectOptions::default()).unwrap();
    let left = bench.vault.stats(None).unwrap();
    assert_eq!((left.packs, left.condemned, left.checkpoints), (0, 0, 0), "seed {seed}: leaked {left:?}");
    println!(
        "{done} done, {refused} refused, {} lies told",
        bench.store.lies.load(std::sync::atomic::Ordering::Relaxed)
    );
}

/// A record may only vanish by a delete whose answer was lost.
fn panic_unless_deleted(outcome: &Result<(), VaultError>, name: SnapshotRef) -> bool {
    let lost =
        matches!(outcome, Err(VaultError::Store(StoreError::Unavailable { action: "answer for" | "reach", .. })));
    assert!(lost, "{name} vanished: {outcome:?}");
    false
}

/// The copies kept beside were made by `cp`, which sets the top's own time anew.
fn without_times(mut tree: BTreeMap<Vec<u8>, String>) -> BTreeMap<Vec<u8>, String> {
    tree.remove(&b""[..]);
    tree
}

#[test]
fn a_slow_store_slows_down_the_reader_of_files_instead_of_filling_memory() {
    let bench = Bench::new(5);
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("big"), noise(1, 6_000_000)).unwrap();
    let began = Instant::now();
    bench.store.set(Faults { slow: 1000, ..Faults::default() });
    let job = job(tree.path(), snapshot(1, 1));
    std::thread::scope(|scope| {
        let persist = scope.spawn(|| bench.vault.persist(&job));
        while !persist.is_finished() {
            let read = job.progress.bytes_done.load(std::sync::atomic::Ordering::Relaxed);
            let moved = job.progress.bytes_moved.load(std::sync::atomic::Ordering::Relaxed);
            // Packs hold a chunk at least, so at most some chunks of 2 MiB are under way.
            assert!(read.saturating_sub(moved) < 14 << 20, "{read} read, {moved} sent after {:?}", began.elapsed());
            std::thread::yield_now();
        }
        persist.join().unwrap().unwrap();
    });
}
