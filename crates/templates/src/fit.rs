//! What a root that was made elsewhere gets so that sandboxes can start from it: mount points, and the user that
//! commands run as.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::tree::{self, MOUNTED, open_below, open_root, open_subdir};
use crate::{Error, Result};

/// The id of the user and group `sandbox`.
const SANDBOX: u32 = 1000;

/// Directories that are made where they are missing: parent, name, mode, whether they belong to the user `sandbox`.
const WANTED: &[(&CStr, &CStr, u32, bool)] = &[
    (c"", c"tmp", 0o1777, false),
    (c"", c"var", 0o755, false),
    (c"var", c"tmp", 0o1777, false),
    (c"", c"home", 0o755, false),
    (c"home", c"sandbox", 0o755, true),
    (c"", c"workspace", 0o755, true),
    (c"", c"app", 0o755, true),
];

/// Makes the tree at `root` one that sandboxes can start from; `origin` is for messages.
pub(crate) fn fit(root: &Path, origin: &str) -> Result<()> {
    let dir = open_root(root)?;
    for name in MOUNTED.iter().chain(&[c"etc"]) {
        ensure(dir.as_fd(), root, name, 0o755, false)?;
        match open_below(&dir, name, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => {}
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Error::unfit(
                    origin,
                    name.to_bytes(),
                    "is not a directory, but sandboxes have a mount there",
                ));
            }
            Err(errno) => return Err(Error::os("open directory", tree::join(root, name))(errno)),
        }
    }
    for (parent, name, mode, owned) in WANTED {
        if parent.is_empty() {
            ensure(dir.as_fd(), root, name, *mode, *owned)?;
            continue;
        }
        // A link or a file there: the tree has its own mind about where this is.
        let Ok(parent_dir) = open_below(&dir, parent, OFlags::RDONLY | OFlags::DIRECTORY) else { continue };
        ensure(parent_dir.as_fd(), &tree::join(root, parent), name, *mode, *owned)?;
    }
    let shell = if has_program(dir.as_fd(), c"bin/bash") { "/bin/bash" } else { "/bin/sh" };
    add_line(
        root,
        origin,
        c"passwd",
        "root:x:0:0:root:/root:/bin/sh",
        &format!("sandbox:x:{SANDBOX}:{SANDBOX}::/home/sandbox:{shell}"),
    )?;
    add_line(root, origin, c"group", "root:x:0:", &format!("sandbox:x:{SANDBOX}:"))
}

/// The release's code name that the tree says it is of; empty if it does not.
pub(crate) fn release(root: &Path) -> String {
    let text = tree::read_small(root, c"usr/lib/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    value.unwrap_or_default().trim_matches('"').chars().filter(plain).take(64).collect()
}

/// Makes a directory if there is nothing of this name.
fn ensure(dir: BorrowedFd<'_>, path: &Path, name: &CStr, mode: u32, owned: bool) -> Result<()> {
    let shown = tree::join(path, name);
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(Error::os("make directory", shown)(errno)),
    }
    let made = open_subdir(dir, name, &shown)?;
    if owned {
        rustix::fs::fchown(&made, Some(Uid::from_raw(SANDBOX)), Some(Gid::from_raw(SANDBOX)))
            .map_err(Error::os("set owner of", &shown))?;
    }
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode)).map_err(Error::os("set mode of", shown))
}

/// Adds the entry of `sandbox` to `/etc/<name>` unless it has one; a missing file begins with `first`.
fn add_line(root: &Path, origin: &str, name: &CStr, first: &str, line: &str) -> Result<()> {
    let etc = open_subdir(open_root(root)?, c"etc", &root.join("etc"))?;
    let inner = format!("etc/{}", name.to_string_lossy());
    match rustix::fs::statat(&etc, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {
            return tree::create_file(root, c"etc", name, format!("{first}\n{line}\n").as_bytes());
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size < 64 * 1024 => {}
        Ok(_) => return Err(Error::unfit(origin, inner.as_bytes(), "is not a regular file of less than 64 KiB")),
        Err(errno) => return Err(Error::os("stat", root.join(inner))(errno)),
    }
    let inner = std::ffi::CString::new(inner).unwrap_or_default();
    let mut bytes = tree::read_bytes(root, &inner)?;
    if bytes.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"sandbox:")) {
        return Ok(());
    }
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    tree::create_file(root, c"etc", name, &bytes)
}

/// Whether a program is there, as seen from inside: links of the tree are followed within the tree.
fn has_program(root: BorrowedFd<'_>, path: &CStr) -> bool {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).is_ok()
}
