//! Copying a file's content: shared where the filesystem can, else without filling its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

const BUFFER: usize = 256 * 1024;

/// Copies the first `size` bytes of `from` into the empty file `to`. A file that shrinks meanwhile ends in zeros.
pub(crate) fn copy_content(from: &File, to: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        // It may have grown meanwhile.
        return to.set_len(size);
    }
    to.set_len(size)?;
    let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER))];
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, size)? {
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(BUFFER).min(buffer.len());
            let got = match from.read_at(&mut buffer[..want], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if got == 0 {
                return Ok(());
            }
            to.write_all_at(&buffer[..got], at)?;
            at += got as u64;
        }
    }
    Ok(())
}

/// The next bytes at or after `at` that are not a hole: from, to.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size);
    Ok((start < size).then(|| (start, end.clamp(start + 1, size))))
}
