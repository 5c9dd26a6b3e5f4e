//! Proofs of inclusion hold for what is there and for nothing else.

use crate::support::{Home, many_files, noise, one_of_everything, snapshot};
use forkpoint_vault::{InclusionProof, RootHash};
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
