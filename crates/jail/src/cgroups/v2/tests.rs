//! What works without controllers is tried on a real hierarchy, since on a hybrid host version 2 has none.

use std::process::{Child, Command};
use std::time::Duration;

use super::super::mounts;
use super::*;

#[test]
fn limits_become_settings() {
    let limits = Limits { memory_bytes: 1 << 30, cpu_millis: 1500, pids: 64 };
    let expected = [
        ("memory.max", "1073741824".to_owned()),
        ("cpu.max", "150000 100000".to_owned()),
        ("pids.max", "64".to_owned()),
    ];
    assert_eq!(settings(&limits), expected);
}

/// A group in the mounted version 2 hierarchy with one sleeping process; removed at the end of the test.
struct Sleeping {
    group: Group,
    child: Child,
}

impl Sleeping {
    fn start(name: &str) -> Self {
        let mounted = mounts::read().unwrap();
        let root = mounted.iter().find(|mount| mount.controllers.is_none()).expect("version 2 is mounted");
        let group = Hierarchy::new(&root.point).group(&format!("test{:08x}/{name}", std::process::id()));
        group.make().unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        files::write(&group.directory().join("cgroup.procs"), &child.id().to_string()).unwrap();
        Self { group, child }
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.group.thaw();
        let _ = self.group.remove(Instant::now() + Duration::from_secs(5));
        let directory = self.group.directory();
        for parent in directory.ancestors().skip(1).take(2) {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

#[test]
fn a_group_freezes_thaws_and_is_killed_while_frozen() {
    let mut sleeping = Sleeping::start("frozen");
    let soon = || Instant::now() + Duration::from_secs(5);
    assert_eq!(sleeping.group.pids().unwrap(), [sleeping.child.id()]);
    assert!(sleeping.group.freeze(soon()).unwrap());
    sleeping.group.thaw().unwrap();
    assert!(sleeping.group.freeze(soon()).unwrap());
    sleeping.group.kill_all(soon()).unwrap();
    sleeping.child.wait().unwrap();
    assert_eq!(sleeping.group.pids().unwrap(), [0; 0]);
    sleeping.group.remove(soon()).unwrap();
    assert!(!sleeping.group.directory().exists());
    sleeping.group.kill_all(soon()).unwrap();
    sleeping.group.remove(soon()).unwrap();
}

#[test]
fn a_group_with_a_process_in_it_is_not_removed() {
    let sleeping = Sleeping::start("busy");
    let error = sleeping.group.remove(Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(error.to_string().starts_with("remove /"), "{error}");
    assert!(sleeping.group.directory().exists());
}
