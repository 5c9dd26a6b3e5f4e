//! What is mounted on a directory.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

/// A mount, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) fs_type: String,
    pub(super) source: PathBuf,
}

/// The topmost mount exactly on `path`, which must be absolute and without symlinks.
pub(super) fn at(path: &Path) -> Result<Option<Mount>> {
    // The calling thread's own view: its mount namespace may be another than the process's.
    let table = Path::new("/proc/thread-self/mountinfo");
    let text = std::fs::read(table).at("read", table)?;
    Ok(text.split(|b| *b == b'\n').filter_map(|line| parse(line, path)).next_back())
}

/// `36 35 98:0 /root /point options optional... - type source super`, see proc(5).
fn parse(line: &[u8], path: &Path) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescape(fields.nth(4)?);
    if point != path.as_os_str().as_bytes() {
        return None;
    }
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = PathBuf::from(std::ffi::OsString::from_vec(unescape(rest.next()?)));
    Some(Mount { fs_type, source })
}

/// Blanks, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_are_read_with_escapes_and_optional_fields() {
        let line = b"36 35 98:0 / /a\\040b\\134c rw,nosuid shared:1 master:2 - btrfs /dev/loop3 rw,ssd";
        let found = parse(line, Path::new("/a b\\c")).expect("matches");
        assert_eq!(found, Mount { fs_type: "btrfs".into(), source: "/dev/loop3".into() });
        assert_eq!(parse(line, Path::new("/a")), None);
        assert_eq!(parse(b"", Path::new("/a")), None);
    }
}
