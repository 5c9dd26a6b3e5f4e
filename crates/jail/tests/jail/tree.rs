//! Trees that were made to lead the jail astray.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use forkpoint_jail::{IdentityFile, LaunchError};

use crate::sandbox::{Bed, LIMITS};

/// What the failed step of a launch was.
fn failed_step(bed: &mut Bed) -> String {
    match bed.launch(&["sleep"]) {
        Err(LaunchError::Step(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn a_link_where_etc_was_leads_nowhere() {
    let mut bed = Bed::new();
    let outside = bed.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("hosts"), "of the host").unwrap();
    fs::remove_dir_all(bed.template("etc")).unwrap();
    for target in [outside.to_str().unwrap(), "../../../../etc", "/proc/self/root/etc", "tmp"] {
        let _ = fs::remove_file(bed.upper("etc"));
        symlink(target, bed.upper("etc")).unwrap();
        bed.spec.identity = vec![IdentityFile { path: "/etc/hosts".into(), content: b"fresh".to_vec() }];
        bed.launch(&["sleep"]).unwrap();
        bed.group.kill_all().unwrap();
    }
    assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "of the host");
}

#[test]
fn identity_files_are_not_laid_over_links_directories_and_devices() {
    let mut bed = Bed::new();
    fs::create_dir(bed.upper("etc")).unwrap();
    symlink("/root/target", bed.upper("etc/hosts")).unwrap();
    fs::create_dir(bed.upper("etc/hostname")).unwrap();
    make_fifo(&bed.upper("etc/resolv.conf"));
    for name in ["hosts", "hostname", "resolv.conf", "machine-id"] {
        bed.spec.identity.push(IdentityFile { path: format!("/etc/{name}").into(), content: b"fresh".to_vec() });
    }
    bed.complete(&["facts"]);
    let mountinfo = bed.read("facts/mountinfo");
    let laid_over: Vec<&str> =
        mountinfo.lines().map(|line| line.split(' ').nth(4).unwrap()).filter(|at| at.starts_with("/etc")).collect();
    assert_eq!(laid_over, ["/etc/machine-id"]);
}

#[test]
fn mount_points_of_the_wrong_kind_are_refused_by_name() {
    type Make = fn(&Path);
    let kinds: [(&str, Make, &str); 4] = [
        ("proc", |path| symlink("/tmp", path).unwrap(), "is a symbolic link"),
        ("sys", |path| fs::write(path, "").unwrap(), "is not a directory"),
        ("dev", make_fifo, "is not a directory"),
        ("run", |path| symlink("../../../../run", path).unwrap(), "is a symbolic link"),
    ];
    for (name, make, reason) in kinds {
        let mut bed = Bed::new();
        fs::remove_dir(bed.template(name)).unwrap();
        make(&bed.upper(name));
        let step = failed_step(&mut bed);
        assert!(step.starts_with(&format!("open mount point /{name}: {reason}")), "{step}");
        assert_eq!(bed.group.pids().unwrap(), [0; 0]);
    }
}

#[test]
fn missing_mount_points_are_made() {
    let mut bed = Bed::new();
    for name in ["proc", "sys", "dev", "run"] {
        fs::remove_dir(bed.template(name)).unwrap();
    }
    bed.complete(&["facts"]);
    assert_eq!(bed.read("facts/pid"), "1");
    for name in ["proc", "sys", "dev", "run"] {
        assert_eq!(fs::read_dir(bed.upper(name)).unwrap().count(), 0);
    }
}

#[test]
fn a_tree_without_anything_is_mounted_but_has_no_loader_for_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("empty");
    fs::create_dir(&template).unwrap();
    let mut bed = Bed::on(directory, &template, LIMITS);
    let step = failed_step(&mut bed);
    assert!(step.starts_with("start the agent "), "{step}");
    assert!(step.ends_with("(errno 2)"), "{step}");
    assert_eq!(bed.group.pids().unwrap(), [0; 0]);
}

#[test]
fn a_read_only_root_still_has_writable_mounts() {
    let mut bed = Bed::new();
    bed.spec.read_only_root = true;
    fs::write(bed.template("run.sh"), "").unwrap();
    let launched = bed.launch(&["sleep"]).unwrap();
    let mountinfo = fs::read_to_string(format!("/proc/{}/mountinfo", launched.pid)).unwrap();
    let options = |at: &str| {
        let line = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some(at)).unwrap();
        line.split(' ').nth(5).unwrap().to_owned()
    };
    assert!(options("/").starts_with("ro,"), "{mountinfo}");
    assert!(options("/run").starts_with("rw,"), "{mountinfo}");
    bed.group.kill_all().unwrap();
}
