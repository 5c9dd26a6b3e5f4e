//! Stands in for the agent in tests: does what its configuration says and writes what it saw into its own tree.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

fn main() {
    // SAFETY: the jail hands down exactly these two, and nothing else takes them.
    let (mut config, mut report) = unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) };
    let mut orders = String::new();
    config.read_to_string(&mut orders).unwrap();
    let descriptors = descriptors();
    let words: Vec<&str> = orders.split('\0').collect();
    match words[0] {
        "die" => return,
        "garbage" => {
            report.write_all(b"\x01{not a report}\n").unwrap();
            return pause();
        }
        "endless" => while report.write_all(&[b'x'; 1000]).is_ok() {},
        "silent" => return pause(),
        _ => {}
    }
    drop(config);
    report.write_all(b"ready\n").unwrap();
    drop(report);
    match words[0] {
        "facts" => facts(&descriptors),
        "attempts" => attempts(),
        "run" => run(&words[1..]),
        "hog" => hog(words[1].parse().unwrap()),
        "forkbomb" => forkbomb(),
        "count" => count(),
        "spin" => loop {
            std::hint::spin_loop();
        },
        _ => pause(),
    }
}

fn pause() {
    loop {
        std::thread::park();
    }
}

/// Number and target of every open descriptor, but the one that reads the list.
fn descriptors() -> String {
    let mut all: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().into_string().ok()?;
            (!target.starts_with("/proc")).then(|| format!("{number}={}", target.display()))
        })
        .collect();
    all.sort();
    all.join("\n")
}

/// One file for each fact, and `/facts/done` last.
fn facts(descriptors: &str) {
    fs::create_dir("/facts").unwrap();
    let write = |name: &str, content: &str| fs::write(format!("/facts/{name}"), content).unwrap();
    let copy = |name: &str, path: &str| {
        write(name, &fs::read_to_string(path).unwrap_or_else(|error| format!("error {error}")));
    };
    write("descriptors", descriptors);
    write("pid", &std::process::id().to_string());
    write("environment", &std::env::vars().map(|(name, _)| name).collect::<Vec<_>>().join(" "));
    write("arguments", &std::env::args().collect::<Vec<_>>().join(" "));
    write("exe", &fs::read_link("/proc/self/exe").unwrap().display().to_string());
    write("cwd", &std::env::current_dir().unwrap().display().to_string());
    for (name, path) in [
        ("status", "/proc/self/status"),
        ("mountinfo", "/proc/self/mountinfo"),
        ("mounts", "/proc/mounts"),
        ("maps", "/proc/self/maps"),
        ("uid_map", "/proc/self/uid_map"),
        ("gid_map", "/proc/self/gid_map"),
        ("setgroups", "/proc/self/setgroups"),
        ("limits", "/proc/self/limits"),
        ("cgroup", "/proc/self/cgroup"),
        ("stat", "/proc/self/stat"),
        ("oom_score_adj", "/proc/self/oom_score_adj"),
        ("hostname", "/proc/sys/kernel/hostname"),
        ("hosts", "/etc/hosts"),
        ("cmdline", "/proc/cmdline"),
    ] {
        copy(name, path);
    }
    for directory in ["/", "/dev", "/sys/kernel", "/sys/fs", "/proc/acpi"] {
        let names = fs::read_dir(directory).map(|entries| {
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        });
        write(&format!("list{}", directory.replace('/', "-")), &names.unwrap_or_else(|error| format!("error {error}")));
    }
    fs::write("/owned", "").unwrap();
    std::os::unix::fs::chown("/owned", Some(1000), Some(100)).unwrap();
    fs::write("/run/scribble", "").unwrap();
    write("done", "");
}

