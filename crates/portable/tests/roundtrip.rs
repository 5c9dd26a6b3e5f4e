//! Trees that leave and come back, and archives that were changed on the way, without a server. Needs root, for owners
//! and the marks of overlays.
#![allow(clippy::unwrap_used)]

use forkpoint_domain::{
    ids::{CheckpointId, SandboxId},
    scope::ScopeSpec,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::portable::{EnvState, Lineage};
use forkpoint_portable::{Export, Import, Result};
use forkpoint_templates::Limits;
use forkpoint_vault::hash_tree;
use forkpoint_volumes::Tree;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::{
    fs::{self, File},
    io::{Seek, Write},
    os::unix::fs::{FileExt, PermissionsExt, chown, symlink},
    path::Path,
};
use tempfile::TempDir;

fn lineage() -> Lineage {
    Lineage {
        checkpoint: CheckpointId::from_uuid(uuid::Uuid::from_u128(1)),
        sandbox: SandboxId::from_uuid(uuid::Uuid::from_u128(2)),
        parent: Some(CheckpointId::from_uuid(uuid::Uuid::from_u128(3))),
        name: "a \"name\" = ü".into(),
        description: Some("what\nfor".into()),
        metadata: serde_json::from_str(r#"{"accuracy":0.5}"#).unwrap(),
        template: TemplateRef { name: TemplateName::default(), digest: "0".repeat(32) },
        scope: ScopeSpec::default(),
        created_at: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
        checksum: String::new(),
        env: EnvState::LeftOut,
    }
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, format!("trusted.overlay.{name}"), value, XattrFlags::empty()).unwrap();
}

/// A template, and a layer upon it with one of everything.
fn world() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("template");
    for dir in ["etc/conf.d", "usr/share/old/deep", "usr/lib", "usr/share/name"] {
        fs::create_dir_all(template.join(dir)).unwrap();
    }
    for file in
        ["etc/gone", "etc/also gone", "etc/conf.d/a", "usr/share/old/x", "usr/share/old/deep/y", "usr/share/name/z"]
    {
        fs::write(template.join(file), file).unwrap();
    }
    fs::hard_link(template.join("usr/share/old/x"), template.join("usr/share/old/x again")).unwrap();
    let upper = folder.path().join("layer/upper");
    for dir in ["etc/conf.d", "usr/share/new", "usr/share/name", "work/deep"] {
        fs::create_dir_all(upper.join(dir)).unwrap();
    }
    whiteout(&upper.join("etc/gone"));
    fs::hard_link(upper.join("etc/gone"), upper.join("etc/also gone")).unwrap();
    mark(&upper.join("etc/conf.d"), "opaque", b"y");
    fs::write(upper.join("etc/conf.d/own"), "own").unwrap();
    mark(&upper.join("etc"), "impure", b"y");
    mark(&upper.join("etc"), "origin", b"\0\xfb\x1d\x00binary");
    whiteout(&upper.join("usr/share/old"));
    mark(&upper.join("usr/share/new"), "redirect", b"/usr/share/old");
    fs::write(upper.join("usr/share/new/added"), "added").unwrap();
    whiteout(&upper.join("usr/share/new/x"));
    mark(&upper.join("usr/share/name"), "redirect", b"/usr/lib");
    let work = upper.join("work");
    fs::write(work.join("plain"), "plain").unwrap();
    fs::hard_link(work.join("plain"), work.join("deep/plain")).unwrap();
    fs::set_permissions(work.join("plain"), fs::Permissions::from_mode(0o4751)).unwrap();
    chown(work.join("deep"), Some(1000), Some(65_535)).unwrap();
    rustix::fs::setxattr(work.join("plain"), "user.a=b", b"\0=\n", XattrFlags::empty()).unwrap();
    symlink("../../../etc/shadow", work.join("link")).unwrap();
    rustix::fs::mknodat(CWD, work.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let sparse = File::create(work.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"middle", 20 << 20).unwrap();
    fs::write(work.join("zeros"), vec![0; 300_000]).unwrap();
    fs::write(work.join("n".repeat(255)), "long").unwrap();
    fs::write(upper.join("empty"), "").unwrap();
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    for (path, at) in
        [("work/link", time(5, 1)), ("work/plain", time(-3, 999_999_999)), ("work/deep", time(1 << 34, 0))]
    {
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, upper.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    folder
}

fn tree(world: &TempDir) -> Tree {
    Tree { template: world.path().join("template"), layer: Some(world.path().join("layer")) }
}

fn exported(world: &TempDir, with_template: bool) -> Vec<u8> {
    let export = Export::prepare(tree(world), lineage(), None, with_template, &|| false).unwrap();
    let mut bytes = Vec::new();
    export.write(&mut bytes, &|| false).unwrap();
    assert_eq!(bytes.len() as u64, export.size());
    bytes
}

fn limits() -> Limits {
    Limits { max_entries: 1000, max_bytes: 100 << 20, ..Limits::default() }
}

fn taken(bytes: &[u8], upper: &Path) -> Result<String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    Import::open(file, &limits(), &|| false)?.changes(upper, &limits(), &|| false)
}

#[test]
fn a_layer_comes_back_as_it_was_and_says_where_it_came_from() {
    let world = world();
    let hash = hash_tree(&world.path().join("layer/upper"), &|| false).unwrap().to_string();
    for with_template in [false, true] {
        let bytes = exported(&world, with_template);
        assert_eq!(exported(&world, with_template), bytes, "equal trees make equal bytes");
        let back = tempfile::tempdir().unwrap();
        assert_eq!(taken(&bytes, back.path()).unwrap(), hash);
        assert_eq!(hash_tree(back.path(), &|| false).unwrap().to_string(), hash);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let import = Import::open(file, &limits(), &|| false).unwrap();
        assert_eq!(*import.lineage(), Lineage { checksum: hash.clone(), ..lineage() });
        assert_eq!(import.base().is_some(), with_template);
        // Holes stay holes: 40 MiB with one block of data.
        let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap());
        assert!(blocks(&back.path().join("work/sparse")) < 1000);
        assert!(bytes.len() < 2 << 20, "{}", bytes.len());
    }
}

