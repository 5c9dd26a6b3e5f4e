//! Finding out which way to keep layers works here, and saying why.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{DriverChoice, DriverKind, btrfs, entries, image, layer_name, mounts};
use crate::durable;
use crate::error::{Error, Result};
use crate::tree::dir::Dir;

/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const BTRFS_MAGIC: u64 = 0x9123_683E;

/// What a store of this data directory would be or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// None if no way works.
    pub driver: Option<DriverKind>,
    /// Whether layers live in an image file on a loop device.
    pub image: bool,
    /// Whether that image is mounted now.
    pub mounted: bool,
    /// The loop device of the image, mounted or not.
    pub loop_device: Option<PathBuf>,
    /// Whether a sandbox cannot write more than its disk limit.
    pub limits: bool,
    /// One sentence for each way, why it was taken or not.
    pub reasons: Vec<String>,
}

/// Where the layers' directory gets its file system from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// `layers.img`, mounted.
    Image,
    /// The data directory's own file system.
    Directory,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) driver: DriverKind,
    pub(super) home: Home,
    reasons: Vec<String>,
}

/// Tries what works in a data directory, which need not exist; leaves nothing behind.
pub fn probe(data_dir: &Path, choice: DriverChoice) -> Probe {
    let none = |reason| Probe {
        driver: None,
        image: false,
        mounted: false,
        loop_device: None,
        limits: false,
        reasons: vec![reason],
    };
    let existing = data_dir.ancestors().find_map(|dir| std::fs::canonicalize(dir).ok());
    let Some(existing) = existing else {
        return none(format!("{} and all above it do not exist", data_dir.display()));
    };
    let plan = match choose(&existing, choice) {
        Ok(plan) => plan,
        Err(e) => return none(e.to_string()),
    };
    let loop_device = image::loop_device(&existing);
    let mount = mounts::at(&existing.join("layers")).ok().flatten();
    Probe {
        driver: Some(plan.driver),
        image: plan.home == Home::Image,
        limits: plan.home == Home::Image && has_simple_quotas(),
        mounted: mount.is_some_and(|mount| loop_device.as_ref() == Some(&mount.source)),
        loop_device,
        reasons: plan.reasons,
    }
}

/// Decides: what holds layers already stays, else the best way that works.
pub(super) fn choose(data_dir: &Path, choice: DriverChoice) -> Result<Plan> {
    let mut reasons = Vec::new();
    let wanted = |kind: DriverKind| match choice {
        DriverChoice::Auto => true,
        DriverChoice::Btrfs => kind == DriverKind::Btrfs,
        DriverChoice::Reflink => kind == DriverKind::Reflink,
        DriverChoice::Copy => kind == DriverKind::Copy,
    };
    if data_dir.join(image::FILE).exists() {
        if !wanted(DriverKind::Btrfs) {
            return Err(unavailable(choice, "layers.img holds layers of the btrfs driver already".into()));
        }
        reasons.push("btrfs: layers.img is there".into());
        return Ok(Plan { driver: DriverKind::Btrfs, home: Home::Image, reasons });
    }
    // Only a btrfs holds subvolumes, and only a plain directory layers without an image.
    let held = held_by(&data_dir.join("layers"));
    let home = Home::Directory;
    if wanted(DriverKind::Btrfs) && held != Some(false) {
        match native_btrfs(data_dir) {
            Ok(()) => {
                reasons.push("btrfs: the data directory is on btrfs, and subvolumes can be made".into());
                return Ok(Plan { driver: DriverKind::Btrfs, home, reasons });
            }
            Err(reason) => reasons.push(format!("btrfs in the data directory: {reason}")),
        }
        match image_possible() {
            Ok(()) if held.is_none() => {
                reasons.push("btrfs: in an image file on a loop device".into());
                return Ok(Plan { driver: DriverKind::Btrfs, home: Home::Image, reasons });
            }
            Ok(()) => reasons.push("btrfs in an image: the directory holds layers already".into()),
            Err(reason) => reasons.push(format!("btrfs in an image: {reason}")),
        }
    } else if held == Some(false) {
        reasons.push("btrfs: the directory holds layers that are no subvolumes".into());
    }
    if held != Some(true) {
        if wanted(DriverKind::Reflink) {
            match can_share(data_dir) {
                Ok(()) => {
                    reasons.push("reflink: files can share blocks here".into());
                    return Ok(Plan { driver: DriverKind::Reflink, home, reasons });
                }
                Err(reason) => reasons.push(format!("reflink: {reason}")),
            }
        }
        if wanted(DriverKind::Copy) {
            reasons.push("copy: works everywhere, but snapshots take as long as copying".into());
            return Ok(Plan { driver: DriverKind::Copy, home, reasons });
        }
    }
    Err(unavailable(choice, reasons.join("; ")))
}

/// Whether the directory has layers: subvolumes (true), plain ones (false), none.
fn held_by(layers: &Path) -> Option<bool> {
    let names = entries(layers).ok()?;
    let first = names.iter().find(|name| layer_name(name).is_some())?;
    let dir = Dir::open(&layers.join(first)).ok()?;
    Some(dir.id.1 == durable::SUBVOLUME_INODE && is_btrfs(layers).unwrap_or(false))
}

fn is_btrfs(path: &Path) -> std::io::Result<bool> {
    Ok(u64::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or(0) == BTRFS_MAGIC)
}

fn native_btrfs(data_dir: &Path) -> Result<(), String> {
    match is_btrfs(data_dir) {
        Ok(true) => {}
        Ok(false) => return Err("it is on another file system".into()),
        Err(e) => return Err(e.to_string()),
    }
    let dir = Dir::open(data_dir).map_err(|e| e.to_string())?;
    btrfs::works_in(&dir).map_err(|e| format!("subvolumes cannot be made: {e}"))
}

fn image_possible() -> Result<(), String> {
    if !Path::new("/dev/loop-control").exists() {
        return Err("no loop devices (/dev/loop-control is missing)".into());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.split_whitespace().any(|word| word == "btrfs") && !has_module() {
        return Err("the kernel has no btrfs".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("mkfs.btrfs").is_file()) {
        return Err("mkfs.btrfs is not installed; install the package btrfs-progs".into());
    }
    Ok(())
}

/// Whether the kernel's btrfs charges each subvolume with what it wrote, since 6.7.
fn has_simple_quotas() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

/// Whether the kernel can load btrfs when it is first mounted.
fn has_module() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = PathBuf::from("/lib/modules").join(release);
    std::fs::read_to_string(modules.join("modules.dep")).is_ok_and(|text| text.contains("/btrfs.ko"))
}

/// Shares a block between two files without names.
fn can_share(dir: &Path) -> Result<(), String> {
    use rustix::fs::{Mode, OFlags};
    let make = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).map_err(|e| e.to_string())
    };
    let (one, two) = (make()?, make()?);
    rustix::io::pwrite(&one, &[1; 4096], 0).map_err(|e| e.to_string())?;
    rustix::fs::ioctl_ficlone(&two, &one).map_err(|e| format!("files cannot share blocks here: {e}"))
}

fn unavailable(choice: DriverChoice, reason: String) -> Error {
    let driver = match choice {
        DriverChoice::Auto | DriverChoice::Copy => DriverKind::Copy,
        DriverChoice::Btrfs => DriverKind::Btrfs,
        DriverChoice::Reflink => DriverKind::Reflink,
    };
    Error::DriverUnavailable { driver, reason }
}
