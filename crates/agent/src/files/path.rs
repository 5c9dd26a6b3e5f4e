//! Paths of requests: checked, split, and made where missing.

use std::os::fd::OwnedFd;

use forkpoint_protocol::ErrorKind;
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::Owner;
use crate::failure::{Failure, shown};

/// The kernel's limit, with the NUL.
const MAX_PATH: usize = 4096;
/// The kernel's limit for links in one path.
const MAX_LINKS: usize = 40;
const DEFAULT_MODE: u32 = 0o755;

/// Refuses what is no absolute path. The kernel checks the rest.
pub(super) fn checked(path: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if path.first() != Some(&b'/') {
        return Err(Failure::invalid(format!("path `{}`: it must be absolute", shown(&path))));
    }
    if path.contains(&0) {
        return Err(Failure::invalid(format!("path `{}`: it has a NUL byte", shown(&path))));
    }
    if path.len() >= MAX_PATH {
        let message = format!("path `{}`: it must have less than {MAX_PATH} bytes", shown(&path));
        return Err(Failure::new(ErrorKind::TooLarge, message));
    }
    Ok(path)
}

/// A name in an open directory: what calls relative to descriptors need.
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    pub(super) name: Vec<u8>,
}

/// Opens the parent of what the path names, following links up to there. The root directory and
/// paths that end in `..` name nothing in a parent.
pub(super) fn place(path: &[u8]) -> Result<Place, Failure> {
    let (parent, name) = split(path)?;
    Ok(Place { parent: open_directory(&parent)?, name })
}

/// As [`place`], making missing parents for `owner`.
pub(super) fn place_with_parents(path: &[u8], owner: Owner) -> Result<Place, Failure> {
    let (parent, name) = split(path)?;
    let parent = match open_directory(&parent) {
        Err(failure) if failure.kind == ErrorKind::NotFound => make_parents(&parent, owner)?,
        result => result?,
    };
    Ok(Place { parent, name })
}

/// Follows the links that stand at the path itself, so that what is left is a file or nothing.
pub(super) fn follow(path: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let mut path = path;
    for _ in 0..MAX_LINKS {
        let target = match rustix::fs::readlinkat(CWD, &path[..], Vec::new()) {
            Ok(target) => target.into_bytes(),
            // Not a link, or nothing there.
            Err(_) => return Ok(path),
        };
        path = match target.first() {
            Some(b'/') => target,
            _ => {
                let (parent, _) = split(&path)?;
                [&parent[..], b"/", &target].concat()
            }
        };
        path = checked(path)?;
    }
    Err(Failure::at("follow", &path, Errno::LOOP))
}

/// Makes one directory, or with `parents` all that are missing.
pub(super) fn make_directory(path: &[u8], mode: Option<u32>, parents: bool, owner: Owner) -> Result<(), Failure> {
    let failed = |errno| Failure::at("make directory", path, errno);
    if parents && is_directory(path) {
        return Ok(());
    }
    let place = if parents { place_with_parents(path, owner)? } else { place(path)? };
    make_one(&place.parent, &place.name, mode.unwrap_or(DEFAULT_MODE), owner).map_err(failed)
}

fn is_directory(path: &[u8]) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn make_one(parent: &OwnedFd, name: &[u8], mode: u32, owner: Owner) -> Result<(), Errno> {
    let private = Mode::from_raw_mode(0o700);
    rustix::fs::mkdirat(parent, name, private)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o7777))
}

fn make_parents(path: &[u8], owner: Owner) -> Result<OwnedFd, Failure> {
    let mut directory = open_directory(b"/")?;
    let mut so_far = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        so_far.push(b'/');
        so_far.extend_from_slice(name);
        let failed = |errno| Failure::at("make directory", &so_far, errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let next = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match make_one(&directory, name, DEFAULT_MODE, owner) {
                    // Somebody else was quicker.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                rustix::fs::openat(&directory, name, flags, Mode::empty())
            }
            result => result,
        };
        directory = next.map_err(failed)?;
    }
    Ok(directory)
}

fn open_directory(path: &[u8]) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Failure::at("open directory", path, errno))
}

/// Parent and last name, without the slashes that may end the path.
fn split(path: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = &path[start..end];
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Failure::invalid(format!("path `{}`: it must end in a name", shown(path))));
    }
    Ok((path[..start].to_vec(), name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_their_last_name() {
        for (path, parent, name) in
            [("/a", "/", "a"), ("/a/b", "/a/", "b"), ("//a//b//", "//a//", "b"), ("/a/../b", "/a/../", "b")]
        {
            assert_eq!(split(path.as_bytes()).unwrap(), (parent.as_bytes().to_vec(), name.as_bytes().to_vec()));
        }
        for path in ["/", "//", "/a/..", "/a/.", "/.."] {
            assert_eq!(split(path.as_bytes()).unwrap_err().kind, ErrorKind::Invalid, "{path}");
        }
    }

    #[test]
    fn relative_overlong_and_nul_paths_are_refused() {
        assert_eq!(checked(b"a".to_vec()).unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(checked(Vec::new()).unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(checked(b"/a\0".to_vec()).unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(checked([b'/'; 4096].to_vec()).unwrap_err().kind, ErrorKind::TooLarge);
    }
}
