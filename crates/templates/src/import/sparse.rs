//! The content of a layer's regular file: as it comes, or of a sparse file the runs that its map names.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::tar::Entry;
use crate::{Error, Result};

const BLOCK: u64 = 512;
/// The longest number in a map, with its line feed.
const LONGEST: usize = 21;
/// The shortest hole that is left out on the average: bounds the map's memory by the file's size.
const SHORTEST: u64 = 4096;

/// Why a file was not filled.
pub(crate) enum Stop {
    Refused(Error),
    Read(io::Error),
    Write(io::Error),
}

/// Writes the content of `entry`, which `content` gives, into `file`. `unfit` makes a refusal of a reason.
pub(crate) fn fill(
    file: &File,
    entry: &Entry,
    content: &mut dyn Read,
    buffer: &mut [u8],
    unfit: &dyn Fn(&str) -> Error,
    tick: &mut dyn FnMut() -> Result<()>,
) -> std::result::Result<(), Stop> {
    let Some(real_size) = entry.real_size else { return copy(file, 0, entry.size, content, buffer, tick) };
    let runs = map(entry, real_size, content).map_err(|problem| match problem {
        Some(error) => Stop::Read(error),
        None => Stop::Refused(unfit("is a sparse file with a map that contradicts itself")),
    })?;
    for (offset, length) in runs {
        copy(file, offset, length, content, buffer, tick)?;
    }
    file.set_len(real_size).map_err(Stop::Write)
}

fn copy(
    file: &File,
    mut offset: u64,
    length: u64,
    content: &mut dyn Read,
    buffer: &mut [u8],
    tick: &mut dyn FnMut() -> Result<()>,
) -> std::result::Result<(), Stop> {
    let mut content = content.take(length);
    let end = offset + length;
    while offset < end {
        let got = match content.read(buffer) {
            Ok(0) => return Err(Stop::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Stop::Read(error)),
        };
        file.write_all_at(&buffer[..got], offset).map_err(Stop::Write)?;
        offset += got as u64;
        tick().map_err(Stop::Refused)?;
    }
    Ok(())
}

/// The runs of bytes that are there: in order, apart, within the file, and together as long as what follows the map.
/// `None` as the error: the map is none.
fn map(
    entry: &Entry,
    real_size: u64,
    content: &mut dyn Read,
) -> std::result::Result<Vec<(u64, u64)>, Option<io::Error>> {
    let mut taken = 0;
    let count = number(content, &mut taken)?;
    if count > real_size / SHORTEST + 2 {
        return Err(None);
    }
    let (mut runs, mut end, mut total) = (Vec::new(), 0_u64, 0_u64);
    for _ in 0..count {
        let (offset, length) = (number(content, &mut taken)?, number(content, &mut taken)?);
        if offset < end {
            return Err(None);
        }
        end = offset.checked_add(length).filter(|end| *end <= real_size).ok_or(None)?;
        total += length;
        runs.push((offset, length));
    }
    let padding = taken.wrapping_neg() % BLOCK;
    if entry.size != taken + padding + total {
        return Err(None);
    }
    io::copy(&mut content.take(padding), &mut io::sink()).map_err(Some)?;
    Ok(runs)
}

/// A decimal number and a line feed.
fn number(content: &mut dyn Read, taken: &mut u64) -> std::result::Result<u64, Option<io::Error>> {
    let mut digits = Vec::with_capacity(LONGEST);
    loop {
        let mut byte = [0];
        content.read_exact(&mut byte).map_err(Some)?;
        *taken += 1;
        match byte[0] {
            b'\n' => break,
            digit if digit.is_ascii_digit() && digits.len() < LONGEST => digits.push(digit),
            _ => return Err(None),
        }
    }
    std::str::from_utf8(&digits).ok().and_then(|text| text.parse().ok()).ok_or(None)
}
