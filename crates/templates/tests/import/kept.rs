//! What an import keeps, adds and leaves out.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use forkpoint_templates::{Details, Error, Publication};
use tar::EntryType;

use crate::archive::{Archive, gzip, xz, zstd};
use crate::place::{Place, listing};

fn sample() -> Vec<u8> {
    Archive::root()
        .raw(EntryType::Regular, b"usr/bin/tool", b"#!/bin/sh\n", |header| {
            header.set_mode(0o4755);
            header.set_uid(33);
            header.set_gid(44);
        })
        .hard_link("usr/bin/again", "./usr/bin/tool")
        .symlink("bin", "usr/bin")
        .symlink("usr/out", "/etc/../../outside")
        .file("deep/without/parents", "x")
        .raw(EntryType::Fifo, b"usr/fifo", b"", |_| {})
        .raw(EntryType::Char, b"./dev/null", b"", |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .raw(EntryType::Regular, b"usr/odd\xff\nname", b"odd", |_| {})
        .pax(&[
            ("path", "usr/ünder\nline".as_bytes()),
            ("mtime", b"1000000001.25"),
            ("SCHILY.xattr.user.note", b"a\nb"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("short", "pax")
        .dir("proc/1")
        .file("proc/1/stat", "of the host")
        .end()
}

#[test]
fn every_form_of_archive_gives_the_same_template() {
    let place = Place::new();
    let tar = sample();
    let forms = [("tar", tar.clone()), ("gz", gzip(&tar)), ("xz", xz(&tar)), ("zst", zstd(&tar))];
    let templates: Vec<_> =
        forms.iter().map(|(form, bytes)| place.import(form, &place.write("archive", bytes)).unwrap()).collect();
    let first = listing(&templates[0].root);
    for template in &templates {
        assert_eq!(template.digest, templates[0].digest);
        assert_eq!(listing(&template.root), first);
    }
    // And so does the directory that it is of.
    let again = place.import("dir", &templates[0].root).unwrap();
    assert_eq!((again.digest, listing(&again.root)), (templates[0].digest.clone(), first));
}

#[test]
fn files_keep_what_means_something_inside_and_lose_what_does_not() {
    let place = Place::new();
    let (template, left_out) = place
        .store
        .import(
            &Publication { name: "sample".into(), ..Publication::default() },
            &place.write("archive.tar", &sample()),
            &mut |_| {},
        )
        .unwrap();
    assert_eq!(left_out, 1);
    let root = &template.root;
    let found = listing(root);
    for (path, expected) in [
        ("usr/bin/tool", "755 33:44 \"#!/bin/sh\\n\""),
        ("usr/bin/again", "755 33:44 \"#!/bin/sh\\n\""),
        ("bin", "777 0:0 -> usr/bin"),
        ("usr/out", "777 0:0 -> /etc/../../outside"),
        ("deep", "755 0:0 dir"),
        ("deep/without/parents", "644 0:0 \"x\""),
        ("usr/fifo", "644 0:0 other"),
        ("usr/ünder\nline", "644 0:0 \"pax\""),
        ("etc/motd", "644 0:0 \"hello\\n\""),
        ("etc/hostname", "644 0:0 \"sandbox\\n\""),
        ("etc/passwd", "644 0:0 \"root:x:0:0:root:/root:/bin/sh\\nsandbox:x:1000:1000::/home/sandbox:/bin/sh\\n\""),
        ("etc/group", "644 0:0 \"root:x:0:\\nsandbox:x:1000:\\n\""),
        ("tmp", "1777 0:0 dir"),
        ("workspace", "755 1000:1000 dir"),
        ("home/sandbox", "755 1000:1000 dir"),
        ("proc", "755 0:0 dir"),
    ] {
        assert_eq!(found.get(path).map(String::as_str), Some(expected), "{path}");
    }
    assert!(!found.contains_key("proc/1") && !found.contains_key("dev/null"), "{found:?}");
    let tool = fs::metadata(root.join("usr/bin/tool")).unwrap();
    assert_eq!((tool.nlink(), tool.mtime()), (2, 1_000_000_000));
    assert_eq!(tool.ino(), fs::metadata(root.join("usr/bin/again")).unwrap().ino());
    assert_eq!(fs::read(root.join(std::ffi::OsStr::from_bytes(b"usr/odd\xff\nname"))).unwrap(), b"odd");
    let line = root.join("usr/ünder\nline");
    assert_eq!(fs::metadata(&line).unwrap().mtime_nsec(), 250_000_000);
    let mut names = vec![0; 1000];
    let length = rustix::fs::listxattr(&line, &mut names).unwrap();
    assert_eq!(&names[..length], b"user.note\0");
    let mut value = vec![0; 10];
    assert_eq!(rustix::fs::getxattr(&line, "user.note", &mut value), Ok(3));
    assert_eq!(&value[..3], b"a\nb");
    assert_eq!(fs::metadata(root.join("usr/bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(template.manifest.details.origin, "tar archive archive.tar");
}

#[test]
fn a_users_line_is_added_to_those_that_are_there() {
    let place = Place::new();
    let passwd = "root:x:0:0::/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh";
    let archive =
        Archive::root().file("etc/passwd", passwd).file("etc/group", "sandbox:x:7:\n").file("usr/bin/bash", "");
    let archive = archive.symlink("bin", "/usr/bin");
    let template = place.import("users", &place.write("a.tar", &archive.end())).unwrap();
    let read = |name: &str| fs::read_to_string(template.root.join(name)).unwrap();
    assert_eq!(read("etc/passwd"), format!("{passwd}\nsandbox:x:1000:1000::/home/sandbox:/bin/bash\n"));
    assert_eq!(read("etc/group"), "sandbox:x:7:\n");
}

#[test]
fn the_newest_import_is_the_one_that_is_used_and_older_ones_stay() {
    let place = Place::new();
    let one = place.write("one.tar", &Archive::root().file("usr/version", "1").end());
    let two = place.write("two.tar", &Archive::root().file("usr/version", "2").end());
    let version = || fs::read_to_string(place.store.get("x").unwrap().root.join("usr/version")).unwrap();
    let first = place.import("x", &one).unwrap();
    let second = place.import("x", &two).unwrap();
    assert_eq!(version(), "2");
    assert_eq!(place.store.get_version("x", &first.digest).unwrap(), first);
    // The same again is no third version, but the newest one.
    assert_eq!(place.import("x", &one).unwrap().digest, first.digest);
    assert_eq!((version(), place.store.list().unwrap().len()), ("1".to_owned(), 2));
    assert!(place.store.remove("x", &first.digest).unwrap());
    assert!(!place.store.remove("x", &first.digest).unwrap());
    assert_eq!((version(), place.store.list().unwrap().len()), ("2".to_owned(), 1));
    assert!(!first.root.exists() && second.root.exists());
    assert!(!place.store.remove("x", "../../x").unwrap());
}

#[test]
fn an_organisations_template_is_its_own() {
    let place = Place::new();
    let source = place.write("one.tar", &Archive::root().end());
    let of = |owner: Option<&str>, name: &str| {
        let details = Details { owner: owner.map(str::to_owned), ..Details::default() };
        Publication { name: name.into(), details, ..Publication::default() }
    };
    let one = place.import_with(&of(Some("org-1"), "tool"), &source).unwrap();
    let two = place.import_with(&of(Some("org-2"), "tool"), &source).unwrap();
    assert_ne!(one.digest, two.digest, "the same files of two organisations are two templates");
    assert_eq!(place.store.get_as("tool", Some("org-1")).unwrap(), one);
    assert_eq!(place.store.get_as("tool", Some("org-2")).unwrap(), two);
    for stranger in [None, Some("org-3")] {
        let error = place.store.get_as("tool", stranger).unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }) && !error.to_string().contains("tool;"), "{error}");
    }
    place.import_with(&of(None, "shared"), &source).unwrap();
    let taken = place.import_with(&of(Some("org-1"), "shared"), &source).unwrap_err();
    assert!(matches!(taken, Error::NameTaken { .. }), "{taken}");
    for reserved in ["default", "base"] {
        let taken = place.import_with(&of(None, reserved), &source).unwrap_err();
        assert!(matches!(taken, Error::NameTaken { .. }), "{taken}");
    }
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let place = Place::new();
    let archive = (0..2000).fold(Archive::root(), |archive, n| archive.file(&format!("usr/{n}"), "x"));
    let source = place.write("many.tar", &archive.end());
    let cancel = place.store.canceller();
    let publication = Publication { name: "x".into(), ..Publication::default() };
    let error = place.store.import(&publication, &source, &mut |_| cancel.cancel()).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(place.store.list().unwrap(), []);
    assert_eq!(fs::read_dir(place.path("data/templates/x")).unwrap().count(), 1);
}
