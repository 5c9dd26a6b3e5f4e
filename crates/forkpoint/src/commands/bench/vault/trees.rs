//! The files that are stored.

use crate::commands::Failure;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
};

const SMALL_FILES: u64 = 10_000;
const BIG_FILES: u64 = 8;

fn wrote(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::io(format!("write {}", path.display()))
}

/// Random files of so many bytes in all: small ones, and some large ones for the rest.
pub(super) fn mixed(tree: &Path, bytes: u64) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(rand::random());
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for n in 0..SMALL_FILES {
        let length = random.random_range(0..40_000);
        random.fill_bytes(&mut buffer[..length]);
        put(tree, n, &buffer[..length])?;
        total += length as u64;
    }
    let each = bytes.saturating_sub(total) / BIG_FILES;
    for n in 0..BIG_FILES {
        let path = tree.join(format!("big{n}"));
        let mut file = File::create(&path).map_err(wrote(&path))?;
        let mut left = each;
        while left > 0 {
            let length = left.min(1 << 20) as usize;
            random.fill_bytes(&mut buffer[..length]);
            file.write_all(&buffer[..length]).map_err(wrote(&path))?;
            left -= length as u64;
        }
    }
    Ok(())
}

/// Writes one small file in a hundred anew; gives how many bytes that were.
pub(super) fn change(tree: &Path) -> Result<u64, Failure> {
    let mut random = StdRng::seed_from_u64(rand::random());
    let mut total = 0;
    for n in (0..SMALL_FILES).step_by(100) {
        let mut bytes = vec![0; random.random_range(0..40_000)];
        random.fill_bytes(&mut bytes);
        put(tree, n, &bytes)?;
        total += bytes.len() as u64;
    }
    Ok(total)
}

/// Many tiny files.
pub(super) fn many(tree: &Path, files: u64) -> Result<(), Failure> {
    (0..files).try_for_each(|n| put(tree, n, n.to_string().as_bytes()))
}

/// Something like a project: half of it text, half of it noise, of so many bytes in all.
pub(super) fn project(tree: &Path, bytes: u64) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(7);
    let (mut total, mut n) = (0, 0);
    while total < bytes {
        let length = if n % 50 == 0 { 1_000_000 } else { random.random_range(200..30_000) };
        let content = content(&mut random, n, length);
        put(tree, n, &content)?;
        total += content.len() as u64;
        n += 1;
    }
    Ok(())
}

/// A step of work on a project: some files are edited in their middle, some are new.
pub(super) fn work_on(tree: &Path, step: u32) -> Result<(), Failure> {
    let mut random = StdRng::seed_from_u64(u64::from(step) + 100);
    let count = count_of(tree, 0);
    for _ in 0..count / 50 {
        let n = random.random_range(0..count);
        let path = place(tree, n);
        let mut bytes = fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
        let at = random.random_range(0..=bytes.len());
        bytes.splice(at..at, format!("edited in step {step}\n").into_bytes());
        put(tree, n, &bytes)?;
    }
    for n in count..count + count / 100 {
        let length = random.random_range(200..30_000);
        let content = content(&mut random, n, length);
        put(tree, n, &content)?;
    }
    Ok(())
}

/// How many files there are, counted from `from` on.
fn count_of(tree: &Path, from: u64) -> u64 {
    (from..).find(|n| !place(tree, *n).exists()).unwrap_or(from)
}

/// Text of few words, or noise.
fn content(random: &mut StdRng, n: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill_bytes(&mut bytes);
    if n.is_multiple_of(2) {
        const WORDS: [&str; 8] = ["let ", "return ", "import os\n", "self.", "(x, y)", "= 1\n", "if ", "else:\n"];
        let text = bytes.iter().flat_map(|byte| WORDS[usize::from(*byte) % WORDS.len()].bytes());
        return text.take(length).collect();
    }
    bytes
}

fn place(tree: &Path, n: u64) -> std::path::PathBuf {
    tree.join(format!("d{}/f{n}", n / 100))
}

fn put(tree: &Path, n: u64, bytes: &[u8]) -> Result<(), Failure> {
    let path = place(tree, n);
    if n.is_multiple_of(100)
        && let Some(folder) = path.parent()
    {
        fs::create_dir_all(folder).map_err(wrote(folder))?;
    }
    fs::write(&path, bytes).map_err(wrote(&path))
}

/// Refuses two trees that differ.
pub(super) fn same(one: &Path, other: &Path) -> Result<(), Failure> {
    let status = Command::new("diff").arg("-rq").arg(one).arg(other).status().map_err(Failure::io("start diff"))?;
    if status.success() { Ok(()) } else { Err(Failure::Other("what was restored differs".to_owned())) }
}

pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    fs::remove_dir_all(folder).map_err(Failure::io(format!("remove {}", folder.display())))
}

/// Bytes of all files below a directory.
pub(super) fn bytes_of(folder: &Path) -> Result<u64, Failure> {
    let mut total = 0;
    for entry in fs::read_dir(folder).map_err(Failure::io(format!("list {}", folder.display())))? {
        let entry = entry.map_err(Failure::io(format!("list {}", folder.display())))?;
        let metadata = entry.metadata().map_err(Failure::io("look at a file"))?;
        total += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}
