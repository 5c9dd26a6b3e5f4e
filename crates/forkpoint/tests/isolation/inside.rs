//! What code inside may not do, and what it may not learn.

use crate::kit::{USERS, Wrong, first_process, put, said};
use crate::support::Server;
use std::collections::BTreeMap;
use std::path::Path;

const DEV: &str = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";

/// The answers that are right. Everything else is a way out, or a probe that does not probe.
fn expected(name: &str, user: &str) -> &'static [&'static str] {
    let root = user == "root";
    match name {
        "clone3" | "statmount" | "listmount" | "memfd_secret" | "modify_ldt" | "io_setup" => &["ENOSYS"],
        "a call nobody knows" | "calls of the x32 interface" => &["ENOSYS"],
        "calls of the 32-bit interface" => &["signal 31"],
        "core files" => &["(1, 1)"],
        "ids outside of the own range" => &["refused"],
        "owners outside of the own range" => &["EINVAL"],
        "a better priority" | "protection from the memory killer" => &["EACCES", "EPERM"],
        "kill process 1" => &["alive"],
        // Root inside may chroot, but what it breaks out of is its own cage.
        "escape from a chroot" if root => &["own root"],
        "list /dev" => &[DEV],
        // Names of descriptors, which it may not follow; and its own agent may be killed first, for it is its own.
        "list /proc/1/fd" | "write /proc/1/oom_score_adj" if root => &["EACCES", "ok"],
        "read /proc/kcore"
        | "read /proc/keys"
        | "read /proc/key-users"
        | "read /proc/kallsyms"
        | "read /proc/interrupts"
        | "read /proc/timer_list"
        | "read /proc/sched_debug"
        | "read /proc/cmdline" => &["0 bytes", "ENOENT"],
        _ if name.starts_with("the agent's port") => &["EADDRINUSE"],
        _ if name.starts_with("open /dev/") => &["ENOENT"],
        _ if name.contains("/proc/1/") => &["EACCES", "EPERM"],
        _ if name.starts_with("write /") || name.starts_with("make a file") => &["EACCES", "EPERM", "EROFS", "ENOENT"],
        _ if name.starts_with("read /") => &["EACCES", "EPERM", "ENOENT"],
        _ if name.starts_with("socket raw") || name.starts_with("socket packet raw") => &["EPERM"],
        "socket packet datagram" | "socket pair of packets" => &["EPERM"],
        _ if name.starts_with("socket ") => &["EAFNOSUPPORT", "EPROTONOSUPPORT"],
        _ => &["EPERM"],
    }
}

/// Settings of the host that the probes try to change.
fn host_settings() -> BTreeMap<&'static str, String> {
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/mmap_min_addr",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/fs/file-max",
        "/proc/swaps",
        "/proc/sys/fs/mqueue/queues_max",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sys/net/core/somaxconn",
        "/proc/irq/default_smp_affinity",
    ]
    .into_iter()
    .map(|path| (path, std::fs::read_to_string(path).unwrap_or_default()))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_probes_are_refused_to_user_and_root() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    put(&server, &sandbox, "/workspace/probe.py", include_str!("probe.py")).await;
    let before = host_settings();
    let mut wrong = Wrong::default();
    for user in USERS {
        let told = said(&server, &sandbox, user, "exec(open('/workspace/probe.py').read())", &[]).await;
        let answers: Vec<(&str, &str)> = told.lines().filter_map(|line| line.split_once('\t')).collect();
        wrong.unless(answers.len() > 200, || format!("only {} probes ran as {user}", answers.len()));
        for (name, answer) in answers {
            let expected = expected(name, user);
            wrong.unless(expected.contains(&answer), || format!("{user}: {name}: {answer}, expected {expected:?}"));
        }
    }
    wrong.unless(before == host_settings(), || format!("the host changed: {before:?} {:?}", host_settings()));
    let pid = first_process(&server, &sandbox);
    wrong.unless(Path::new(&format!("/proc/{pid}")).exists(), || "the agent is gone".into());
    assert_eq!(server.sh(&sandbox, "echo here").await, "here\n");
    assert_eq!(server.sh(&neighbour, "echo here; id -un").await, "here\nsandbox\n");
}

