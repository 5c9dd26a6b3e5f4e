//! The image file that holds a btrfs of our own: made whole or not at all, mounted once, grown
//! ahead of need.
//!
//! Every block of the file is allocated before btrfs gets to know it. On a sparse file a full host
//! turns writes that btrfs believes done into lost ones, and the file system goes read-only.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{StoreOptions, Usage, mounts, space};
use crate::error::{At, Error, Result};
use crate::sys::{btrfs, loops};
use crate::tree::dir::Dir;

pub(super) const FILE: &str = "layers.img";
const UNFINISHED: &str = ".layers.img.new";
/// Sizes are multiples of this, bytes.
const GRAIN: u64 = 1 << 20;
/// Below this a btrfs has no room for its own book-keeping, bytes.
const LEAST: u64 = 256 << 20;

/// What a call for growth did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// By how much the file system is larger now, bytes.
    pub grown_bytes: u64,
    /// It should have grown further, but the host's reserve or the set maximum forbids it.
    pub held_back: bool,
}

/// A mounted image.
#[derive(Debug)]
pub(super) struct Image {
    file: PathBuf,
    mount: PathBuf,
}

impl Image {
    pub(super) fn open(data_dir: &Path, layers: &Path, options: &StoreOptions) -> Result<Self> {
        let image = Self { file: data_dir.join(FILE), mount: layers.to_owned() };
        if !image.file.exists() {
            make(data_dir, &image.file, options)?;
        }
        image.mount()?;
        // A growth may have been cut short at any of its steps.
        let file = image.open_file()?;
        allocate(&file, &image.file, 0, file.metadata().at("stat", &image.file)?.len())?;
        image.fill_device(&file)?;
        Ok(image)
    }

    /// Bytes that the file takes from the host's disk.
    pub(super) fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata().at("stat", &self.file)?.blocks() * 512)
    }

    pub(super) fn grow(&self, options: &StoreOptions) -> Result<Growth> {
        let mut growth = Growth::default();
        let file = self.open_file()?;
        let mut size = file.metadata().at("stat", &self.file)?.len();
        loop {
            let Usage { free_bytes, .. } = space(&self.mount)?;
            if free_bytes >= options.headroom_bytes {
                break;
            }
            let room = host_room(&self.file, options.host_reserve_bytes)?
                .min(options.max_bytes.unwrap_or(u64::MAX).saturating_sub(size));
            let step = options.step_bytes.max(GRAIN).min(room) / GRAIN * GRAIN;
            if step == 0 {
                growth.held_back = true;
                break;
            }
            match allocate(&file, &self.file, size, step) {
                Ok(()) => {}
                // Somebody else was quicker: give back what half came.
                Err(e) if e.is_out_of_space() => {
                    rustix::fs::ftruncate(&file, size).at("shrink", &self.file)?;
                    growth.held_back = true;
                    break;
                }
                Err(e) => return Err(e),
            }
            rustix::fs::fsync(&file).at("sync", &self.file)?;
            self.fill_device(&file)?;
            size += step;
            growth.grown_bytes += step;
        }
        if growth != Growth::default() {
            let (grown_bytes, held_back) = (growth.grown_bytes, growth.held_back);
            tracing::info!(grown_bytes, held_back, size_bytes = size, "layer image grown");
        }
        Ok(growth)
    }

    pub(super) fn unmount(&self) -> Result<()> {
        rustix::mount::unmount(&self.mount, UnmountFlags::NOFOLLOW).at("unmount", &self.mount)
    }

    fn open_file(&self) -> Result<File> {
        open_rw(&self.file)
    }

    /// Mounts the image unless it is mounted already.
    fn mount(&self) -> Result<()> {
        let file = self.open_file()?;
        // Never a second device for one image: a mount elsewhere, such as below a living sandbox,
        // keeps the first, and two of them would write over each other.
        let attached = loops::find(&file).at("look for the loop device of", &self.file)?;
        if let Some(found) = mounts::at(&self.mount)? {
            return match attached {
                Some(device) if found.fs_type == "btrfs" && found.source == device.path => self.check_writable(),
                _ => Err(Error::ForeignMount {
                    path: self.mount.clone(),
                    found: format!("{} {}", found.fs_type, found.source.display()),
                }),
            };
        }
        let device = match attached {
            Some(device) => device,
            None => loops::attach(&file).at("attach a loop device to", &self.file)?,
        };
        if !device.direct_io {
            tracing::warn!(path = %self.file.display(), "no direct I/O on the host's file system: layers are cached twice");
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        rustix::mount::mount(&device.path, &self.mount, "btrfs", flags, c"nodiscard").at("mount", &self.mount)?;
        self.check_writable()
    }

    fn check_writable(&self) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.mount).at("stat", &self.mount)?;
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::io(
                "write to the layers, which an earlier failure left read-only; see the kernel's log, then unmount",
                &self.mount,
                Errno::ROFS,
            ));
        }
        Ok(())
    }

    /// Lets the device, then the file system, have all of the file.
    fn fill_device(&self, file: &File) -> Result<()> {
        let device = loops::find(file)
            .at("look for the loop device of", &self.file)?
            .ok_or_else(|| Error::io("find the loop device of", &self.file, Errno::NODEV))?;
        loops::refresh_size(&device.file).at("resize the loop device of", &self.file)?;
        btrfs::resize_to_device(&*Dir::open(&self.mount)?).at("resize", &self.mount)
    }
}

