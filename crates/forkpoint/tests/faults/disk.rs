//! The host's disk is full: sandboxes meet an ordinary "no space left", and everything works again when there is room.

use crate::{host, support::Server, world::SETTLED};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A file system of its own for a data directory, in a file.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("fp-disk-").tempdir().unwrap();
        let disk = Self { folder };
        File::create(disk.file()).unwrap().set_len(bytes).unwrap();
        fs::create_dir(disk.path()).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1"], &[&disk.file()]);
        run("mount", &["-o", "loop"], &[&disk.file(), &disk.path()]);
        disk
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[track_caller]
fn run(program: &str, flags: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(flags).args(paths).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the layers' file system can be written.
fn is_writable(data_dir: &Path) -> bool {
    let layers = data_dir.join("layers");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(1) == layers.to_str()).unwrap().to_owned();
    mount.split(' ').nth(3).unwrap().split(',').any(|option| option == "rw")
}

const FILL: &str = "dd if=/dev/zero of=/workspace/fill bs=1M 2>&1; sync -f /workspace/fill; ls -l /workspace/fill >&2";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_disk_is_no_space_left_inside_and_passes() {
    let disk = SmallDisk::new(1900 << 20);
    let settings = [
        ("host_reserve_bytes", (64_u64 << 20).to_string()),
        ("max_checkpoint_bytes", (1_u64 << 20).to_string()),
        ("layer_driver", "btrfs".into()),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut server = Server::start_in(&disk.path(), &settings).await;
    let neighbour = server.sandbox().await;
    server.sh(&neighbour, "echo one > f").await;
    let checkpoint = server.checkpoint(&neighbour, json!({ "name": "one" })).await;
    let spare = server.checkpoint(&neighbour, json!({ "name": "spare" })).await;
    let hog = server.sandbox().await;

    // The sandbox fills all that layers can have.
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let filled = server.exec_with(&hog, json!({ "command": FILL, "timeout": 100_000 })).await.ok();
        assert!(filled["stdout"].as_str().unwrap().contains("No space left on device"), "{filled}");
        // The image grows behind until it meets the reserve.
        let answer = server.post("/sandbox/create", json!({})).await;
        if answer.status.as_u16() == 507 {
            let error = answer.refused(507, "out_of_space");
            let message = error["message"].as_str().unwrap().to_owned();
            assert!(message.contains("bytes of disk space left for sandboxes"), "{message}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        server.delete(&format!("/sandbox/{}", answer.ok()["id"].as_str().unwrap())).await.ok();
    }
    assert!(is_writable(&server.data_dir()), "the layers' file system went read-only");
    host::nothing_leaks(&server, SETTLED).await;
    server.post(&format!("/sandbox/{neighbour}/fork"), json!({ "count": 1 })).await.refused(507, "out_of_space");

    // Looking, running, deleting, and checkpoints of what is there still work.
    assert_eq!(server.sh(&neighbour, "cat f").await, "one\n");
    let full = server.post(&format!("/sandbox/{neighbour}/checkpoints"), json!({ "name": "full" })).await;
    assert!([201, 507].contains(&full.status.as_u16()), "{full:?}");
    eprintln!("a checkpoint on the full disk: {}", full.status);
    server.delete(&format!("/checkpoints/{spare}")).await.ok();
    assert_eq!(server.sh(&neighbour, "cat f; pwd").await, "one\n/workspace\n");
    host::nothing_leaks(&server, SETTLED).await;

    // Not even the reserve is left: rows cannot be written either, if they are on this disk.
    let reserve = fill_reserve(&server.data_dir());
    let late = server.post("/register", json!({ "email": "a@example.com", "organization_name": "Late" })).await;
    assert_eq!(late.status.is_success(), server.database_url().is_some(), "{late:?}");
    assert!(late.status.is_success() || late.status.as_u16() >= 500, "{late:?}");
    assert_eq!(server.sh(&neighbour, "cat f").await, "one\n");
    server.get(&format!("/sandbox/{hog}")).await.ok();
    // A server that is killed now comes back as well.
    fs::remove_file(reserve).unwrap();
    server.kill();
    server.launch().await;
    assert!(is_writable(&server.data_dir()));

    // Room again: everything works again.
    server.delete(&format!("/sandbox/{hog}")).await.ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    let fresh = loop {
        let answer = server.post("/sandbox/create", json!({})).await;
        if answer.status.is_success() {
            break answer.ok()["id"].as_str().unwrap().to_owned();
        }
        assert!(answer.status.as_u16() == 507 && Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    server.sh(&fresh, "dd if=/dev/zero of=/workspace/room bs=1M count=200 2>&1 && sync -f /workspace/room").await;
    server.restore(&fresh, &checkpoint).await;
    assert_eq!(server.sh(&fresh, "cat f").await, "one\n");
    host::nothing_leaks(&server, SETTLED).await;
    drop(server);
}

/// Takes all that is left of the disk; gives the file that does.
fn fill_reserve(data_dir: &Path) -> PathBuf {
    let path = data_dir.parent().unwrap().join("reserve");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096] {
        let block = vec![1_u8; size];
        while file.write_all(&block).is_ok() {}
        let _ = file.sync_data();
    }
    path
}
