//! Times the vault on a local store, and restic on the same files in the same run where it is installed.
//!
//! `cargo run --release -p forkpoint-vault --example vault_bench -- [FOLDER] [MEBIBYTES] [alone]`: works in a new directory
//! below FOLDER (the current directory if none is given), which is removed at the end.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use forkpoint_domain::ids::{CheckpointId, OrgId, SandboxId};
use forkpoint_vault::{Header, MasterKey, PersistJob, Progress, SnapshotRef, Vault, VaultOptions};
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const SMALL_FILES: u64 = 10_000;
const BIG_FILES: u64 = 8;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or(PathBuf::from("."), PathBuf::from);
    let mebibytes: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    let home = tempfile::Builder::new().prefix("vault-bench-").tempdir_in(folder).unwrap();
    let tree = home.path().join("tree");
    let bytes = make_tree(&tree, mebibytes << 20);
    settle();
    println!(
        "{:<46}{:>9}{:>9}{:>13}",
        format!("{} MiB, {SMALL_FILES} small files, {BIG_FILES} big", bytes >> 20),
        "seconds",
        "cpu",
        "bytes sent"
    );

    let mut options = VaultOptions::new(home.path().join("store").to_str().unwrap());
    options.cache = Some(home.path().join("cache"));
    let vault = Vault::open(&options, &MasterKey::open_or_create(&home.path().join("key")).unwrap()).unwrap();
    let first = timed("vault: persist until durable", || persist(&vault, &tree, 1, None));
    let verified = timed("vault: verify", || {
        vault.verify(name(1), None, &Progress::default()).unwrap();
        0
    });
    println!("{:<46}{:>9.3}", "vault: persist until verified", (first + verified).as_secs_f64());
    timed("vault: persist unchanged", || persist(&vault, &tree, 2, Some(1)));
    let changed = change(&tree);
    println!("  (1 % of files: {changed} bytes changed)");
    timed("vault: persist 1 % changed", || persist(&vault, &tree, 3, Some(2)));
    timed("vault: verify 1 % changed, trusting the rest", || {
        vault.verify(name(3), Some(name(2)), &Progress::default()).unwrap();
        0
    });
    settle();
    let restored = timed("vault: materialize", || {
        let into = home.path().join("restored");
        fs::create_dir(&into).unwrap();
        vault.materialize(name(3), &into, &Progress::default()).unwrap();
        0
    });
    println!("  (peak memory {} MiB, stored {} MiB)", peak_kib() >> 10, vault.stats(None).unwrap().bytes >> 20);
    assert_eq!(
        run("diff", &["-r", path(&tree), path(&home.path().join("restored"))]),
        Some(true),
        "restored tree differs"
    );
    many_unchanged(&vault, home.path());

    if arguments.next().is_some_and(|word| word == "alone") {
        return;
    }
    if run("restic", &["version"]).is_none() {
        println!("restic is not installed: no comparison");
        return;
    }
    settle();
    let again = home.path().join("tree2");
    make_tree(&again, mebibytes << 20);
    let repository = home.path().join("restic");
    restic(&repository, &["init"]);
    settle();
    let backup = timed("restic: backup", || {
        restic(&repository, &["backup", path(&again)]);
        0
    });
    timed("restic: backup unchanged", || {
        restic(&repository, &["backup", path(&again)]);
        0
    });
    change(&again);
    timed("restic: backup 1 % changed", || {
        restic(&repository, &["backup", path(&again)]);
        0
    });
    settle();
    let restore = timed("restic: restore", || {
        restic(&repository, &["restore", "latest", "--target", path(&home.path().join("restic-restored"))]);
        0
    });
    let ratio = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "times faster than restic: durable {:.2}, verified {:.2}, restore {:.2}",
        ratio(first, backup),
        ratio(first + verified, backup),
        ratio(restored, restore)
    );
}

fn name(n: u128) -> SnapshotRef {
    SnapshotRef {
        org: OrgId::from_uuid(uuid::Uuid::from_u128(1)),
        checkpoint: CheckpointId::from_uuid(uuid::Uuid::from_u128(n)),
    }
}

