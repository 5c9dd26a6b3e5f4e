//! What two snapshots surely still share, so that it need not be read.
//!
//! Snapshots keep inode numbers and times, but equal numbers and times prove nothing alone: forks
//! that run the same program write the same inode numbers, perhaps in the same tick of the clock.
//! So only what was last changed before the two layers parted counts as shared.

use std::collections::HashMap;
use std::path::Path;

use crate::sys::btrfs::{self, Origin};
use crate::tree::dir::{Dir, Metadata, Opened, Timestamp};

type Uuid = [u8; 16];

/// More generations than this between a layer and the common ancestor are not followed.
const GENERATIONS: usize = 4096;

/// A file changed within this time before the parting is not trusted to be older than it: file
/// times come from a clock that ticks every 10 ms at worst.
const MARGIN_NANOS: i128 = 100_000_000;

/// Until when two layers were one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lineage {
    parted: Option<Timestamp>,
}

impl Lineage {
    /// Of two layer directories. Where nothing is known (other file systems, no relation), nothing
    /// counts as shared.
    pub(crate) fn between(a: Option<&Path>, b: Option<&Path>) -> Self {
        let (Some(a), Some(b)) = (a, b) else {
            return Self::default();
        };
        Self { parted: parted(a, b) }
    }

    /// Whether both are the same file, not changed in either layer since they parted: equal in
    /// content and in everything else.
    pub(crate) fn shares(&self, a: &Metadata, b: &Metadata) -> bool {
        if a.id == b.id {
            return true;
        }
        self.parted.is_some_and(|parted| {
            a.id.1 == b.id.1
                && a.kind == b.kind
                && a.size == b.size
                && a.ctime == b.ctime
                && a.mtime == b.mtime
                && nanos(a.ctime) + MARGIN_NANOS < nanos(parted)
        })
    }
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}

fn parted(a: &Path, b: &Path) -> Option<Timestamp> {
    let (dir_a, dir_b) = (Dir::open(a).ok()?, Dir::open(b).ok()?);
    let (first, second) = (btrfs::origin(&*dir_a).ok()?, btrfs::origin(&*dir_b).ok()?);
    // Siblings, parent and child need no search.
    let mut known = HashMap::from([(first.uuid, first), (second.uuid, second)]);
    if let Some(found) = common(&first, &second, &known) {
        return Some(found);
    }
    for path in [a, b] {
        collect(path.parent()?, &mut known);
    }
    common(&first, &second, &known)
}

/// The time from which on the two lines of descent have nothing in common.
fn common(a: &Origin, b: &Origin, known: &HashMap<Uuid, Origin>) -> Option<Timestamp> {
    let never = Timestamp { secs: i64::MAX, nanos: 0 };
    let line = |start: &Origin| {
        let mut line = vec![(start.uuid, never)];
        let mut at = *start;
        while at.parent != [0; 16] && line.len() < GENERATIONS {
            line.push((at.parent, Timestamp { secs: at.made.0, nanos: at.made.1 }));
            match known.get(&at.parent) {
                Some(parent) => at = *parent,
                None => break,
            }
        }
        line
    };
    let other: HashMap<Uuid, Timestamp> = line(b).into_iter().rev().collect();
    line(a).into_iter().find_map(|(uuid, left)| other.get(&uuid).map(|right| left.min(*right)))
}

fn collect(layers: &Path, known: &mut HashMap<Uuid, Origin>) {
    let (Ok(dir), Ok(entries)) = (Dir::open(layers), std::fs::read_dir(layers)) else {
        return;
    };
    for entry in entries.flatten() {
        if let Ok(Opened::Dir(layer)) = dir.child(entry.file_name().as_encoded_bytes())
            && let Ok(origin) = btrfs::origin(&*layer)
        {
            known.insert(origin.uuid, origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(uuid: u8, parent: u8, made: i64) -> Origin {
        Origin { uuid: [uuid; 16], parent: [parent; 16], made: (made, 0) }
    }

    fn secs(a: Origin, b: Origin, others: &[Origin]) -> Option<i64> {
        let known = others.iter().chain([&a, &b]).map(|o| (o.uuid, *o)).collect();
        common(&a, &b, &known).map(|t| t.secs)
    }

    #[test]
    fn layers_part_when_the_first_of_the_two_lines_leaves_the_ancestor() {
        let root = origin(1, 0, 10);
        let fork = origin(2, 1, 20);
        let late = origin(3, 1, 30);
        assert_eq!(secs(root, fork, &[]), Some(20), "child of the other");
        assert_eq!(secs(fork, late, &[]), Some(20), "siblings, ancestor gone");
        let saved = origin(4, 2, 40);
        let saved_late = origin(5, 3, 50);
        assert_eq!(secs(saved, saved_late, &[fork, late]), Some(20), "saved after they parted");
        assert_eq!(secs(saved, saved_late, &[late]), None, "a missing generation proves nothing");
        assert_eq!(secs(origin(8, 0, 1), origin(9, 0, 1), &[]), None, "strangers");
    }

    #[test]
    fn equal_numbers_and_times_count_only_from_before_the_parting() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("file"), "x").expect("write");
        let held = Dir::open(dir.path()).expect("open");
        let file = held.stat(b"file").expect("stat").expect("is there");
        // The same inode number in another subvolume.
        let twin = Metadata { id: (file.id.0 + 1, file.id.1), ..file };
        let parted =
            |secs| Lineage { parted: Some(Timestamp { secs: file.ctime.secs + secs, nanos: file.ctime.nanos }) };
        assert!(parted(1).shares(&file, &twin), "older than the parting");
        assert!(!parted(0).shares(&file, &twin), "as old: may be two files of one tick");
        assert!(!parted(-1).shares(&file, &twin), "written after it");
        assert!(!Lineage::default().shares(&file, &twin), "strangers");
        assert!(Lineage::default().shares(&file, &file), "one inode");
        let touched = Metadata { ctime: Timestamp { nanos: file.ctime.nanos ^ 1, ..file.ctime }, ..twin };
        assert!(!parted(1).shares(&file, &touched), "changed in one of them");
    }
}
