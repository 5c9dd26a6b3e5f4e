//! Random file operations, as a sandbox would do them on its mounted overlay.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Every path is made of these.
pub(crate) const NAMES: [&[u8]; 5] = [b"a", b"b", b"dir", b"new\nline", b"\xff\xfe"];

pub(crate) type Path3 = Vec<usize>;

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write(Path3, u8, usize),
    Append(Path3),
    Truncate(Path3, u64),
    Sparse(Path3),
    Rename(Path3, Path3),
    Remove(Path3),
    MakeDir(Path3),
    /// Removed and made again: an opaque directory where the template has one.
    Recreate(Path3),
    Chmod(Path3, u32),
    Chown(Path3, u32),
    Symlink(Path3, u8),
    Link(Path3, Path3),
    Fifo(Path3),
    Socket(Path3),
    Xattr(Path3, u8),
    Capability(Path3),
    Touch(Path3, u32),
    Remount,
}

pub(crate) fn path() -> impl Strategy<Value = Path3> {
    prop::collection::vec(0..NAMES.len(), 1..=3)
}

pub(crate) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (path(), any::<u8>(), 0usize..9000).prop_map(|(p, b, n)| Op::Write(p, b, n)),
        1 => path().prop_map(Op::Append),
        1 => (path(), 0u64..20_000).prop_map(|(p, n)| Op::Truncate(p, n)),
        1 => path().prop_map(Op::Sparse),
        4 => (path(), path()).prop_map(|(p, q)| Op::Rename(p, q)),
        3 => path().prop_map(Op::Remove),
        3 => path().prop_map(Op::MakeDir),
        2 => path().prop_map(Op::Recreate),
        1 => (path(), 0u32..0o7777).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), 0u32..3).prop_map(|(p, u)| Op::Chown(p, u)),
        1 => (path(), any::<u8>()).prop_map(|(p, t)| Op::Symlink(p, t)),
        2 => (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        1 => path().prop_map(Op::Fifo),
        1 => path().prop_map(Op::Socket),
        1 => (path(), any::<u8>()).prop_map(|(p, v)| Op::Xattr(p, v)),
        1 => path().prop_map(Op::Capability),
        1 => (path(), any::<u32>()).prop_map(|(p, t)| Op::Touch(p, t)),
        1 => Just(Op::Remount),
    ];
    prop::collection::vec(op, 0..=most)
}

/// Sandbox path bytes.
pub(crate) fn inside(path: &Path3) -> Vec<u8> {
    path.iter().flat_map(|n| [b"/", NAMES[*n]].concat()).collect()
}

fn host(root: &Path, path: &Path3) -> PathBuf {
    path.iter().fold(root.to_owned(), |at, n| at.join(OsStr::from_bytes(NAMES[*n])))
}

/// A template with directories, files and symlinks that the operations will meet.
pub(crate) fn make_template(root: &Path) {
    fs::create_dir(root).unwrap();
    for (at, name) in NAMES.iter().enumerate() {
        let top = host(root, &vec![at]);
        if *name == b"b" {
            fs::write(&top, vec![b'b'; 5000]).unwrap();
            continue;
        }
        fs::create_dir(&top).unwrap();
        for below in 0..NAMES.len() {
            let path = host(root, &vec![at, below]);
            match below {
                0 => fs::write(&path, format!("{at} {below}")).unwrap(),
                1 => std::os::unix::fs::symlink("../b", &path).unwrap(),
                2 => {
                    fs::create_dir(&path).unwrap();
                    fs::write(path.join("a"), "deep").unwrap();
                    fs::create_dir(path.join("dir")).unwrap();
                    fs::write(path.join("dir/b"), "deeper").unwrap();
                }
                _ => fs::write(&path, vec![below as u8; 3000 * below]).unwrap(),
            }
        }
    }
    rustix::fs::setxattr(root.join("b"), "user.from", b"template", XattrFlags::empty()).unwrap();
}

/// Does one operation; like a program it may fail on what is there.
pub(crate) fn play(root: &Path, op: &Op) {
    let at = |p: &Path3| host(root, p);
    match op {
        // Opening a FIFO for writing would wait for a reader.
        Op::Write(p, byte, len) if is_plain(&at(p)) => drop(fs::write(at(p), vec![*byte; *len])),
        Op::Append(p) if is_plain(&at(p)) => {
            if let Ok(mut file) = OpenOptions::new().append(true).open(at(p)) {
                std::io::Write::write_all(&mut file, b"appended").unwrap();
            }
        }
        Op::Truncate(p, len) if is_plain(&at(p)) => {
            if let Ok(file) = OpenOptions::new().write(true).open(at(p)) {
                file.set_len(*len).unwrap();
            }
        }
        Op::Sparse(p) if is_plain(&at(p)) => {
            if let Ok(file) = fs::File::create(at(p)) {
                file.set_len(300_000).unwrap();
                file.write_at(b"island", 150_000).unwrap();
            }
        }
        Op::Write(..) | Op::Append(_) | Op::Truncate(..) | Op::Sparse(_) | Op::Remount => {}
        Op::Rename(p, q) => drop(fs::rename(at(p), at(q))),
        Op::Remove(p) => remove(&at(p)),
        Op::MakeDir(p) => drop(fs::create_dir(at(p))),
        Op::Recreate(p) => {
            remove(&at(p));
            drop(fs::create_dir(at(p)));
        }
        Op::Chmod(p, mode) if !at(p).is_symlink() => {
            drop(fs::set_permissions(at(p), fs::Permissions::from_mode(*mode)));
        }
        Op::Chmod(..) => {}
        Op::Chown(p, id) => drop(std::os::unix::fs::lchown(at(p), Some(*id), Some(id + 1))),
        Op::Symlink(p, target) => drop(std::os::unix::fs::symlink(format!("../t{target}"), at(p))),
        Op::Link(p, q) => drop(fs::hard_link(at(p), at(q))),
        Op::Fifo(p) => drop(rustix::fs::mknodat(CWD, at(p), FileType::Fifo, Mode::RUSR, 0)),
        Op::Socket(p) => drop(rustix::fs::mknodat(CWD, at(p), FileType::Socket, Mode::RUSR, 0)),
        Op::Xattr(p, value) => {
            rustix::fs::lsetxattr(at(p), "user.mark", &[*value], XattrFlags::empty()).unwrap_or(());
        }
        Op::Capability(p) if is_plain(&at(p)) && at(p).exists() => {
            // `struct vfs_cap_data`, version 2: CAP_NET_BIND_SERVICE permitted and effective.
            let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            rustix::fs::lsetxattr(at(p), "security.capability", &value, XattrFlags::empty()).unwrap();
        }
        Op::Capability(_) => {}
        Op::Touch(p, secs) => {
            let time = Timespec { tv_sec: i64::from(*secs), tv_nsec: 123_456_789 };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, at(p), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap_or(());
        }
    }
}

/// A regular file, or nothing where one can be made.
fn is_plain(path: &Path) -> bool {
    path.symlink_metadata().map_or(true, |m| m.is_file())
}

fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        fs::remove_dir_all(path).unwrap();
    } else {
        drop(fs::remove_file(path));
    }
}
