//! Turning a freshly built root into a template: no devices, no leftovers of the host, no privileged files.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{entries, join, open_below, open_root, open_subdir, remove_contents};
use crate::{Error, Result};

/// Directories that are mounts inside a sandbox: what a tree has there would never be seen.
pub(crate) const MOUNTED: &[&CStr] = &[c"dev", c"proc", c"sys", c"run"];

/// Those, and scratch space, in which building leaves things behind.
pub(crate) const SCRATCH: &[&CStr] = &[c"dev", c"proc", c"sys", c"run", c"tmp", c"var/tmp"];

/// Targets of the bind mounts that give each sandbox its identity: plain files, whatever was there.
const IDENTITY: &[(&CStr, &CStr, &str)] = &[
    (c"etc", c"hostname", "sandbox\n"),
    (c"etc", c"hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"),
    (c"etc", c"resolv.conf", ""),
    (c"etc", c"machine-id", ""),
];

/// Empties, replaces and strips what a template must not hold; `emptied` are directories that are there.
pub(crate) fn seal(root: &Path, emptied: &[&CStr]) -> Result<()> {
    let dir = open_root(root)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(Error::os("set mode of", root))?;
    for name in emptied {
        let path = join(root, name);
        let subdir = open_subdir(&dir, name, &path)?;
        remove_contents(subdir.as_fd(), &path)?;
    }
    for (parent, name, text) in IDENTITY {
        create_file(root, parent, name, text.as_bytes())?;
    }
    strip(dir.as_fd(), root)
}

/// Replaces whatever `parent/name` is by a plain file, mode 0644, owner root.
pub(crate) fn create_file(root: &Path, parent: &CStr, name: &CStr, bytes: &[u8]) -> Result<()> {
    let path = join(&join(root, parent), name);
    let dir = open_subdir(open_root(root)?, parent, &path)?;
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(Error::os("replace", path)(errno)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644)).map_err(Error::os("create", &path))?;
    // The mode above went through the process's umask.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o644)).map_err(Error::os("set mode of", &path))?;
    File::from(fd).write_all(bytes).map_err(Error::io("write", &path))
}

/// Whether there is something at this path below `root`; a final symbolic link counts as it is.
pub(crate) fn exists(root: &Path, inner: &str) -> Result<bool> {
    let dir = open_root(root)?;
    let Ok(name) = CString::new(inner) else {
        return Ok(false);
    };
    match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(Error::os("stat", join(root, &name))(errno)),
    }
}

/// The text of a file below `root`, at most 64 KiB of it; empty if there is none.
pub(crate) fn read_small(root: &Path, inner: &CStr) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(root, inner)?).into_owned())
}

/// The bytes of a file below `root`, at most 64 KiB of them; none if there is no file.
pub(crate) fn read_bytes(root: &Path, inner: &CStr) -> Result<Vec<u8>> {
    let path = join(root, inner);
    // A FIFO would keep whoever opens it waiting.
    let fd = match open_below(open_root(root)?, inner, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(Error::os("open", path)(errno)),
    };
    let mut bytes = Vec::new();
    File::from(fd).take(64 * 1024).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Takes set-user-id and set-group-id bits and file capabilities off files: layers are mounted `nosuid`,
/// so they would only promise what does not happen. Devices are refused.
fn strip(dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    for entry in entries(dir, path)? {
        let below = join(path, &entry.name);
        match entry.file_type() {
            FileType::Directory => {
                let subdir = open_subdir(dir, &entry.name, &below)?;
                strip(subdir.as_fd(), &below)?;
            }
            FileType::RegularFile => {
                let file = open_below(dir, &entry.name, OFlags::RDONLY).map_err(Error::os("open", &below))?;
                match rustix::fs::fremovexattr(&file, c"security.capability") {
                    Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                    Err(errno) => return Err(Error::os("remove capability of", below)(errno)),
                }
                if entry.stat.st_mode & 0o6000 != 0 {
                    let mode = Mode::from_raw_mode(entry.stat.st_mode & 0o1777);
                    rustix::fs::fchmod(&file, mode).map_err(Error::os("set mode of", &below))?;
                }
            }
            FileType::Symlink | FileType::Fifo => {}
            FileType::Socket => {
                return Err(Error::UnfitFile { path: below, kind: "socket" });
            }
            _ => {
                return Err(Error::UnfitFile { path: below, kind: "device" });
            }
        }
    }
    Ok(())
}
