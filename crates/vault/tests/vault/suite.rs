//! What a vault promises, on every store alike: a directory of this machine, and S3.

use crate::{
    s3,
    support::{Home, described, job, many_files, noise, one_of_everything, org, restore, snapshot},
};
use bytes::Bytes;
use forkpoint_vault::{
    CollectOptions, MasterKey, PersistJob, Progress, StoreError, Vault, VaultError, VaultOptions,
    store::{Keep, LocalStore, Store},
};
use jiff::{SignedDuration, Timestamp};
use std::{fs, path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;

/// A store for one case, and what servers on it keep on their machine.
struct Stage {
    folder: TempDir,
    store: Arc<dyn Store>,
    /// Whether it counts as remote: copies of indexes are kept then.
    url: &'static str,
}

impl Stage {
    /// A server on that store; two with different names share nothing but store and key.
    fn server(&self, name: &str) -> Vault {
        self.open(name, &Home::key(self.folder.path())).unwrap()
    }

    fn open(&self, name: &str, key: &MasterKey) -> forkpoint_vault::Result<Vault> {
        let mut options = VaultOptions::new(self.url);
        options.cache = Some(self.folder.path().join("cache").join(name));
        options.pack_bytes = 256 << 10;
        options.first_pause = Duration::from_millis(1);
        Vault::open_on(self.store.clone(), &options, key)
    }

    fn keys(&self, part: &str) -> Vec<(u64, String)> {
        let mut keys = Vec::new();
        self.store.list("orgs/", &mut |info| keys.push((info.size, info.key))).unwrap();
        keys.retain(|(_, key)| key.contains(part));
        keys.sort();
        keys
    }

    fn restored(&self, vault: &Vault, n: u128) -> std::collections::BTreeMap<Vec<u8>, String> {
        described(&restore(vault, self.folder.path(), snapshot(1, n)))
    }
}

fn tree(seed: u64) -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), seed, 80, 4000);
    fs::write(tree.path().join("big"), noise(seed, 900_000)).unwrap();
    tree
}

fn settled(tree: &Path, n: u128, parent: Option<u128>) -> PersistJob {
    PersistJob {
        parent: parent.map(|parent| snapshot(1, parent)),
        captured_after: Timestamp::now() + SignedDuration::from_secs(5),
        ..job(tree, snapshot(1, n))
    }
}

