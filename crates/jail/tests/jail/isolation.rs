//! What the sandbox sees and what it is refused.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use forkpoint_jail::{IdentityFile, process};

use crate::sandbox::{Bed, UID_BASE};

/// The facts of one sandbox, by name.
struct Facts(Bed);

impl Facts {
    fn collect() -> Self {
        Self::of(Bed::new())
    }

    fn of(mut bed: Bed) -> Self {
        bed.complete(&["facts"]);
        assert_eq!(bed.read("facts/done"), "");
        Self(bed)
    }

    fn get(&self, name: &str) -> String {
        self.0.read(&format!("facts/{name}")).trim_end().to_owned()
    }

    fn status(&self, field: &str) -> String {
        let status = self.get("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
    }
}

#[test]
fn the_agent_is_the_first_process_and_root_of_its_own_ids() {
    let facts = Facts::collect();
    assert_eq!(facts.get("pid"), "1");
    assert_eq!(facts.status("NSpid"), "1");
    assert_eq!(facts.status("Uid"), "0\t0\t0\t0");
    assert_eq!(facts.status("Gid"), "0\t0\t0\t0");
    assert_eq!(facts.status("Groups"), "");
    let map = format!("0 {UID_BASE} 65536");
    for file in ["uid_map", "gid_map"] {
        assert_eq!(facts.get(file).split_whitespace().collect::<Vec<_>>().join(" "), map);
    }
    assert_eq!(facts.get("setgroups"), "allow");
    // Field 6 of stat is the session: its own.
    assert_eq!(facts.get("stat").split(' ').nth(5), Some("1"));
}

#[test]
fn rights_are_reduced_to_the_listed_capabilities() {
    let facts = Facts::collect();
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, SETPCAP 8, NET_BIND_SERVICE 10,
    // SYS_CHROOT 18, SETFCAP 31
    let kept = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31].iter().fold(0_u64, |all, number| all | 1 << number);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&facts.status(set), 16), Ok(kept), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&facts.status(set), 16), Ok(0), "{set}");
    }
    assert_eq!(facts.status("NoNewPrivs"), "1");
    assert_eq!(facts.status("Seccomp"), "2");
    assert_eq!(facts.status("Seccomp_filters"), "1");
}

#[test]
fn nothing_of_the_starting_process_is_handed_down() {
    let facts = Facts::collect();
    let descriptors = facts.get("descriptors");
    let shown: Vec<&str> = descriptors.lines().collect();
    let expected = ["0=/dev/null", "1=/dev/null", "2=/dev/null", "3=/memfd:config (deleted)"];
    assert_eq!(shown[..4], expected, "{descriptors}");
    assert!(shown[4].starts_with("4=pipe:["), "{descriptors}");
    assert_eq!(shown.len(), 5, "{descriptors}");
    assert_eq!(facts.get("environment"), "");
    assert_eq!(facts.get("arguments"), "forkpoint-agent");
    assert_eq!(facts.get("cwd"), "/");
    assert_eq!(facts.status("Umask"), "0022");
    // The probe's own start ignores broken pipes, number 13.
    assert_eq!(facts.status("SigIgn"), "0000000000001000");
    assert_eq!(facts.status("SigBlk"), "0000000000000000");
    assert!(!facts.get("oom_score_adj").starts_with('-'));
    let limits = facts.get("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["1", "1"]);
    let files: u64 = limit("Max open files")[0].parse().unwrap();
    assert!((1024..=65_536).contains(&files), "{files}");
}

#[test]
fn the_host_cannot_be_read_from_mounts_and_paths() {
    let facts = Facts::collect();
    let own = facts.0.directory.path().to_str().unwrap().to_owned();
    let checkout = env!("CARGO_MANIFEST_DIR");
    for name in ["mountinfo", "mounts", "maps", "exe", "descriptors", "cgroup"] {
        let content = facts.get(name);
        for of_host in [own.as_str(), checkout, "target", "/tmp", "/home", "/layers", "forkpoint/", "ext4", "btrfs"] {
            assert!(!content.contains(of_host), "{of_host} in {name}:\n{content}");
        }
    }
    assert_eq!(facts.get("exe"), "/jail-probe");
    assert_eq!(facts.get("list-"), "dev etc facts lib lib64 proc root run sys tmp");
    assert_eq!(facts.get("list-sys-kernel"), "");
    assert_eq!(facts.get("list-sys-fs"), "");
    assert!(facts.get("cgroup").lines().all(|line| line.ends_with(":/")), "{}", facts.get("cgroup"));
    assert_eq!(facts.get("cmdline"), "");
}

#[test]
fn every_mount_is_nosuid_and_all_but_the_devices_are_nodev() {
    let facts = Facts::collect();
    let mountinfo = facts.get("mountinfo");
    let mounts: Vec<(&str, Vec<&str>, &str)> = mountinfo
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let kind = line.split_once(" - ").unwrap().1.split(' ').next().unwrap();
            (fields[4], fields[5].split(',').collect(), kind)
        })
        .collect();
    for (point, options, _) in &mounts {
        assert!(options.contains(&"nosuid"), "{point}: {options:?}");
        let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts"];
        assert_eq!(options.contains(&"nodev"), !devices.contains(point), "{point}: {options:?}");
    }
    let kinds = [("/", "overlay"), ("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs"), ("/dev/pts", "devpts")];
    for (point, kind) in kinds.into_iter().chain([("/dev/shm", "tmpfs"), ("/run", "tmpfs")]) {
        let found: Vec<_> = mounts.iter().filter(|(at, ..)| *at == point).map(|(.., kind)| *kind).collect();
        assert_eq!(found, [kind], "{point}");
    }
    let read_only = ["/sys", "/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/sys/kernel", "/proc/kcore"];
    // Not every kernel has all of them; the host's own tree tells.
    for point in read_only.into_iter().filter(|point| Path::new(point).exists()) {
        let (_, options, _) = mounts.iter().find(|(at, ..)| *at == point).unwrap_or_else(|| panic!("{point}"));
        assert!(options.contains(&"ro"), "{point}: {options:?}");
    }
    assert_eq!(facts.get("list-dev"), "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero");
}

