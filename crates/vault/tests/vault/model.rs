//! Random trees against a model: what is stored comes back, equal trees have equal roots, and usage adds up.

use crate::support::{Home, chmod, described, job, noise, org, own, set_time, snapshot, xattr};
use forkpoint_vault::{CollectOptions, PersistJob, Progress, RootHash, SnapshotRef};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// One change of a tree.
#[derive(Debug, Clone)]
enum Edit {
    Write { place: u8, seed: u8, length: u32 },
    Remove { place: u8 },
    Link { from: u8, to: u8 },
    Symlink { place: u8 },
    Mode { place: u8, mode: u16 },
    Own { place: u8, uid: u16 },
    Time { place: u8, seconds: i32 },
    Attribute { place: u8, value: u8 },
    Rename { from: u8, to: u8 },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = 0u8..24;
    let edit = prop_oneof![
        6 => (place.clone(), any::<u8>(), prop_oneof![0u32..200, 0u32..70_000, 60_000u32..700_000])
            .prop_map(|(place, seed, length)| Edit::Write { place, seed: seed % 8, length }),
        2 => place.clone().prop_map(|place| Edit::Remove { place }),
        2 => (place.clone(), place.clone()).prop_map(|(from, to)| Edit::Link { from, to }),
        1 => place.clone().prop_map(|place| Edit::Symlink { place }),
        1 => (place.clone(), any::<u16>()).prop_map(|(place, mode)| Edit::Mode { place, mode }),
        1 => (place.clone(), any::<u16>()).prop_map(|(place, uid)| Edit::Own { place, uid }),
        1 => (place.clone(), any::<i32>()).prop_map(|(place, seconds)| Edit::Time { place, seconds }),
        1 => (place.clone(), any::<u8>()).prop_map(|(place, value)| Edit::Attribute { place, value }),
        2 => (place.clone(), place).prop_map(|(from, to)| Edit::Rename { from, to }),
    ];
    prop::collection::vec(edit, 1..14)
}

fn apply(tree: &Path, edit: &Edit) {
    let path = |place: u8| tree.join(format!("d{}/e{}/f{}", place % 3, place % 2, place));
    let there = |place: u8| path(place).symlink_metadata().is_ok();
    let parent = |place: u8| fs::create_dir_all(path(place).parent().unwrap()).unwrap();
    match *edit {
        Edit::Write { place, seed, length } => {
            parent(place);
            let _ = fs::remove_file(path(place));
            let mut bytes = noise(u64::from(seed), length as usize);
            // Some blocks of zeros.
            if seed.is_multiple_of(3) {
                bytes.iter_mut().skip(100_000).take(200_000).for_each(|byte| *byte = 0);
            }
            fs::write(path(place), bytes).unwrap();
        }
        Edit::Remove { place } => drop(fs::remove_file(path(place))),
        Edit::Link { from, to } if there(from) && !there(to) => {
            parent(to);
            fs::hard_link(path(from), path(to)).unwrap();
        }
        Edit::Symlink { place } if !there(place) => {
            parent(place);
            std::os::unix::fs::symlink("../somewhere", path(place)).unwrap();
        }
        Edit::Rename { from, to } if there(from) => {
            parent(to);
            fs::rename(path(from), path(to)).unwrap();
        }
        Edit::Mode { place, mode } if path(place).is_file() => chmod(&path(place), u32::from(mode) & 0o7777),
        Edit::Own { place, uid } if there(place) => own(&path(place), uid.into(), 5),
        Edit::Time { place, seconds } if there(place) => set_time(&path(place), seconds.into(), 7),
        Edit::Attribute { place, value } if there(place) => xattr(&path(place), "trusted.test", &[value]),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_history_of_layers_comes_back_whatever_is_deleted(rounds in prop::collection::vec((edits(), any::<bool>(), any::<u8>()), 1..6)) {
        let home = Home::with(|options| options.pack_bytes = 32 << 10);
        let tree = tempfile::tempdir().unwrap();
        let mut model: BTreeMap<SnapshotRef, (RootHash, BTreeMap<Vec<u8>, String>)> = BTreeMap::new();
        let mut parent = None;
        for (n, (edits, with_parent, delete)) in rounds.iter().enumerate() {
            edits.iter().for_each(|edit| apply(tree.path(), edit));
            let name = snapshot(1, n as u128 + 1);
            let persisted = home.vault.persist(&PersistJob {
                parent: parent.filter(|_| *with_parent),
                captured_after: Timestamp::now() + SignedDuration::from_secs(1),
                ..job(tree.path(), name)
            }).unwrap();
            model.insert(name, (persisted.root, described(tree.path())));
            parent = Some(name);
            if *delete < 80 && model.len() > 1 {
                let victim = *model.keys().nth(usize::from(*delete) % (model.len() - 1)).unwrap();
                model.remove(&victim);
                home.vault.delete(victim).unwrap();
                home.vault.collect(&CollectOptions::default()).unwrap();
            }
        }
        prop_assert_eq!(home.vault.list(org(1)).unwrap(), model.keys().copied().collect::<Vec<_>>());
        let server = home.another();
        for (name, (root, want)) in &model {
            let restored = crate::support::restore(&server, home.folder.path(), *name);
            prop_assert_eq!(&described(&restored), want);
            prop_assert_eq!(server.verify(*name, None, &Progress::default()).unwrap().root, *root);
            // The root says what the tree is, whoever computes it from whatever copy.
            let again = server.persist(&job(&restored, SnapshotRef { org: org(2), ..*name })).unwrap();
            prop_assert_eq!(again.root, *root);
        }
        let roots: BTreeSet<_> = model.values().map(|(root, _)| *root).collect();
        let trees: BTreeSet<_> = model.values().map(|(_, tree)| format!("{tree:?}")).collect();
        prop_assert_eq!(roots.len(), trees.len());
        let usage = home.vault.usage(org(1)).unwrap();
        let bytes = home.vault.stats(Some(org(1))).unwrap().pack_bytes;
        prop_assert!(usage.values().map(|usage| usage.unique_bytes).sum::<u64>() <= bytes);
        prop_assert!(usage.values().all(|usage| usage.unique_bytes <= usage.total_bytes && usage.total_bytes <= bytes));
        prop_assert_eq!(home.vault.check(100, &Progress::default()).unwrap().problems, []);
    }
}
