//! What did not change is neither read nor sent again, and nothing that changed is missed.

use crate::support::{Home, described, job, many_files, noise, set_time, snapshot};
use forkpoint_vault::{PersistJob, Persisted, SnapshotRef};
use jiff::{SignedDuration, Timestamp};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// After everything: all stamps may be relied on.
fn settled() -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(5)
}

fn persist_after(home: &Home, tree: &Path, name: SnapshotRef, parent: SnapshotRef) -> Persisted {
    home.vault.persist(&PersistJob { parent: Some(parent), captured_after: settled(), ..job(tree, name) }).unwrap()
}

fn persist_first(home: &Home, tree: &Path, name: SnapshotRef) -> Persisted {
    home.vault.persist(&PersistJob { captured_after: settled(), ..job(tree, name) }).unwrap()
}

#[test]
fn an_unchanged_layer_costs_no_data() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 300, 4000);
    fs::write(tree.path().join("big"), noise(9, 3_000_000)).unwrap();
    let first = persist_first(&home, tree.path(), snapshot(1, 1));
    let again = persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_eq!(again.root, first.root);
    assert_eq!((again.bytes_sent, again.bytes_read, again.packs), (0, 0, 0));
    assert_eq!(again.entries_reused, again.entries);
    assert_eq!(again.bytes_total, first.bytes_total);
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(tree.path()));
}

#[test]
fn a_change_costs_about_itself() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 300, 4000);
    persist_first(&home, tree.path(), snapshot(1, 1));
    for n in [5, 90, 200] {
        fs::write(tree.path().join(format!("d{}/e{}/f{n}", n % 7, n % 3)), noise(n, 20_000)).unwrap();
    }
    fs::remove_file(tree.path().join("d0/e0/f0")).unwrap();
    let second = persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_eq!(second.bytes_read, 60_000);
    assert!(second.bytes_sent < 2 * 60_000, "{second:?}");
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(tree.path()));
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    let file = tree.path().join("file");
    fs::write(&file, "one").unwrap();
    set_time(&file, 1000, 5);
    let first = persist_first(&home, tree.path(), snapshot(1, 1));
    let before = file.metadata().unwrap();
    // The kernel's clock stands still for some milliseconds: wait for its next step.
    while file.metadata().unwrap().ctime_nsec() == before.ctime_nsec() {
        fs::write(&file, "two").unwrap();
        set_time(&file, 1000, 5);
    }
    assert_eq!((file.metadata().unwrap().mtime(), file.metadata().unwrap().len()), (before.mtime(), before.len()));
    let second = persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_ne!(second.root, first.root);
    assert_eq!(fs::read(home.restore(snapshot(1, 2)).join("file")).unwrap(), b"two");
}

#[test]
fn stamps_too_close_to_the_capture_are_not_relied_on() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 20, 1000);
    let captured_after = Timestamp::now();
    home.vault.persist(&PersistJob { captured_after, ..job(tree.path(), snapshot(1, 1)) }).unwrap();
    let again = persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_eq!(again.entries_reused, 0);
    assert_eq!(again.bytes_sent, 0, "contents are known all the same");
}

#[test]
fn swapped_directories_and_files_are_not_mistaken() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(tree.path().join(name)).unwrap();
        fs::write(tree.path().join(name).join("x"), format!("in {name}")).unwrap();
    }
    persist_first(&home, tree.path(), snapshot(1, 1));
    let path = |name: &str| tree.path().join(name);
    fs::rename(path("a"), path("c")).unwrap();
    fs::rename(path("b"), path("a")).unwrap();
    fs::rename(path("c"), path("b")).unwrap();
    persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    let restored = home.restore(snapshot(1, 2));
    assert_eq!(fs::read(restored.join("a/x")).unwrap(), b"in b");
    assert_eq!(fs::read(restored.join("b/x")).unwrap(), b"in a");
}

#[test]
fn damaged_hints_and_a_missing_parent_only_cost_reading() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    many_files(tree.path(), 1, 30, 3000);
    persist_first(&home, tree.path(), snapshot(1, 1));
    let hints = home.folder.path().join("cache/hints").join(snapshot(1, 1).org.to_string());
    let file = fs::read_dir(hints).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[60] ^= 4;
    fs::write(&file, bytes).unwrap();
    let second = persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_eq!((second.entries_reused, second.bytes_sent), (0, 0));
    let third = persist_after(&home, tree.path(), snapshot(1, 3), snapshot(1, 99));
    assert_eq!((third.entries_reused, third.bytes_sent), (0, 0));
    // Hints of a parent that another organisation owns are not looked at.
    let fourth = persist_after(&home, tree.path(), snapshot(2, 4), snapshot(1, 2));
    assert_eq!(fourth.entries_reused, 0);
    assert_eq!(described(&home.restore(snapshot(2, 4))), described(tree.path()));
}

#[test]
fn new_hard_links_to_old_files_are_stored_right() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("d")).unwrap();
    fs::write(tree.path().join("m"), noise(1, 100_000)).unwrap();
    fs::write(tree.path().join("other"), "x").unwrap();
    persist_first(&home, tree.path(), snapshot(1, 1));
    fs::hard_link(tree.path().join("m"), tree.path().join("d/first")).unwrap();
    fs::hard_link(tree.path().join("m"), tree.path().join("a")).unwrap();
    persist_after(&home, tree.path(), snapshot(1, 2), snapshot(1, 1));
    assert_eq!(described(&home.restore(snapshot(1, 2))), described(tree.path()));
    fs::remove_file(tree.path().join("a")).unwrap();
    let third = persist_after(&home, tree.path(), snapshot(1, 3), snapshot(1, 2));
    assert_eq!(described(&home.restore(snapshot(1, 3))), described(tree.path()));
    let fourth = persist_after(&home, tree.path(), snapshot(1, 4), snapshot(1, 3));
    assert_eq!((fourth.root, fourth.entries_reused), (third.root, third.entries));
}
