//! Times launches beside the floor of this host: the same namespaces and the main mounts, made by a bare fork.
//!
//! `launch-bench ROUNDS [AGENT]`, as root; builds on a template that it makes for itself.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forkpoint_jail::{Cgroups, Launcher, Limits, Spec};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(200, |rounds| rounds.parse().unwrap());
    let examples = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let agent = arguments.next().map_or_else(|| examples.join("jail-probe"), PathBuf::from);
    let directory = tempfile::tempdir().unwrap();
    let (template, layer) = (directory.path().join("template"), directory.path().join("layer"));
    make_template(&template, &agent);
    for part in ["upper", "work"] {
        fs::create_dir_all(layer.join(part)).unwrap();
    }
    let cgroups = Cgroups::detect().unwrap();
    let instance = format!("bench{}", std::process::id());
    let group = cgroups.create(&instance, "box", &Limits { memory_bytes: 256 << 20, cpu_millis: 2000, pids: 64 });
    let group = group.unwrap();
    let mut spec = Spec::new("bench", &template, &layer, 0x2000_0000, group.join());
    spec.agent_config = b"sleep".to_vec();
    let launcher = Launcher::new(examples.with_file_name("forkpoint-jail"), agent);
    let mut launches = Vec::new();
    let mut ends = Vec::new();
    // In turns, so that whatever else the machine does hits both alike.
    let mut floors = Vec::new();
    for _ in 0..rounds {
        let netns = new_netns();
        let began = Instant::now();
        launcher.launch(&spec, netns.as_fd()).unwrap();
        launches.push(began.elapsed());
        let began = Instant::now();
        group.kill_all().unwrap();
        ends.push(began.elapsed());
        floors.push(floor(&template, &layer));
    }
    show("launch until ready", launches);
    show("kill and wait", ends);
    show("floor: fork with the namespaces, overlay, proc, sys, dev, pivot", floors);
    cgroups.remove_instance(&instance).unwrap();
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    println!("{what}: p10 {:.2} p50 {:.2} p90 {:.2} p99 {:.2} ms", at(10), at(50), at(90), at(99));
}

/// One fork that makes the namespaces and mounts with the plain calls, and ends.
fn floor(template: &Path, layer: &Path) -> Duration {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    let root = layer.with_file_name("floor");
    let _ = fs::create_dir(&root);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        template.display(),
        layer.join("upper").display(),
        layer.join("work").display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let began = Instant::now();
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: a fork without a stack of its own; this program has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, namespaces | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let none = None::<&std::ffi::CStr>;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("o", &root, "overlay", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        std::env::set_current_dir(&root).unwrap();
        mount("p", "proc", "proc", MountFlags::empty(), none).unwrap();
        mount("s", "sys", "sysfs", MountFlags::empty(), none).unwrap();
        mount("d", "dev", "tmpfs", MountFlags::empty(), none).unwrap();
        mount("r", "run", "tmpfs", MountFlags::empty(), none).unwrap();
        rustix::process::pivot_root(".", ".").unwrap();
        unmount(".", UnmountFlags::DETACH).unwrap();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local.
    unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
    assert_eq!(status, 0);
    began.elapsed()
}

fn make_template(template: &Path, agent: &Path) {
    for directory in ["proc", "sys", "dev", "run", "etc", "tmp"] {
        fs::create_dir_all(template.join(directory)).unwrap();
    }
    let listed = std::process::Command::new("ldd").arg(agent).output().unwrap();
    for word in String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let target = template.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(word, target).unwrap();
    }
}

fn new_netns() -> OwnedFd {
    std::thread::spawn(|| {
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}