/// What is promised, and what shows it.
type Case = (&'static str, fn(&Stage));

const CASES: &[Case] = &[
    ("everything comes back on another server", everything_comes_back),
    ("unchanged files are not sent again", unchanged_is_not_sent),
    ("deleting gives bytes back and harms no other", deleting_gives_back),
    ("damage is found, named, never served, and mended", damage_is_mended),
    ("another key is refused", another_key_is_refused),
    ("two writers and a collector lose nothing", writers_beside_a_collector),
    ("a store without its format object is not taken over", a_lost_format_is_told),
    ("a destroyed organisation leaves nothing", a_destroyed_organisation),
];

fn everything_comes_back(stage: &Stage) {
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    let stored = stage.server("one").persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    let other = stage.server("two");
    assert_eq!(other.verify(snapshot(1, 1), None, &Progress::default()).unwrap().root, stored.root);
    assert_eq!(stage.restored(&other, 1), described(tree.path()));
    assert_eq!(other.read(snapshot(1, 1)).unwrap().root, stored.root);
}

fn unchanged_is_not_sent(stage: &Stage) {
    let tree = tree(1);
    let server = stage.server("one");
    let first = server.persist(&settled(tree.path(), 1, None)).unwrap();
    let again = server.persist(&settled(tree.path(), 2, Some(1))).unwrap();
    assert_eq!((again.root, again.bytes_sent, again.bytes_read), (first.root, 0, 0));
    fs::write(tree.path().join("new"), noise(50, 30_000)).unwrap();
    let more = server.persist(&settled(tree.path(), 3, Some(2))).unwrap();
    assert!(more.bytes_read == 30_000 && more.bytes_sent < 60_000, "{more:?}");
    // A server that has no hints reads all and sends nothing.
    let other = stage.server("two").persist(&settled(tree.path(), 4, Some(3))).unwrap();
    assert_eq!((other.root, other.chunks_new), (more.root, 0));
    assert_eq!(stage.restored(&stage.server("three"), 4), described(tree.path()));
}

fn deleting_gives_back(stage: &Stage) {
    let (one, two) = (tree(1), tree(1));
    fs::write(one.path().join("private"), noise(9, 2_000_000)).unwrap();
    let server = stage.server("one");
    server.persist(&job(one.path(), snapshot(1, 1))).unwrap();
    server.persist(&job(two.path(), snapshot(1, 2))).unwrap();
    let before = server.stats(None).unwrap().bytes;
    server.delete(snapshot(1, 1)).unwrap();
    assert!(matches!(server.read(snapshot(1, 1)), Err(VaultError::NotFound(_))));
    let collector = stage.server("two");
    collector.collect(&CollectOptions::default()).unwrap();
    let after = server.stats(None).unwrap().bytes;
    // Packs of which most is needed stay whole.
    assert!(before - after > 1_500_000, "{before} {after}");
    assert_eq!(stage.restored(&server, 2), described(two.path()));
    server.delete(snapshot(1, 2)).unwrap();
    collector.collect(&CollectOptions::default()).unwrap();
    let left: Vec<String> = stage.keys("").into_iter().map(|(_, key)| key).collect();
    assert_eq!(left, [format!("orgs/{}/key", org(1))]);
}

fn damage_is_mended(stage: &Stage) {
    let tree = tree(2);
    stage.server("one").persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    let (_, key) = stage.keys("/packs/").pop().unwrap();
    let good = stage.store.get(&key, None).unwrap();
    let mut bad = good.to_vec();
    bad[good.len() / 2] ^= 1;
    stage.store.put(&key, bad.into(), Keep::Always).unwrap();
    let server = stage.server("two");
    let report = server.check(100, &Progress::default()).unwrap();
    assert_eq!(report.problems.iter().map(|one| &one.object).collect::<Vec<_>>(), [&key], "{report:?}");
    assert_eq!(report.problems[0].affects, [snapshot(1, 1)]);
    let into = tempfile::tempdir().unwrap();
    let refused = server.materialize(snapshot(1, 1), into.path(), &Progress::default()).unwrap_err();
    assert_eq!(refused.damaged_object(), Some(&*key));
    let aside = server.quarantine(&key).unwrap();
    assert!(aside.chunks_lost > 0, "{aside:?}");
    server.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    assert_eq!(stage.server("three").check(100, &Progress::default()).unwrap().problems, []);
    assert_eq!(stage.restored(&stage.server("three"), 1), described(tree.path()));
}

fn another_key_is_refused(stage: &Stage) {
    stage.server("one");
    let other = tempfile::tempdir().unwrap();
    let refused = stage.open("two", &Home::key(other.path())).unwrap_err();
    assert!(matches!(refused, VaultError::WrongKey { .. }), "{refused}");
}

fn writers_beside_a_collector(stage: &Stage) {
    let trees = [tree(3), tree(4)];
    let servers = [stage.server("one"), stage.server("two")];
    std::thread::scope(|scope| {
        for (n, (tree, server)) in trees.iter().zip(&servers).enumerate() {
            scope.spawn(move || {
                for round in 0..3 {
                    server.persist(&job(tree.path(), snapshot(1, n as u128 + 1))).unwrap();
                    if round < 2 {
                        server.delete(snapshot(1, n as u128 + 1)).unwrap();
                        server.collect(&CollectOptions::default()).unwrap();
                    }
                }
            });
        }
    });
    let other = stage.server("three");
    for (n, tree) in (1..).zip(&trees) {
        assert_eq!(stage.restored(&other, n), described(tree.path()));
    }
    assert_eq!(other.check(100, &Progress::default()).unwrap().problems, []);
}

fn a_lost_format_is_told(stage: &Stage) {
    let tree = tree(5);
    stage.server("one").persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    let format: Bytes = stage.store.get("format", None).unwrap();
    stage.store.delete("format").unwrap();
    let refused = stage.open("two", &Home::key(stage.folder.path())).unwrap_err();
    assert_eq!(refused.damaged_object(), Some("format"), "{refused}");
    assert!(matches!(stage.store.get("format", None), Err(StoreError::Missing { .. })), "nothing was made");
    stage.store.put("format", format, Keep::Always).unwrap();
    assert_eq!(stage.restored(&stage.server("two"), 1), described(tree.path()));
}

fn a_destroyed_organisation(stage: &Stage) {
    let tree = tree(6);
    let server = stage.server("one");
    server.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    server.persist(&job(tree.path(), snapshot(2, 1))).unwrap();
    server.destroy_org(org(1)).unwrap();
    let other = stage.server("two");
    assert!(other.read(snapshot(1, 1)).is_err());
    assert_eq!(other.verify(snapshot(2, 1), None, &Progress::default()).unwrap().files, 81);
    assert!(stage.keys(&org(1).to_string()).is_empty());
}

fn run(url: &'static str, store: impl Fn(&Path, usize) -> Arc<dyn Store>) {
    for (number, (name, case)) in CASES.iter().enumerate() {
        println!("{name}");
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), number);
        case(&Stage { folder, store, url });
    }
}

#[test]
fn a_directory_keeps_every_promise() {
    run("/store", |folder, _| Arc::new(LocalStore::open(folder.join("store")).unwrap()));
}

#[test]
fn s3_keeps_every_promise() {
    let moto = s3::start();
    run("s3://checkpoints", |_, number| s3::store(&moto, &format!("case{number}")));
}