#[test]
fn what_would_change_the_host_or_its_own_walls_is_refused() {
    let mut bed = Bed::new();
    bed.complete(&["attempts"]);
    let attempts = bed.read("tmp/attempts");
    let results: Vec<(&str, i32)> = attempts
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, n)| (name, n.parse().unwrap()))
        .collect();
    assert!(results.len() > 40, "{attempts}");
    for (name, result) in results {
        let expected: &[i32] = match name {
            "clone3" => &[libc::ENOSYS],
            "vsock" => &[libc::EAFNOSUPPORT],
            "mknod fifo" | "write null" | "open terminal" | "chroot" => &[0],
            _ if name.starts_with("bytes of ") => &[0],
            _ if name.starts_with('/') => &[libc::EROFS, libc::EACCES, libc::ENOENT],
            _ => &[libc::EPERM],
        };
        assert!(expected.contains(&result), "{name}: {result}, expected {expected:?}");
    }
}

#[test]
fn owners_on_disk_are_those_seen_inside_and_shifted_for_the_host() {
    let mut bed = Bed::new();
    let launched = bed.launch(&["sleep"]).unwrap();
    let of_process = fs::metadata(format!("/proc/{}", launched.pid)).unwrap();
    assert_eq!((of_process.uid(), of_process.gid()), (UID_BASE, UID_BASE));
    assert_eq!(process::start_time(launched.pid).unwrap(), launched.start_time);
    bed.group.kill_all().unwrap();

    let facts = Facts::of(bed);
    let owner = |path: &str| {
        let metadata = fs::symlink_metadata(facts.0.upper(path)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("owned"), (1000, 100));
    assert_eq!(owner("facts/pid"), (0, 0));
}

#[test]
fn fresh_files_and_mounts_leave_no_trace_in_the_layer() {
    let mut bed = Bed::new();
    for path in ["/etc/hosts", "/etc/missing", "/run/elsewhere", "/etc"] {
        bed.spec.identity.push(IdentityFile { path: path.into(), content: b"fresh".to_vec() });
    }
    let facts = Facts::of(bed);
    assert_eq!(facts.get("hosts"), "fresh");
    assert_eq!(facts.get("hostname"), "test-box");
    let mut names: Vec<_> = fs::read_dir(facts.0.upper(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["facts", "owned"]);
    assert_eq!(fs::read_to_string(facts.0.template("etc/hosts")).unwrap(), "of the template\n");
}
