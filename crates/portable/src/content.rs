//! The content of regular files: which runs of it are not zero, and writing those.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::{Error, Result, Stop};

/// How finely zeros are looked for, in bytes.
const BLOCK: usize = 64 << 10;
/// Most blocks show in their first bytes that they are not zero.
const GLANCE: usize = 4 << 10;
const BUFFER: usize = 256 << 10;

/// Maximal runs of blocks that are not all zero, as offset and length; whether a block was a hole or written makes no
/// difference. One run over all of it: the file is not sparse.
pub(crate) fn runs(file: &File, size: u64, stop: Stop<'_>) -> Result<Vec<(u64, u64)>> {
    let (mut runs, mut at, mut data_from) = (Vec::<(u64, u64)>::new(), 0, 0);
    let mut buffer = vec![0; BLOCK];
    while at < size {
        if stop() {
            return Err(Error::Stopped);
        }
        if at >= data_from {
            data_from = next_data(file, at).map_err(Error::io("look for holes"))?.unwrap_or(size);
        }
        let length = (size - at).min(BLOCK as u64);
        if data_from >= at + length {
            at = (data_from / BLOCK as u64 * BLOCK as u64).max(at + length);
            continue;
        }
        if !is_zero(file, at, &mut buffer[..length as usize]).map_err(Error::io("read a file"))? {
            match runs.last_mut() {
                Some((start, run)) if *start + *run == at => *run += length,
                _ => runs.push((at, length)),
            }
        }
        at += length;
    }
    Ok(runs)
}

fn is_zero(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
    let glance = buffer.len().min(GLANCE);
    let (first, rest) = buffer.split_at_mut(glance);
    file.read_exact_at(first, at)?;
    if first.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    file.read_exact_at(rest, at + glance as u64)?;
    Ok(rest.iter().all(|byte| *byte == 0))
}

/// Where data begins at or after `from`; `None`: only a hole is left.
fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Writes `length` bytes of a file from `offset` on.
pub(crate) fn copy(file: &File, offset: u64, length: u64, to: &mut dyn Write, stop: Stop<'_>) -> Result<()> {
    let mut buffer = vec![0; BUFFER.min(length as usize)];
    let mut done = 0;
    while done < length {
        if stop() {
            return Err(Error::Stopped);
        }
        let want = buffer.len().min((length - done) as usize);
        file.read_exact_at(&mut buffer[..want], offset + done).map_err(Error::io("read a file"))?;
        to.write_all(&buffer[..want]).map_err(Error::io("write the archive"))?;
        done += want as u64;
    }
    Ok(())
}
