//! Network namespaces: made on a thread of their own, entered, bound to a path.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};

/// The namespace of the calling thread. (`/proc/self` would be that of the process's first thread.)
const OWN: &str = "/proc/thread-self/ns/net";
/// `NSFS_MAGIC` of the kernel's `magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Moves the calling thread into a new network namespace and returns it.
pub(crate) fn enter_new() -> Result<OwnedFd> {
    // SAFETY: only the network namespace is unshared, not the table of descriptors; memory and
    // descriptors are seen by all threads as before.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|errno| Error::step("make", "a network namespace", errno))?;
    own()
}

/// The calling thread's network namespace.
pub(crate) fn own() -> Result<OwnedFd> {
    open(Path::new(OWN))
}

/// Opens a namespace by its path, without following a link that someone else may have put there.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    // Entries below /proc/<pid>/ns are links that only the kernel can make.
    let follow = if path.starts_with("/proc") { 0 } else { OFlags::NOFOLLOW.bits() };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(follow as i32)
        .open(path)
        .map_err(|source| Error::step("open namespace", path.display().to_string(), source))?;
    Ok(file.into())
}

/// Moves the calling thread into `namespace`.
pub(crate) fn enter(namespace: BorrowedFd<'_>, subject: &str) -> Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::step("enter namespace", subject, errno))
}

/// Whether the two descriptors are one namespace.
pub(crate) fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let identity = |fd: BorrowedFd<'_>| -> io::Result<(u64, u64)> {
        let metadata = File::from(fd.try_clone_to_owned()?).metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    };
    Ok(identity(a)? == identity(b)?)
}

/// The namespace bound to `path`; `None` if there is no file, or one that nothing is bound to.
pub(crate) fn bound_to(path: &Path) -> Result<Option<OwnedFd>> {
    let failed = |source: io::Error| Error::step("open namespace", path.display().to_string(), source);
    let fd = match open(path) {
        Ok(fd) => fd,
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let statistics = rustix::fs::fstatfs(&fd).map_err(|errno| failed(errno.into()))?;
    Ok((statistics.f_type as u64 == NSFS_MAGIC).then_some(fd))
}

/// Makes a namespace on a thread of its own and binds it to `path`. Killed anywhere in between, nothing
/// is left but perhaps an empty file.
pub(crate) fn create_bound(path: &Path) -> Result<OwnedFd> {
    let failed = |step: &'static str| {
        let subject = path.display().to_string();
        move |source: io::Error| Error::step(step, subject, source)
    };
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(failed("create file"))?;
    on_thread(None, || {
        let namespace = enter_new()?;
        mount_bind(OWN, path).map_err(|errno| failed("bind namespace to")(errno.into()))?;
        Ok(namespace)
    })
}

/// Takes away what is bound to `path`, and the file. True if something was bound.
pub(crate) fn remove_bound(path: &Path) -> Result<bool> {
    let mut was_bound = false;
    while bound_to(path)?.is_some() {
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| Error::step("unmount", path.display().to_string(), errno))?;
        was_bound = true;
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::step("remove file", path.display().to_string(), source))
        }
        _ => Ok(was_bound),
    }
}

/// Runs `work` to its end on a new thread, in `namespace` if one is given, else in the caller's.
pub(crate) fn on_thread<T: Send>(
    namespace: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("network".into())
            .spawn_scoped(scope, || {
                if let Some(namespace) = namespace {
                    enter(namespace, "hub")?;
                }
                work()
            })
            .map_err(|source| Error::step("start", "a thread", source))?;
        thread.join().unwrap_or(Err(Error::Stopped))
    })
}
