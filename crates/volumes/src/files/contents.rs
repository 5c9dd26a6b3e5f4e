//! Contents of regular files: copied without touching holes, compared without reading them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

const BUFFER: usize = 256 * 1024;

/// Up to this size a file is not worth sharing, nor looking for holes in it: small files live in
/// the file system's metadata, and one read is cheaper than the questions.
const SMALL: u64 = 4096;

/// How much one `copy_file_range` call is asked for, so that no call takes for ever.
const RANGE: u64 = 64 * 1024 * 1024;

/// Copies the first `size` bytes of `from` into the empty file `to`: shared if the file system
/// can, else range by range. Returns the number of bytes that were really copied.
pub(crate) fn copy(from: &File, to: &File, size: u64, share: bool) -> io::Result<u64> {
    if size == 0 {
        return Ok(0);
    }
    if size <= SMALL {
        let mut buffer = [0; SMALL as usize];
        let got = read_full(from, &mut buffer[..size as usize], 0)?;
        to.write_all_at(&buffer[..got], 0)?;
        return Ok(got as u64);
    }
    if share && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        // A file that grew meanwhile was cloned whole.
        if rustix::fs::fstat(to)?.st_size.cast_unsigned() != size {
            rustix::fs::ftruncate(to, size)?;
        }
        return Ok(0);
    }
    rustix::fs::ftruncate(to, size)?;
    let mut by_kernel = true;
    let mut buffer = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, size)? {
        copied += copy_range(from, to, start, end, &mut by_kernel, &mut buffer)?;
        at = end;
    }
    Ok(copied)
}

/// Copies `start..end` or up to the end of a file that shrank meanwhile.
fn copy_range(
    from: &File,
    to: &File,
    start: u64,
    end: u64,
    by_kernel: &mut bool,
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    let mut at = start;
    while *by_kernel && at < end {
        let (mut read_at, mut write_at) = (at, at);
        let want = usize::try_from((end - at).min(RANGE)).unwrap_or(BUFFER);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Ok(at - start),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => *by_kernel = false,
            Err(e) => return Err(e.into()),
        }
    }
    buffer.resize(BUFFER, 0);
    while at < end {
        let want = usize::try_from((end - at).min(BUFFER as u64)).unwrap_or(BUFFER);
        let got = from.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            break;
        }
        to.write_all_at(&buffer[..got], at)?;
        at += got as u64;
    }
    Ok(at - start)
}

/// Whether both files hold the same bytes; both are `size` bytes long.
pub(crate) fn equal(a: &File, b: &File, size: u64) -> io::Result<bool> {
    let mut left = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER))];
    let mut right = vec![0; left.len()];
    let mut at = 0;
    while at < size {
        // What is a hole in both is equal; a hole reads as zeros against data.
        let start = if size <= left.len() as u64 {
            at
        } else {
            match (next_data(a, at, size)?, next_data(b, at, size)?) {
                (None, None) => return Ok(true),
                (Some((x, _)), None) | (None, Some((x, _))) => x,
                (Some((x, _)), Some((y, _))) => x.min(y),
            }
        };
        let len = left.len().min(usize::try_from(size - start).unwrap_or(BUFFER));
        let got = read_full(a, &mut left[..len], start)?;
        if read_full(b, &mut right[..len], start)? != got || left[..got] != right[..got] {
            return Ok(false);
        }
        if got < len {
            return Ok(true);
        }
        at = start + len as u64;
    }
    Ok(true)
}

/// The next range that holds data at or after `at` and before `size`.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(e) => return Err(e.into()),
    };
    if start >= size {
        return Ok(None);
    }
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size);
    Ok(Some((start, end.clamp(start + 1, size))))
}

fn read_full(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
