//! Every target over its corpus, over changes of it, and over random bytes: what the fuzzers do, for a moment.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use forkpoint_fuzzing::TARGETS;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(fuzz().join("corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// An input changed in the ways that fuzzers change inputs.
fn changed(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.random()),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
            6 if at + 8 <= bytes.len() => {
                bytes[at..at + 8].copy_from_slice(&[u64::MAX, 1 << 32, 0][random.random_range(0..3)].to_le_bytes())
            }
            _ => {}
        }
    }
    bytes
}

/// `FORKPOINT_TEST_FUZZ` says how many inputs a target gets.
#[test]
fn no_parser_fails_on_its_corpus_or_on_changes_of_it() {
    let count: u32 = std::env::var("FORKPOINT_TEST_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let seed: u64 = std::env::var("FORKPOINT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::process::id().into());
    eprintln!("FORKPOINT_TEST_SEED={seed}");
    for (name, target) in TARGETS {
        eprintln!("{name}");
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().for_each(|input| target(input));
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..count {
            target(&changed(&mut random, &corpus));
            let mut noise = vec![0; random.random_range(0..300)];
            random.fill_bytes(&mut noise);
            target(&noise);
        }
    }
}

#[test]
fn every_target_has_a_fuzzer_and_a_corpus_and_no_other_is_there() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("fuzz_targets"), names);
    assert_eq!(listed("corpus"), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "fuzz/Cargo.toml has no {name}");
        let text = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("forkpoint_fuzzing::{name}(bytes)")), "{name}: {text}");
    }
}