/// Reads every file of the kernel's and of the fresh ones that can be read, and prints where a needle is found.
const HUNT: &str = r#"
import os, stat, sys
needles = [needle.encode() for needle in sys.argv[1:]]
seen = 0
for top in ["/proc", "/sys", "/run", "/dev", "/etc"]:
    for folder, folders, files in os.walk(top):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() or name == "1"] + ["self"]
        if folder.endswith("/task"):
            folders[:] = []
        for name in files + folders:
            path, content = os.path.join(folder, name), b""
            try:
                if os.path.islink(path):
                    content = os.readlink(os.fsencode(path))
                elif stat.S_ISREG(os.lstat(path).st_mode):
                    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
                        content = file.read(1 << 20) or b""
                    seen += 1
            except OSError:
                continue
            # What this program itself was given is not a find.
            if path.startswith("/proc/self") and name in ("cmdline", "environ", "mem"):
                continue
            for needle in needles:
                if needle in content:
                    print("found", needle.decode(), "in", path)
print("looked at", seen)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_inside_names_the_host_or_a_neighbour() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    let folder = server.data_dir().parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let program = Path::new(env!("CARGO_BIN_EXE_forkpoint")).parent().unwrap().to_str().unwrap().to_owned();
    let mut needles = vec![folder.as_str(), program.as_str(), neighbour.as_str(), "/cache/forkpoint", "layers.img"];
    if !machine_id.is_empty() {
        needles.push(&machine_id);
    }
    let mut wrong = Wrong::default();
    for user in USERS {
        let told = said(&server, &sandbox, user, HUNT, &needles).await;
        wrong.unless(!told.contains("found "), || format!("{user}: {told}"));
        let seen: u32 = told.rsplit_once("looked at ").unwrap().1.trim().parse().unwrap();
        wrong.unless(seen > 1000, || format!("only {seen} files were looked at"));
    }
    // Names of its own, and no processes but its own.
    let facts = "hostname; cat /etc/machine-id; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup";
    let (one, other) = (server.sh(&sandbox, facts).await, server.sh(&neighbour, facts).await);
    let (one, other): (Vec<_>, Vec<_>) = (one.lines().collect(), other.lines().collect());
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    wrong.unless(one[0] != host_name.trim() && one[0] != other[0], || format!("host name {}", one[0]));
    wrong.unless(one[1] != machine_id && one[1] != other[1], || format!("machine id {}", one[1]));
    wrong.unless(one[2].parse::<u32>().unwrap() < 10, || format!("{} processes are seen", one[2]));
    wrong.unless(one[3..].iter().all(|line| line.ends_with(":/")), || format!("control groups {:?}", &one[3..]));
    let own = server.sh(&sandbox, "cut -d' ' -f4,5 /proc/self/mountinfo | sort -u").await;
    wrong.unless(own.lines().all(|line| !line.contains("fp-") && !line.contains("upper")), || own.clone());
}

const PLANT: &str = r#"
import os, shutil, struct
shutil.copy("/usr/bin/id", "/workspace/set-id")
os.chmod("/workspace/set-id", 0o6755)
shutil.copy("/usr/bin/cat", "/workspace/able")
os.chmod("/workspace/able", 0o755)
# Every capability, permitted and effective, version 2.
os.setxattr("/workspace/able", "security.capability", struct.pack("<IIIII", 0x02000001, *[0xffffffff] * 4))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn set_id_programs_and_file_capabilities_give_nothing_inside_or_on_the_host() {
    use std::os::unix::fs::MetadataExt as _;
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    said(&server, &sandbox, "root", PLANT, &[]).await;
    assert_eq!(
        server.sh(&sandbox, "stat -c '%a %U' set-id; ./set-id -u; ./set-id -g").await,
        "6755 root\n1000\n1000\n"
    );
    let status = server.sh(&sandbox, "./able /proc/self/status | grep -E '^Cap(Prm|Eff)' | tr -d '\\n\\t'").await;
    assert_eq!(status, "CapPrm:0000000000000000CapEff:0000000000000000");
    // The programs of the template that have the bit everywhere do not help either.
    let su = server
        .exec_with(&sandbox, serde_json::json!({ "command": "su -c id; sudo -n id; newgrp </dev/null; id -u" }))
        .await
        .ok();
    assert!(!su["stdout"].as_str().unwrap().contains("uid=0"), "{su}");
    // On the host the file lies where no program is run from and nobody else can look.
    let data_dir = server.data_dir();
    assert_eq!(data_dir.metadata().unwrap().mode() & 0o7777, 0o700);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let layers = data_dir.join("layers");
    if let Some(line) = mounts.lines().find(|line| line.split(' ').nth(4) == layers.to_str()) {
        let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
    }
}
