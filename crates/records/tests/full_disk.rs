//! A full disk: refused without any effect, and everything works again when there is room. Needs root for a mount.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod samples;
}

use forkpoint_domain::sandbox::Sandbox;
use forkpoint_engine::ports::records::{Records, RecordsError, SandboxFilter};
use forkpoint_records::Database;
use futures::future::join_all;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{fs, path::Path};
use support::samples::{at, insert, new_org, running_sandbox};
use tempfile::TempDir;

/// A small file system in memory; unmounted with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room but `left` bytes with one file, and gives that file's path.
    fn fill(&self, left: u64) -> std::path::PathBuf {
        let stat = nix::sys::statvfs::statvfs(self.path()).unwrap();
        let free = stat.blocks_available() * stat.fragment_size();
        let path = self.path().join("filler");
        fs::write(&path, vec![0; usize::try_from(free.saturating_sub(left)).unwrap()]).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}

fn large(sandbox: Sandbox) -> Sandbox {
    Sandbox { metadata: [("note".to_owned(), "x".repeat(8000))].into(), ..sandbox }
}

#[tokio::test]
async fn a_full_disk_refuses_without_effect_and_works_again_with_room() {
    let disk = SmallDisk::new("4m");
    let database = Database::open(disk.path().join("forkpoint.db").to_str().unwrap()).await.unwrap();
    let org = new_org(&database).await;
    let filler = disk.fill(300 * 1024);
    let mut kept = Vec::new();
    let refused = loop {
        let sandbox = large(running_sandbox(org, at(kept.len() as i64)));
        match database.commit(vec![insert(&sandbox)]).await {
            Ok(()) => kept.push(sandbox),
            Err(refusal) => {
                assert!(matches!(&refusal, RecordsError::Unavailable(why) if why.contains("full")), "{refusal}");
                break sandbox;
            }
        }
        assert!(kept.len() < 1000, "the disk never became full");
    };
    kept.reverse();
    let all = || SandboxFilter { org: Some(org), ..Default::default() };
    assert_eq!(database.sandboxes(all()).await.unwrap(), kept, "what was accepted is there, what was refused is not");

    fs::remove_file(filler).unwrap();
    database.commit(vec![insert(&refused)]).await.unwrap();
    kept.insert(0, refused);
    database.close().await;
    let reopened = Database::open(disk.path().join("forkpoint.db").to_str().unwrap()).await.unwrap();
    assert_eq!(reopened.sandboxes(all()).await.unwrap(), kept);
    reopened.close().await;
}

#[tokio::test]
async fn one_that_is_too_large_for_the_disk_does_not_fail_those_beside_it() {
    let disk = SmallDisk::new("8m");
    let database = Database::open(disk.path().join("forkpoint.db").to_str().unwrap()).await.unwrap();
    let org = new_org(&database).await;
    disk.fill(1536 * 1024);
    let giant: Vec<_> = (0..400).map(|n| large(running_sandbox(org, at(n)))).collect();
    let small: Vec<_> = (0..5).map(|n| running_sandbox(org, at(1000 + n))).collect();
    let mut commits = vec![database.commit(giant.iter().map(insert).collect())];
    commits.extend(small.iter().map(|sandbox| database.commit(vec![insert(sandbox)])));
    let outcomes = join_all(commits).await;
    assert!(matches!(&outcomes[0], Err(RecordsError::Unavailable(_))), "{:?}", outcomes[0]);
    assert!(outcomes[1..].iter().all(Result::is_ok), "{:?}", &outcomes[1..]);
    assert_eq!(database.sandboxes(SandboxFilter::default()).await.unwrap().len(), small.len());
    database.close().await;
}