/// Tries what must not work; one line each with the error number, 0 for success.
fn attempts() {
    let mut results = String::new();
    let mut note = |name: &str, errno: i32| writeln!(results, "{name} {errno}").unwrap();
    let text = |text: &str| CString::new(text).unwrap();
    let (none, tmpfs, root, tmp) = (text("none"), text("tmpfs"), text("/"), text("/tmp"));
    let calls: [(&str, i64, [usize; 6]); 25] = [
        ("mount", libc::SYS_mount, [none.as_ptr() as usize, tmp.as_ptr() as usize, tmpfs.as_ptr() as usize, 0, 0, 0]),
        ("umount", libc::SYS_umount2, [tmp.as_ptr() as usize, 0, 0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [root.as_ptr() as usize, tmp.as_ptr() as usize, 0, 0, 0, 0]),
        ("unshare user", libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]),
        ("unshare mount", libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]),
        ("clone user", libc::SYS_clone, [libc::CLONE_NEWUSER as usize | 17, 0, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 6]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("sethostname", libc::SYS_sethostname, [none.as_ptr() as usize, 4, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [0; 6]),
        ("add_key", libc::SYS_add_key, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("kexec_load", libc::SYS_kexec_load, [0; 6]),
        ("reboot", libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [tmp.as_ptr() as usize, 0, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 6]),
        ("settimeofday", libc::SYS_settimeofday, [0; 6]),
        ("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0, 0]),
        ("raw socket", libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_RAW as usize, 255, 0, 0, 0]),
        ("packet socket", libc::SYS_socket, [libc::AF_PACKET as usize, libc::SOCK_RAW as usize, 0, 0, 0, 0]),
        ("vsock", libc::SYS_socket, [libc::AF_VSOCK as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0]),
    ];
    for (name, number, a) in calls {
        // SAFETY: all pointers among the arguments are of strings that live on; the rest are numbers.
        let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
        note(name, if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 });
    }
    let errno = |result: std::io::Result<()>| result.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
    let node = |kind| mknodat(CWD, "/tmp/node", kind, Mode::RWXU, makedev(1, 3)).map_err(Into::into);
    note("mknod character device", errno(node(FileType::CharacterDevice)));
    note("mknod block device", errno(node(FileType::BlockDevice)));
    note("mknod fifo", errno(node(FileType::Fifo)));
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/sys/power/state",
    ] {
        note(path, errno(fs::OpenOptions::new().write(true).open(path).map(drop)));
    }
    for path in ["/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/cmdline"] {
        let mut byte = [0];
        let seen = File::open(path).and_then(|mut file| file.read(&mut byte)).unwrap_or(0);
        note(&format!("bytes of {path}"), seen as i32);
    }
    note(
        "write null",
        errno(fs::OpenOptions::new().write(true).open("/dev/null").and_then(|mut null| null.write_all(b"x"))),
    );
    note("open terminal", errno(File::options().read(true).write(true).open("/dev/ptmx").map(drop)));
    note("chroot", errno(rustix::process::chroot("/tmp").map_err(Into::into)));
    fs::write("/attempts", results).unwrap_or_else(|_| unreachable!("chroot to /tmp leaves a writable root"));
}

/// Runs a program with its output in `/out` and its exit code in `/code`.
fn run(words: &[&str]) {
    let out = File::create("/out").unwrap();
    let code = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/tmp")
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .status()
        .map(|status| status.to_string())
        .unwrap_or_else(|error| error.to_string());
    fs::write("/code", code).unwrap();
}

/// A child takes memory until it is stopped; `/hog` says how it ended.
fn hog(bytes: usize) {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let mut memory = vec![0_u8; bytes];
            for page in memory.chunks_mut(4096) {
                page[0] = 1;
            }
            std::hint::black_box(&memory);
        }
        child => {
            let mut status = 0;
            // SAFETY: the pointer is to a local.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            fs::write("/hog", if libc::WIFSIGNALED(status) { "killed" } else { "ended" }).unwrap();
        }
    }
}

/// Forks until that is refused; `/forkbomb` says how many children there are and with what number it was refused.
fn forkbomb() {
    let mut children = 0;
    let errno = loop {
        // SAFETY: this process has one thread; the child only waits.
        match unsafe { libc::fork() } {
            0 => return pause(),
            -1 => break std::io::Error::last_os_error().raw_os_error().unwrap(),
            _ => children += 1,
        }
    };
    fs::write("/forkbomb.new", format!("{children} {errno}")).unwrap();
    fs::rename("/forkbomb.new", "/forkbomb").unwrap();
    pause();
}

/// Counts up in the first 8 bytes of `/count`.
fn count() {
    let file = File::create("/count").unwrap();
    for number in 0_u64.. {
        file.write_all_at(&number.to_le_bytes(), 0).unwrap();
    }
}