/// The device that the image of a data directory backs, if there is one.
pub(super) fn loop_device(data_dir: &Path) -> Option<PathBuf> {
    let file = open_rw(&data_dir.join(FILE)).ok()?;
    loops::find(&file).ok()?.map(|device| device.path)
}

/// Unmounts a store that is not open.
pub(super) fn detach(data_dir: &Path, layers: &Path) -> Result<()> {
    let file = data_dir.join(FILE);
    while let Some(found) = mounts::at(layers)? {
        let attached = match open_rw(&file) {
            Ok(file) => loops::find(&file).at("look for the loop device of", layers)?,
            Err(_) => None,
        };
        if attached.is_none_or(|device| device.path != found.source) {
            let found = format!("{} {}", found.fs_type, found.source.display());
            return Err(Error::ForeignMount { path: layers.to_owned(), found });
        }
        rustix::mount::unmount(layers, UnmountFlags::NOFOLLOW).at("unmount", layers)?;
    }
    Ok(())
}

pub(super) fn remove(data_dir: &Path) -> Result<()> {
    for name in [FILE, UNFINISHED] {
        let path = data_dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("remove", &path),
        }
    }
    Ok(())
}

/// Makes the image under another name and renames it when it is complete and on stable storage.
fn make(data_dir: &Path, image: &Path, options: &StoreOptions) -> Result<()> {
    let path = data_dir.join(UNFINISHED);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .at("create", &path)?;
    let room = host_room(&path, options.host_reserve_bytes)?;
    let size = options.initial_bytes.min(options.max_bytes.unwrap_or(u64::MAX)).min(room).max(LEAST) / GRAIN * GRAIN;
    let made = if size > room {
        Err(Error::io("make room beside the host's reserve for", &path, Errno::NOSPC))
    } else {
        allocate(&file, &path, 0, size).and_then(|()| format(&path))
    };
    if let Err(e) = made {
        // Nothing was promised yet; a full disk should not stay full because of us.
        drop(std::fs::remove_file(&path));
        return Err(e);
    }
    rustix::fs::fsync(&file).at("sync", &path)?;
    std::fs::rename(&path, image).at("rename", &path)?;
    let dir = File::open(data_dir).at("open", data_dir)?;
    rustix::fs::fsync(&dir).at("sync", data_dir)
}

fn format(path: &Path) -> Result<()> {
    const PROGRAM: &str = "mkfs.btrfs";
    let fail = |reason: String| Error::Program { program: PROGRAM, reason };
    // `-K`: discarding would give the allocated blocks back.
    let output = Command::new(PROGRAM)
        .args(["-q", "-f", "-K", "-L", "forkpoint-layers"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(format!("cannot be started ({e}); install the package btrfs-progs")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// Allocates blocks for a range of the file, which grows if need be; cheap where they are there.
fn allocate(file: &File, path: &Path, start: u64, len: u64) -> Result<()> {
    let meta = file.metadata().at("stat", path)?;
    if meta.len() >= start + len && meta.blocks() * 512 >= meta.len() {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), start, len) {
            Err(Errno::INTR) => {}
            done => return done.at("allocate blocks for", path),
        }
    }
}

/// How much the host's file system can give without touching its reserve, bytes.
fn host_room(path: &Path, reserve: u64) -> Result<u64> {
    Ok(space(path)?.free_bytes.saturating_sub(reserve))
}

fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).at("open", path)
}