#[test]
fn a_layer_that_is_not_what_its_checksum_says_is_not_exported_and_one_that_changes_breaks_off() {
    let world = world();
    let other = Lineage { checksum: format!("b3:{}", "0".repeat(64)), ..lineage() };
    assert!(Export::prepare(tree(&world), other, None, false, &|| false).is_err());
    let export = Export::prepare(tree(&world), lineage(), None, false, &|| false).unwrap();
    fs::write(world.path().join("layer/upper/work/zeros"), vec![1; 300_000]).unwrap();
    assert!(export.write(&mut std::io::sink(), &|| false).is_err());
    assert!(export.write(&mut std::io::sink(), &|| true).is_err());
    assert!(Export::prepare(tree(&world), lineage(), None, false, &|| true).is_err());
}

#[test]
fn what_changed_on_the_way_is_refused_or_changes_nothing() {
    let world = world();
    let bytes = exported(&world, false);
    let hash = hash_tree(&world.path().join("layer/upper"), &|| false).unwrap().to_string();
    // Deterministic, spread over headers, documents and contents.
    let mut state = 1_u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for round in 0..300 {
        let mut changed = bytes.clone();
        let at = next(changed.len());
        match round % 3 {
            0 => changed.truncate(at),
            1 => changed[at] ^= 1 << next(8),
            _ => {
                let length = next(2000).min(changed.len() - at);
                changed.drain(at..at + length);
            }
        }
        let back = tempfile::tempdir().unwrap();
        // A byte of padding says nothing.
        if let Ok(found) = taken(&changed, back.path()) {
            assert_eq!(found, hash, "round {round} at {at}");
        }
    }
}
