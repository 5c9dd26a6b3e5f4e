//! Layers made of bytes, and every walk over what a layer changes.

use forkpoint_vault::parsers;
use forkpoint_volumes::{Basis, Everything, MeasureLimits, Tree, changes, compare, measure};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags};
use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"\xff", b".wh.a", b" "];

/// A template and a layer, built step by step as the bytes say.
pub fn change_walk(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let tops = [folder.path().join("template"), folder.path().join("layer/upper")];
    if tops.iter().any(|top| fs::create_dir_all(top).is_err())
        || fs::create_dir(folder.path().join("layer/work")).is_err()
    {
        return;
    }
    for step in bytes.chunks_exact(4).take(60) {
        // What cannot be made is left out.
        let _ = build(&tops[usize::from(step[0] & 1)], &tops, step);
    }
    walk(&Tree { template: tops[0].clone(), layer: Some(folder.path().join("layer")) });
    let entries = parsers::walk(&tops[1]);
    assert!(entries.is_none_or(|entries| entries <= 60), "more is found than was made: {entries:?}");
}

/// Whatever is found lies below the root, and a tree does not differ from itself.
fn walk(tree: &Tree) {
    let mut found = 0_u32;
    let walked = changes(tree, &mut |change| {
        assert!(change.path.starts_with(b"/") && !change.path.split(|byte| *byte == b'/').any(|part| part == b".."));
        found += 1;
        Ok(())
    });
    let limits = MeasureLimits { max_files: 100_000, max_bytes: 1 << 30 };
    for basis in [Basis::Changes, Basis::Merged] {
        let _ = measure(tree, &Everything, basis, limits);
    }
    if walked.is_ok()
        && let Ok(diff) = compare(tree, &Everything, Basis::Merged, tree, &Everything, Basis::Merged)
    {
        assert!(diff.is_empty(), "a tree differs from itself");
    }
}

/// One step of four bytes: in which tree and what, where, and with what.
fn build(top: &Path, tops: &[PathBuf; 2], step: &[u8]) -> rustix::io::Result<()> {
    let name = |byte: u8| OsStr::from_bytes(NAMES[usize::from(byte) % NAMES.len()]);
    let path = match step[1] >> 6 {
        0 => top.join(name(step[1])),
        1 => top.join(name(step[1])).join(name(step[2])),
        _ => top.join(name(step[1])).join(name(step[2])).join(name(step[3])),
    };
    let with = usize::from(step[3]);
    match (step[0] >> 1) % 10 {
        0 | 1 => rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700 | u32::from(step[3]))),
        2 => {
            // Only a new file: opening a FIFO that is there would wait for ever.
            let file = fs::File::options().write(true).create_new(true).open(&path);
            file.and_then(|mut file| file.write_all(&step[..with % 5])).map_err(|_| rustix::io::Errno::IO)
        }
        3 => rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, 0),
        4 => rustix::fs::symlink(["a", "..", "/", "../../layer", ""][with % 5], &path),
        5 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0),
        6 => rustix::fs::link(tops[1].join(name(step[3])), &path),
        7 => rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", &b"yx"[with % 2..][..1], XattrFlags::empty()),
        8 => {
            let to: [&[u8]; 7] = [b"a", b"/a", b"/a/b", b"../a", b"/../..", b"", b"/c//b\0"];
            rustix::fs::lsetxattr(&path, "trusted.overlay.redirect", to[with % 7], XattrFlags::empty())
        }
        _ => rustix::fs::chownat(
            CWD,
            &path,
            Some(Uid::from_raw(step[2].into())),
            Some(Gid::from_raw(step[3].into())),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
    }
}
