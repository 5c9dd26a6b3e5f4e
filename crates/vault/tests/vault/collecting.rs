//! Collection against a model: whatever is stored, deleted, collected, cut short and damaged in whatever order by
//! whichever server, what was not deleted comes back, and in the end nothing is left.

use crate::support::{Home, described, job, noise, objects, org, snapshot};
use forkpoint_vault::{CollectOptions, Progress, SnapshotRef, Vault};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path};

#[derive(Debug, Clone)]
enum Step {
    /// Stores the files whose bits are set, under one of a few names, by one of two servers.
    Store {
        server: usize,
        name: u8,
        files: u16,
    },
    Delete {
        server: usize,
        name: u8,
    },
    Collect {
        server: usize,
    },
    Preview {
        server: usize,
    },
    /// A writer of another machine died and left its lease.
    LeaveLease,
    /// Its lease is old now.
    AgeLeases,
    /// A server starts anew and knows nothing.
    Restart {
        server: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let server = 0..2usize;
    let step = prop_oneof![
        5 => (server.clone(), 0..5u8, any::<u16>()).prop_map(|(server, name, files)| Step::Store { server, name, files }),
        3 => (server.clone(), 0..5u8).prop_map(|(server, name)| Step::Delete { server, name }),
        3 => server.clone().prop_map(|server| Step::Collect { server }),
        1 => server.clone().prop_map(|server| Step::Preview { server }),
        1 => Just(Step::LeaveLease),
        1 => Just(Step::AgeLeases),
        1 => server.prop_map(|server| Step::Restart { server }),
    ];
    prop::collection::vec(step, 4..24)
}

/// File n has always the same content; some are large, most go into bundles.
fn make(tree: &Path, files: u16) {
    for n in (0..16).filter(|n| files & (1 << n) != 0) {
        fs::write(tree.join(format!("f{n}")), noise(n, if n % 5 == 0 { 150_000 } else { 3000 })).unwrap();
    }
}

fn leave_lease(home: &Home) {
    let org = home.folder.path().join("store/orgs").join(org(1).to_string());
    if !org.join("key").exists() {
        // Writers make the key first: an organisation that has more than that without it was destroyed.
        return;
    }
    let folder = org.join("leases");
    fs::create_dir_all(&folder).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    fs::write(folder.join(format!("{now:013}-{:016x}", rand::random::<u64>())), "writing").unwrap();
}

fn age_leases(home: &Home) {
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 3600);
    for lease in objects(home.folder.path(), "leases") {
        fs::File::options().write(true).open(lease).unwrap().set_modified(old).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_is_not_deleted_stays_and_what_is_deleted_goes(steps in steps()) {
        let home = Home::with(|options| options.pack_bytes = 64 << 10);
        let mut servers: Vec<Vault> = vec![home.vault.clone(), home.another()];
        let mut model: BTreeMap<SnapshotRef, u16> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Store { server, name, files } => {
                    let tree = tempfile::tempdir().unwrap();
                    make(tree.path(), files);
                    let name = snapshot(1, u128::from(name) + 1);
                    servers[server].persist(&job(tree.path(), name)).unwrap();
                    model.insert(name, files);
                }
                Step::Delete { server, name } => {
                    let name = snapshot(1, u128::from(name) + 1);
                    servers[server].delete(name).unwrap();
                    model.remove(&name);
                }
                Step::Collect { server } => {
                    let done = servers[server].collect(&CollectOptions::default()).unwrap();
                    prop_assert!(done.skipped.is_empty(), "{:?}", done);
                }
                Step::Preview { server } => {
                    let before = objects(home.folder.path(), "orgs");
                    servers[server].collect(&CollectOptions { dry_run: true, ..CollectOptions::default() }).unwrap();
                    prop_assert_eq!(objects(home.folder.path(), "orgs"), before);
                }
                Step::LeaveLease => leave_lease(&home),
                Step::AgeLeases => age_leases(&home),
                Step::Restart { server } => servers[server] = home.another(),
            }
        }
        let other = home.another();
        prop_assert_eq!(other.list(org(1)).unwrap(), model.keys().copied().collect::<Vec<_>>());
        for (name, files) in &model {
            let (restored, tree) = (crate::support::restore(&other, home.folder.path(), *name), tempfile::tempdir().unwrap());
            make(tree.path(), *files);
            let contents = |root: &Path| -> Vec<(Vec<u8>, String)> {
                let all = described(root).into_iter().filter(|(path, _)| !path.is_empty());
                all.map(|(path, text)| (path, text.split(" mode").next().unwrap().to_owned())).collect()
            };
            prop_assert_eq!(contents(&restored), contents(tree.path()));
        }
        prop_assert_eq!(other.check(100, &Progress::default()).unwrap().problems, []);
        for name in model.keys() {
            other.delete(*name).unwrap();
        }
        age_leases(&home);
        other.collect(&CollectOptions::default()).unwrap();
        let left: Vec<String> = objects(home.folder.path(), "orgs")
            .into_iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        prop_assert!(left.iter().all(|name| name == "key"), "{:?}", left);
    }
}
