//! Hostile layers and hostile bytes: no parser panics, nothing outside the layer is touched.

use crate::support::{Home, chmod, described, job, node, noise, snapshot};
use forkpoint_vault::{InclusionProof, Progress, Vault, VaultError, parsers};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use std::{fs, os::unix::fs::MetadataExt};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), size: u64) {
        // What is accepted has exactly one form.
        prop_assert_ne!(parsers::directory(&bytes), Some(false));
        parsers::index(&bytes, size);
        parsers::pack(&bytes);
        parsers::record(&bytes);
        parsers::hints(&bytes);
        parsers::object_key(&String::from_utf8_lossy(&bytes));
        let _ = InclusionProof::from_bytes(&bytes);
        let _ = InclusionProof::from_bytes(&[b"FPVPROF1", &bytes[..]].concat());
    }

    #[test]
    fn near_misses_of_directories_never_panic(
        count in 0u8..4, name in prop::collection::vec(any::<u8>(), 0..6), kind in 0u8..8,
        tail in prop::collection::vec(any::<u8>(), 0..120), at: usize, with: u8,
    ) {
        let mut bytes = vec![1, 0o44, 0, 0, 0, 0, 0, count, name.len() as u8];
        bytes.extend(&name);
        bytes.push(kind);
        bytes.extend(&tail);
        let at = at % bytes.len();
        bytes[at] ^= with;
        prop_assert_ne!(parsers::directory(&bytes), Some(false));
    }
}

/// A count at the start of almost nothing must not make room for billions.
#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for count in [u64::MAX, 1 << 62, 1 << 40, 1 << 32] {
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0];
        let mut rest = count;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes.extend([0; 64]);
        assert_eq!(parsers::directory(&bytes), None);
        assert!(!parsers::index(&bytes[6..], 8));
    }
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    for name in [&b".."[..], b".", b"a/b", b"/", b"a\0b", b""] {
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 1, name.len() as u8];
        bytes.extend(name);
        // A FIFO without attributes or links.
        bytes.extend([4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parsers::directory(&bytes), None, "{name:?}");
    }
    let mut good = vec![1, 0, 0, 0, 0, 0, 0, 1, 1, b'a'];
    good.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parsers::directory(&good), Some(true));
}

#[test]
fn links_out_of_the_layer_are_stored_as_links_and_never_followed() {
    let home = Home::new();
    let (tree, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "host secret").unwrap();
    chmod(&outside.path().join("secret"), 0o600);
    std::os::unix::fs::symlink(outside.path(), tree.path().join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), tree.path().join("file")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", tree.path().join("root")).unwrap();
    let before = described(outside.path());
    let persisted = home.persist(tree.path(), snapshot(1, 1));
    assert_eq!((persisted.bytes_read, persisted.entries), (0, 3));
    assert_eq!(described(&home.restore(snapshot(1, 1))), described(tree.path()));
    assert_eq!(described(outside.path()), before);
    // The top itself must be a directory, not a link to one.
    let refused = home.vault.persist(&job(&tree.path().join("dir"), snapshot(1, 2)));
    assert!(matches!(refused, Err(VaultError::Files { .. })), "{refused:?}");
}

#[test]
fn devices_are_refused_by_name_and_fifos_are_not_waited_for() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    node(&tree.path().join("pipe"), FileType::Fifo);
    home.persist(tree.path(), snapshot(1, 1));
    rustix::fs::mknodat(CWD, tree.path().join("disk"), FileType::BlockDevice, Mode::RUSR, rustix::fs::makedev(254, 0))
        .unwrap();
    let refused = home.vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap_err();
    assert!(matches!(&refused, VaultError::Tree { path, .. } if path == "disk"), "{refused}");
    assert!(matches!(home.vault.read(snapshot(1, 2)), Err(VaultError::NotFound(_))));
}

#[test]
fn an_absurdly_sparse_file_costs_nothing() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    let file = fs::File::create(tree.path().join("huge")).unwrap();
    // As large as the file system allows.
    let size =
        [1u64 << 62, 1 << 50, (1 << 44) - 4096, 1 << 43].into_iter().find(|size| file.set_len(*size).is_ok()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1, 5000), size - 10_000_000).unwrap();
    let persisted = home.persist(tree.path(), snapshot(1, 1));
    assert!(persisted.bytes_total <= 131_072, "{persisted:?}");
    let restored = home.restore(snapshot(1, 1)).join("huge").metadata().unwrap();
    assert_eq!(restored.len(), size);
    assert!(restored.blocks() * 512 < 1 << 20);
}

#[test]
fn a_layer_that_changes_while_it_is_stored_is_refused_or_stored_whole() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    let file = tree.path().join("growing");
    let bytes = noise(1, 3_000_000);
    for round in 0..6u128 {
        fs::write(&file, &bytes).unwrap();
        let name = snapshot(1, round + 1);
        let outcome = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..30 {
                    fs::write(&file, &bytes[..1_000_000 + n * 50_000]).unwrap();
                }
            });
            let outcome = home.vault.persist(&job(tree.path(), name));
            writer.join().unwrap();
            outcome
        });
        match outcome {
            Ok(_) => drop(home.vault.verify(name, None, &Progress::default()).unwrap()),
            Err(error) => assert!(matches!(error, VaultError::Tree { .. }), "{error}"),
        }
    }
}

#[test]
fn many_attributes_and_large_values_come_back() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("f"), "x").unwrap();
    // ext4 keeps all attributes of a file in one block of 4 KiB, others take more.
    let mut set = 0;
    for n in 0..60 {
        let name = format!("user.attribute-number-{n}");
        if rustix::fs::setxattr(tree.path().join("f"), &name, &noise(n, 20), rustix::fs::XattrFlags::empty()).is_ok() {
            set += 1;
        }
    }
    assert!(set > 20, "{set}");
    home.persist(tree.path(), snapshot(1, 1));
    assert_eq!(described(&home.restore(snapshot(1, 1))), described(tree.path()));
}

#[test]
fn a_vault_of_a_later_version_is_not_touched() {
    let home = Home::new();
    let format = home.folder.path().join("store/format");
    let mut bytes = fs::read(&format).unwrap();
    bytes[8] = 2;
    fs::write(&format, &bytes).unwrap();
    let refused = Vault::open(&home.options, &Home::key(home.folder.path()));
    assert!(matches!(refused, Err(VaultError::Version { found: 2, known: 1, .. })), "{refused:?}");
    assert_eq!(fs::read(&format).unwrap(), bytes);
}
