//! The filesystems that every sandbox has besides its tree: /proc, /sys, /dev, /run.

use std::os::fd::{AsFd, OwnedFd};

use forkpoint_jail::Spec;
use rustix::fs::{CWD, FileType, Mode, fstat, major, minor, mkdirat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::identity;
use super::mounts::{self, DATA, PLAIN, attach, copy, new_filesystem, place, protect};
use super::tree::Tree;
use crate::step::{Result, Step, failure};
use crate::sys;

/// Parts of /proc that act on the host or are shared with it. (What is under `sys` for this network namespace or this
/// ipc namespace belongs to the host's root as well.)
const PROC_READ_ONLY: [&str; 6] = ["bus", "fs", "irq", "sys", "sysrq-trigger", "pressure"];

/// Parts of /proc that tell about the host's memory, keys, hardware, timers or start.
const PROC_HIDDEN: [&str; 14] = [
    "acpi",
    "asound",
    "cmdline",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "vmcore",
];

/// Parts of /sys that tell about the host's firmware, filesystems and kernel, name the files behind its loop devices
/// (the data directory's among them), or measure its power.
const SYS_HIDDEN: [&str; 6] =
    ["firmware", "fs", "kernel", "devices/virtual/block", "devices/virtual/dmi", "devices/virtual/powercap"];

/// Devices that hold no state: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The group `tty` of the usual trees, which terminals are given to.
const TTY_GROUP: u32 = 5;

/// Files and directories that a tmpfs may have: one for each 4 KiB, within bounds. The kernel's memory for them counts
/// towards the sandbox, but an empty file costs none of the tmpfs's size.
fn inodes(bytes: u64) -> u64 {
    (bytes / 4096).clamp(1024, 1 << 20)
}

pub(crate) fn furnish(spec: &Spec, tree: &Tree) -> Result<()> {
    let blank = Blank::make(&tree.scratch).step("make blank mounts")?;
    let proc = new_filesystem("proc", &[], DATA)?;
    attach(&proc, tree.mount_point("proc")?).step("attach /proc")?;
    for path in PROC_READ_ONLY {
        protect(proc.as_fd(), path).step_on("protect /proc", path)?;
    }
    for path in PROC_HIDDEN {
        blank.hide(&proc, path).step_on("hide /proc", path)?;
    }
    let sys = new_filesystem("sysfs", &[], DATA | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(&sys, tree.mount_point("sys")?).step("attach /sys")?;
    for path in SYS_HIDDEN {
        blank.hide(&sys, path).step_on("hide /sys", path)?;
    }
    let run = tmpfs(spec.run_bytes, "0755", PLAIN)?;
    attach(&run, tree.mount_point("run")?).step("attach /run")?;
    devices(spec, tree)
}

fn devices(spec: &Spec, tree: &Tree) -> Result<()> {
    let dev = tmpfs(1 << 20, "0755", PLAIN)?;
    attach(&dev, tree.mount_point("dev")?).step("attach /dev")?;
    for (name, major, minor) in DEVICES {
        device(&dev, name, major, minor)?;
    }
    for (name, target) in DEVICE_LINKS {
        symlinkat(target, &dev, name).step_on("link /dev", name)?;
    }
    let gid = (spec.uid_base + TTY_GROUP).to_string();
    // The host has one budget of terminals for all sandboxes, 3072 by default.
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &gid), ("max", "256")];
    // Terminals are devices, so not without those.
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = new_filesystem("devpts", &options, flags)?;
    let shm = tmpfs(spec.shm_bytes, "1777", DATA)?;
    for (name, mount) in [("pts", pts), ("shm", shm)] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).step_on("make /dev", name)?;
        place(&dev, name).and_then(|place| attach(&mount, place)).step_on("attach /dev", name)?;
    }
    Ok(())
}

/// The host's device under the same name. A node of our own would need a /dev on which devices work, whoever makes them.
fn device(dev: &OwnedFd, name: &str, number: u32, unit: u32) -> Result<()> {
    let mount = copy(CWD, format!("/dev/{name}")).step_on("copy device", name)?;
    let stat = fstat(&mount).step_on("look at device", name)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || (major(stat.st_rdev), minor(stat.st_rdev)) != (number, unit) {
        let message = format!("the host's /dev/{name} must be the character device {number}:{unit}");
        return Err(failure("look at device", None, &message));
    }
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    sys::set_mount_attributes(&mount, flags, None).step_on("restrict device", name)?;
    identity::create(dev, name, b"").step_on("make /dev", name)?;
    place(dev, name).and_then(|place| attach(&mount, place)).step_on("attach /dev", name)
}

fn tmpfs(bytes: u64, mode: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let (size, inodes) = (bytes.to_string(), inodes(bytes).to_string());
    new_filesystem("tmpfs", &[("size", &size), ("nr_inodes", &inodes), ("mode", mode)], attributes)
}

/// An empty directory and an empty file, read-only, to lay over what is hidden.
struct Blank {
    directory: OwnedFd,
    file: OwnedFd,
}

impl Blank {
    fn make(scratch: &OwnedFd) -> rustix::io::Result<Self> {
        mkdirat(scratch, "blank", Mode::from_raw_mode(0o555))?;
        identity::create(scratch, "blank-file", b"")?;
        let attached = |name: &str| {
            let mount = copy(scratch, name)?;
            sys::set_mount_attributes(&mount, DATA | MountAttrFlags::MOUNT_ATTR_RDONLY, None)?;
            // Copies can be taken only of what is attached; they inherit that it is read-only.
            attach(&mount, place(scratch, name)?)?;
            Ok(mount)
        };
        Ok(Self { directory: attached("blank")?, file: attached("blank-file")? })
    }

    /// Nothing happens if there is nothing to hide.
    fn hide(&self, filesystem: &OwnedFd, path: &str) -> rustix::io::Result<()> {
        let place = match place(filesystem, path) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let is_directory = FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir();
        let mount = mounts::copy(if is_directory { &self.directory } else { &self.file }, c"")?;
        attach(&mount, &place)
    }
}
