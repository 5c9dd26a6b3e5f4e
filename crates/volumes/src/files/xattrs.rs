//! Extended attributes of any kind of file, also of those that must not be opened.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{At, Error, Result, sandbox_path};
use crate::tree::dir::proc_path;

/// The kernel's `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const LIMIT: usize = 65_536;

const OVERLAY: &[u8] = b"trusted.overlay.";

/// Which attributes a copy takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attributes {
    /// Those that belong to the file as the sandbox sees it.
    Visible,
    /// Also the marks by which the layer is laid over a template: for copies of whole layers.
    WithOverlayMarks,
}

/// Name and value pairs, sorted by name.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The value of one attribute of an open file or directory; `None` if it is not set.
pub(crate) fn get_small(fd: impl AsFd, name: &str, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut buffer = [0u8; 256];
    match rustix::fs::fgetxattr(&fd, name, &mut buffer) {
        Ok(len) => Ok(Some(buffer[..len].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => read_value(&proc_path(fd.as_fd()), name.as_bytes(), path),
        Err(e) => Err(e).inside("read an attribute of", path),
    }
}

/// All attributes of a file; `fd` may be an `O_PATH` descriptor.
pub(crate) fn get_all(fd: BorrowedFd<'_>, which: Attributes, path: &[u8]) -> Result<Xattrs> {
    let file = proc_path(fd);
    let mut names = Vec::new();
    loop {
        let size = match rustix::fs::listxattr_query(&*file) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Ok(size) => size,
            Err(e) => return Err(e).inside("list the attributes of", path),
        };
        names.resize(size.min(LIMIT), 0);
        match rustix::fs::listxattr(&*file, &mut *names) {
            Ok(len) => {
                names.truncate(len);
                break;
            }
            Err(Errno::RANGE) if size <= LIMIT => {}
            Err(Errno::RANGE | Errno::TOOBIG) => {
                return Err(Error::BadXattr { path: sandbox_path(path), reason: "more than 64 KiB of names" });
            }
            Err(e) => return Err(e).inside("list the attributes of", path),
        }
    }
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| is_copied(name, which)) {
        if let Some(value) = read_value(&file, name, path)? {
            all.push((name.to_vec(), value));
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Makes the attributes of a file these and no others of the copied kinds.
pub(crate) fn set_all(fd: BorrowedFd<'_>, wanted: &Xattrs, which: Attributes, path: &[u8]) -> Result<()> {
    let file = proc_path(fd);
    for (name, _) in get_all(fd, which, path)? {
        if wanted.binary_search_by(|(have, _)| have.cmp(&name)).is_err() {
            match rustix::fs::removexattr(&*file, &name[..]) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(e) => return Err(e).inside("remove an attribute of", path),
            }
        }
    }
    for (name, value) in wanted {
        rustix::fs::setxattr(&*file, &name[..], value, XattrFlags::empty()).inside("set an attribute of", path)?;
    }
    Ok(())
}

/// Sets one attribute.
pub(crate) fn set(fd: BorrowedFd<'_>, name: &str, value: &[u8], path: &[u8]) -> Result<()> {
    rustix::fs::setxattr(proc_path(fd), name, value, XattrFlags::empty()).inside("set an attribute of", path)
}

fn read_value(file: &str, name: &[u8], path: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::getxattr(file, name, &mut *value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(Errno::NODATA) => return Ok(None),
            Err(Errno::RANGE) if value.len() < LIMIT => value.resize(LIMIT, 0),
            Err(Errno::RANGE | Errno::TOOBIG) => {
                return Err(Error::BadXattr { path: sandbox_path(path), reason: "a value has more than 64 KiB" });
            }
            Err(e) => return Err(e).inside("read an attribute of", path),
        }
    }
}

/// Not copied are what the host's security module and file system say for themselves.
fn is_copied(name: &[u8], which: Attributes) -> bool {
    if name.starts_with(OVERLAY) {
        return which == Attributes::WithOverlayMarks;
    }
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}
