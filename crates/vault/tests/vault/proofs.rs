//! Proofs of inclusion hold for what is there and for nothing else.

use crate::support::{Home, many_files, noise, one_of_everything, snapshot};
use forkpoint_vault::{InclusionProof, RootHash, hash_file, hash_tree};
use std::{fs, path::Path};

#[test]
fn a_proof_holds_without_store_or_key_and_only_for_its_tree() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    many_files(tree.path(), 1, 50, 500);
    let root = home.persist(tree.path(), snapshot(1, 1)).root;
    fs::write(tree.path().join("etc/small"), "other").unwrap();
    let other = home.persist(tree.path(), snapshot(1, 2)).root;
    let proof = home.vault.prove(snapshot(1, 1), Path::new("/etc/small")).unwrap();
    let bytes = proof.to_bytes();
    let proof = InclusionProof::from_bytes(&bytes).unwrap();
    let proven = proof.verify(root).unwrap();
    assert_eq!(proven.path, b"etc/small");
    assert_eq!(proven.file, Some((5, *blake3::hash(b"hello").as_bytes())));
    assert!(proof.verify(other).is_err());
    assert!(proof.verify(RootHash([0; 32])).is_err());
    for path in ["large", "etc/deep", "fifo", "etc/gone", "d1/e1/f1", "etc/deep/again"] {
        home.vault.prove(snapshot(1, 1), Path::new(path)).unwrap().verify(root).unwrap();
    }
    for path in ["", "nothing", "etc/small/below", "etc/../etc/small"] {
        assert!(home.vault.prove(snapshot(1, 1), Path::new(path)).is_err(), "{path}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let holds = InclusionProof::from_bytes(&changed).and_then(|proof| proof.verify(root));
        assert!(holds.is_err(), "byte {at} does not count");
    }
}

#[test]
fn a_proof_in_a_large_directory_is_small() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    for n in 0..3000 {
        fs::write(tree.path().join(format!("a file with quite a long name, number {n}")), noise(n, 10)).unwrap();
    }
    let root = home.persist(tree.path(), snapshot(1, 1)).root;
    let proof = home.vault.prove(snapshot(1, 1), Path::new("a file with quite a long name, number 2345")).unwrap();
    assert!(proof.to_bytes().len() < 700, "{}", proof.to_bytes().len());
    proof.verify(root).unwrap();
}

#[test]
fn a_proof_as_json_holds_like_its_bytes_and_what_is_changed_in_it_does_not() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    let root = home.persist(tree.path(), snapshot(1, 1)).root;
    let proof = home.vault.prove(snapshot(1, 1), Path::new("etc/small")).unwrap();
    let value = proof.to_json(root).unwrap();
    assert_eq!(value["path"], "/etc/small");
    assert_eq!(value["file"]["digest"], blake3::hash(b"hello").to_hex().as_str());
    assert_eq!(InclusionProof::from_json(&value).unwrap(), proof);
    assert!(proof.to_json(RootHash([7; 32])).is_err());
    for (pointer, other) in [
        ("/format", "forkpoint inclusion proof 2".into()),
        ("/steps/0/entries", 1.into()),
        ("/steps/1/entry", "00".into()),
        ("/steps/0/metadata", "zz".into()),
        ("/steps/0/beside", serde_json::json!(["00"])),
        ("/steps", serde_json::json!([])),
    ] {
        let mut changed = value.clone();
        *changed.pointer_mut(pointer).unwrap() = other;
        let holds = InclusionProof::from_json(&changed).and_then(|proof| proof.verify(root));
        assert!(holds.is_err(), "{pointer}");
    }
}

#[test]
fn a_tree_has_the_same_hash_with_and_without_a_store() {
    let home = Home::new();
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    many_files(tree.path(), 2, 60, 3000);
    let stored = home.persist(tree.path(), snapshot(1, 1)).root;
    let hash = || hash_tree(tree.path(), &|| false).unwrap();
    assert_eq!(hash(), stored);
    fs::write(tree.path().join("etc/small"), "hellp").unwrap();
    assert_ne!(hash(), stored);
    assert_eq!(hash_file(&tree.path().join("etc/small")).unwrap().1, *blake3::hash(b"hellp").as_bytes());
}
