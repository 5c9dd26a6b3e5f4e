//! A server killed at any moment while it stores leaves nothing wrong behind.

use crate::support::{Home, described, job, many_files, noise, objects, snapshot};
use forkpoint_vault::{CollectOptions, Progress, Vault, VaultError, VaultOptions};
use rand::Rng;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

/// Set in the process that is killed: the home it works in.
const CHILD: &str = "VAULT_CRASH_CHILD";

/// Stores the same tree under one name after another, for ever.
fn child(home: &str) {
    let home = std::path::Path::new(home);
    let mut options = VaultOptions::new(home.join("store").to_str().unwrap());
    options.cache = Some(home.join("cache"));
    options.pack_bytes = 64 << 10;
    let vault = Vault::open(&options, &Home::key(home)).unwrap();
    for n in 100.. {
        fs::write(home.join("tree/changing"), noise(rand::random(), 200_000)).unwrap();
        vault.persist(&job(&home.join("tree"), snapshot(1, n))).unwrap();
        println!("stored {n}");
    }
}

#[test]
fn a_killed_writer_leaves_whole_checkpoints_or_none() {
    if let Ok(home) = std::env::var(CHILD) {
        return child(&home);
    }
    let home = Home::new();
    let tree = home.folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    many_files(&tree, 1, 40, 5000);
    home.persist(&tree, snapshot(1, 1));
    let want = described(&tree);
    let mut told = 0;
    for _ in 0..12 {
        for old in home.vault.list(snapshot(1, 1).org).unwrap() {
            if old != snapshot(1, 1) {
                home.vault.delete(old).unwrap();
            }
        }
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::a_killed_writer_leaves_whole_checkpoints_or_none", "--nocapture"])
            .env(CHILD, home.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut last = None;
        // Once it works, it is killed at some instant of its next stores.
        for line in lines.by_ref() {
            last = line.unwrap().strip_prefix("stored ").map(|n| n.parse::<u128>().unwrap()).or(last);
            if last.is_some() {
                break;
            }
        }
        // Any instant will do: this is the one pause that waits for nothing.
        std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..30_000)));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let answered: Vec<u128> =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("stored ")?.parse().ok()).collect();
        let last = answered.last().copied().or(last);
        let server = home.another();
        for n in 100..=last.unwrap_or(99) {
            assert!(server.read(snapshot(1, n)).is_ok(), "{n} was told stored and is gone");
            told += 1;
        }
        for name in server.list(snapshot(1, 1).org).unwrap() {
            server.verify(name, None, &Progress::default()).unwrap();
        }
        assert_eq!(server.check(100, &Progress::default()).unwrap().problems, []);
    }
    assert!(told >= 12, "{told}");
    assert_eq!(described(&home.restore(snapshot(1, 1))), want);
    // What killed writers have left is collected at once: whoever has their cache knows that they are dead.
    assert!(!objects(home.folder.path(), "leases").is_empty(), "some writer must have died at work");
    for name in home.vault.list(snapshot(1, 1).org).unwrap() {
        home.vault.delete(name).unwrap();
    }
    home.vault.collect(&CollectOptions::default()).unwrap();
    let left = home.vault.stats(None).unwrap();
    assert_eq!(
        (left.packs, left.objects),
        (0, 2),
        "only format and key are left: {:?}",
        objects(home.folder.path(), "store")
    );
    assert_eq!(fs::read_dir(home.folder.path().join("store/tmp")).unwrap().count(), 0);
    assert!(matches!(home.vault.read(snapshot(1, 1)), Err(VaultError::NotFound(_))));
}