fn persist(vault: &Vault, tree: &Path, n: u128, parent: Option<u128>) -> u64 {
    let name = name(n);
    let header = Header {
        org: name.org,
        checkpoint: name.checkpoint,
        sandbox: SandboxId::from_uuid(uuid::Uuid::from_u128(1)),
        parent: None,
        template_name: "default".into(),
        template_digest: String::new(),
        scope: serde_json::Value::Null,
        metadata: serde_json::Value::Null,
        env: None,
        created_at: Timestamp::now(),
    };
    let job = PersistJob {
        tree: tree.into(),
        header,
        parent: parent.map(self::name),
        // Nothing changes these files but this program.
        captured_after: Timestamp::now() + SignedDuration::from_secs(5),
        images: Vec::new(),
        progress: Arc::default(),
    };
    vault.persist(&job).unwrap().bytes_sent
}

/// A layer of 50,000 small files, stored twice: the second time nothing is to be read or sent.
fn many_unchanged(vault: &Vault, home: &Path) {
    let tree = home.join("many");
    for n in 0..50_000 {
        let folder = tree.join(format!("d{}", n / 100));
        if n % 100 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("f{n}")), n.to_string()).unwrap();
    }
    persist(vault, &tree, 10, None);
    settle();
    timed("vault: persist 50,000 unchanged files", || persist(vault, &tree, 11, Some(10)));
    fs::remove_dir_all(tree).unwrap();
}

fn make_tree(tree: &Path, bytes: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(rand::random());
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for n in 0..SMALL_FILES {
        let folder = tree.join(format!("small/d{}", n / 100));
        if n % 100 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        let length = rng.random_range(0..40_000);
        rng.fill_bytes(&mut buffer[..length]);
        fs::write(folder.join(format!("f{n}")), &buffer[..length]).unwrap();
        total += length as u64;
    }
    fs::create_dir_all(tree.join("big")).unwrap();
    let each = bytes.saturating_sub(total) / BIG_FILES;
    for n in 0..BIG_FILES {
        let mut file = fs::File::create(tree.join(format!("big/b{n}"))).unwrap();
        let mut left = each;
        while left > 0 {
            let length = left.min(1 << 20) as usize;
            rng.fill_bytes(&mut buffer[..length]);
            std::io::Write::write_all(&mut file, &buffer[..length]).unwrap();
            left -= length as u64;
        }
        total += each;
    }
    total
}

/// Writes one small file in a hundred anew; says how many bytes that were.
fn change(tree: &Path) -> u64 {
    let mut rng = StdRng::seed_from_u64(rand::random());
    let mut total = 0;
    for n in (0..SMALL_FILES).step_by(100) {
        let mut bytes = vec![0; rng.random_range(0..40_000)];
        rng.fill_bytes(&mut bytes);
        fs::write(tree.join(format!("small/d{}/f{n}", n / 100)), &bytes).unwrap();
        total += bytes.len() as u64;
    }
    total
}

/// What was written before is not to be paid for in the next measurement.
fn settle() {
    rustix::fs::sync();
}

fn timed(what: &str, work: impl FnOnce() -> u64) -> Duration {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let sent = work();
    let took = began.elapsed();
    line(what, took, cpu_seconds() - cpu, (sent > 0 || what.contains("persist")).then_some(sent));
    took
}

/// Processor time of this process and of its children that have ended.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(") ").next().unwrap();
    // Fields 14 to 17 of the line, in hundredths of a second.
    after_name.split(' ').skip(11).take(4).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn line(what: &str, took: Duration, cpu: f64, sent: Option<u64>) {
    println!(
        "{what:<46}{:>9.3}{cpu:>9.2}{:>13}",
        took.as_secs_f64(),
        sent.map_or(String::new(), |sent| sent.to_string())
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn restic(repository: &Path, arguments: &[&str]) {
    let status = Command::new("restic")
        .args(["--quiet", "--cache-dir", path(&repository.with_extension("cache")), "--repo", path(repository)])
        .args(arguments)
        .env("RESTIC_PASSWORD", "bench")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "restic {arguments:?}");
}

/// Whether a program said yes; `None`: there is no such program.
fn run(program: &str, arguments: &[&str]) -> Option<bool> {
    Command::new(program).args(arguments).stdout(Stdio::null()).status().ok().map(|status| status.success())
}

/// The most memory this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
