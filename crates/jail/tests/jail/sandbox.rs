//! What a test needs for one sandbox: a small template, a layer, a control group, a network namespace.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forkpoint_jail::{Cgroups, Group, LaunchError, Launched, Launcher, Limits, Spec, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

pub(crate) const UID_BASE: u32 = 0x2000_0000;

pub(crate) const LIMITS: Limits = Limits { memory_bytes: 256 << 20, cpu_millis: 2000, pids: 64 };

pub(crate) struct Bed {
    pub(crate) directory: TempDir,
    pub(crate) spec: Spec,
    pub(crate) group: Group,
    pub(crate) instance: String,
    pub(crate) cgroups: Cgroups,
    pub(crate) launcher: Launcher,
    pub(crate) netns: OwnedFd,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with_limits(LIMITS)
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let template = directory.path().join("template");
        make_template(&template);
        Self::on(directory, &template, limits)
    }

    /// On another template than the small one.
    pub(crate) fn on(directory: TempDir, template: &Path, limits: Limits) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // Tests run in processes of their own, or in threads of one.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test{}-{number}", std::process::id());
        let cgroups = Cgroups::detect().unwrap();
        let group = cgroups.create(&instance, "box", &limits).unwrap();
        let layer = directory.path().join("layer");
        for part in ["upper", "work"] {
            fs::create_dir_all(layer.join(part)).unwrap();
        }
        let spec = Spec::new("test-box", template, &layer, UID_BASE, group.join());
        let launcher = Launcher::new(jail(), probe()).with_deadline(Duration::from_secs(10));
        Self { directory, spec, group, instance, cgroups, launcher, netns: new_netns() }
    }

    /// Launches the stand-in for the agent with these orders.
    pub(crate) fn launch(&mut self, orders: &[&str]) -> Result<Launched, LaunchError> {
        self.spec.agent_config = orders.join("\0").into_bytes();
        self.launcher.launch(&self.spec, self.netns.as_fd())
    }

    /// The same, and waits until it has ended.
    pub(crate) fn complete(&mut self, orders: &[&str]) {
        let launched = self.launch(orders).unwrap();
        wait_ended(launched);
    }

    /// A file that the sandbox wrote.
    pub(crate) fn read(&self, path: &str) -> String {
        let file = self.spec.layer.join("upper").join(path);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    pub(crate) fn upper(&self, path: &str) -> PathBuf {
        self.spec.layer.join("upper").join(path)
    }

    pub(crate) fn template(&self, path: &str) -> PathBuf {
        self.spec.template.join(path)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.cgroups.remove_instance(&self.instance).unwrap();
    }
}

pub(crate) fn jail() -> PathBuf {
    built("forkpoint-jail")
}

pub(crate) fn probe() -> PathBuf {
    built("examples/jail-probe")
}

/// Programs and examples are built with the tests, two directories above them and so found from the running one.
fn built(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name);
    assert!(path.exists(), "{} must have been built: run the tests without choosing targets", path.display());
    path
}

/// A tree with the usual directories and the libraries that the probe needs.
fn make_template(template: &Path) {
    for directory in ["proc", "sys", "dev", "run", "etc", "tmp", "root"] {
        fs::create_dir_all(template.join(directory)).unwrap();
    }
    for file in ["hosts", "hostname", "resolv.conf", "machine-id"] {
        fs::write(template.join("etc").join(file), "of the template\n").unwrap();
    }
    let listed = Command::new("ldd").arg(probe()).output().unwrap();
    for word in String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let target = template.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(word, target).unwrap();
    }
}

/// A network namespace that lives as long as the descriptor.
pub(crate) fn new_netns() -> OwnedFd {
    std::thread::spawn(|| {
        // The thread ends at once, so nothing else ever runs in it.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}

/// Waits until the sandbox's first process has ended, and with it all others.
pub(crate) fn wait_ended(Launched { pid, start_time }: Launched) {
    if let Some(process) = process::open(pid, start_time).unwrap() {
        let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ended, 1, "the sandbox did not end");
    }
}

/// Looks until something holds. For what gives no event.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
