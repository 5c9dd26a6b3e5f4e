//! Removal of whole trees of any depth and size with two open directories and no recursion.

use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::error::{At, Result};
use crate::tree::dir::{Dir, Opened};

/// A directory beside the tree, on the same file system, in which removed trees wait to be taken
/// apart. Directories below are moved up into it one by one, so depth costs nothing.
#[derive(Debug)]
pub(crate) struct Trash {
    holder: Rc<Dir>,
    name: Vec<u8>,
    dir: Rc<Dir>,
    next: u64,
}

impl Trash {
    /// Opens the trash `name` in `holder`, made if it is missing.
    pub(crate) fn open(holder: &Rc<Dir>, name: &str) -> Result<Self> {
        let path = name.as_bytes();
        match rustix::fs::mkdirat(&**holder, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).inside("create the trash directory", path),
        }
        match holder.child(path).inside("open the trash directory", path)? {
            Opened::Dir(dir) => Ok(Self { holder: holder.clone(), name: path.to_vec(), dir, next: 0 }),
            Opened::Other | Opened::Nothing => Err(Errno::NOTDIR).inside("open the trash directory", path),
        }
    }

    /// Moves `dir/name` in, whatever it is; it is gone from where it was at once.
    pub(crate) fn take(&mut self, dir: &Dir, name: &[u8]) -> rustix::io::Result<()> {
        loop {
            let slot = self.slot();
            match rustix::fs::renameat_with(dir, name, &*self.dir, &slot[..], rustix::fs::RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
    }

    /// Removes everything inside and the trash directory itself.
    pub(crate) fn empty(mut self) -> Result<()> {
        let path = self.name.clone();
        let mut batch = Vec::new();
        loop {
            some_names(&self.dir, &mut batch).inside("list", &path)?;
            if batch.is_empty() {
                break;
            }
            for name in std::mem::take(&mut batch) {
                self.take_apart(&name).inside("remove what is in", &path)?;
            }
        }
        rustix::fs::unlinkat(&*self.holder, &path[..], AtFlags::REMOVEDIR).inside("remove", &path)
    }

    fn take_apart(&mut self, name: &[u8]) -> rustix::io::Result<()> {
        if unlink(&self.dir, name)? {
            return Ok(());
        }
        // Not `Dir::child`: a sticky or odd mode must not matter, and it need not stay open.
        let Opened::Dir(dir) = self.dir.child(name)? else {
            return Ok(());
        };
        let mut batch = Vec::new();
        loop {
            some_names(&dir, &mut batch)?;
            if batch.is_empty() {
                break;
            }
            for child in std::mem::take(&mut batch) {
                if !unlink(&dir, &child)? {
                    self.take(&dir, &child)?;
                }
            }
        }
        drop(dir);
        rustix::fs::unlinkat(&*self.dir, name, AtFlags::REMOVEDIR)
    }

    fn slot(&mut self) -> Vec<u8> {
        self.next += 1;
        format!("d{}", self.next).into_bytes()
    }
}

/// Removes `name`, whatever it is and however deep, by way of a trash directory beside it.
pub(crate) fn remove_tree(holder: &Rc<Dir>, name: &[u8], trash: &str) -> Result<()> {
    let mut bin = Trash::open(holder, trash)?;
    match bin.take(holder, name) {
        Ok(()) | Err(Errno::NOENT) => bin.empty(),
        Err(e) => Err(e).inside("remove", name),
    }
}

/// Removes an entry that is no directory; false if it is one.
fn unlink(dir: &Dir, name: &[u8]) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Fills `batch` with up to one buffer of names, from the start of the directory.
fn some_names(dir: &Dir, batch: &mut Vec<Vec<u8>>) -> rustix::io::Result<()> {
    // Opened anew: removing while reading on from an old position may skip names.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    rustix::fs::seek(&fd, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut raw = RawDir::new(&fd, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            batch.push(name.to_vec());
        }
        if raw.is_buffer_empty() {
            break;
        }
    }
    Ok(())
}
