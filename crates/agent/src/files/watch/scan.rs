//! Looks through a directory, or a tree, without following links.

use std::io;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Trees that the kernel makes up and in which nothing is ever told of.
const PROC_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// What looking through a tree meets.
pub(super) trait Visitor {
    /// A directory, before what is in it; `false` leaves it out.
    fn enter(&mut self, path: &[u8]) -> io::Result<bool>;

    /// Something in it. An error ends the look.
    fn meet(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> io::Result<()>;
}

/// Looks through `directory` (without a slash at its end), with `recursive` through all below. What goes away
/// meanwhile is passed over.
pub(super) fn look(directory: &[u8], recursive: bool, visitor: &mut impl Visitor) -> io::Result<()> {
    let mut waiting = vec![directory.to_vec()];
    let mut is_first = true;
    while let Some(path) = waiting.pop() {
        // The start may be named by a link, what is below may not.
        let follow = if std::mem::take(&mut is_first) { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let opened = rustix::fs::open(if path.is_empty() { b"/" } else { &path[..] }, flags, Mode::empty());
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG)
                if !follow.is_empty() =>
            {
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        let is_made_up = rustix::fs::fstatfs(&fd).is_ok_and(|fs| matches!(fs.f_type as u64, PROC_MAGIC | SYSFS_MAGIC));
        if is_made_up || !visitor.enter(&path)? {
            continue;
        }
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let below = [&path[..], b"/", name].concat();
            visitor.meet(&below, name, &stat)?;
            if recursive && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                waiting.push(below);
            }
        }
    }
    Ok(())
}
