//! Writing a tree entry by entry from a source that is not trusted: every path is checked, every entry is made
//! by descriptors below the one root, and nothing that was written is ever followed.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{copy_content, entries, open_root, open_subdir, remove_at};
use crate::limits::{Limits, MAX_DEPTH, MAX_LAYER_DEPTH, MAX_NAME, MAX_OWNER, MAX_PATH, MAX_TIME};
use crate::{Error, Result};

/// What belongs to an entry besides its kind and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits; set-user-id and set-group-id are taken off files of a template.
    pub mode: u32,
    /// Owner, at most 65535.
    pub uid: u64,
    /// Group, at most 65535.
    pub gid: u64,
    /// Seconds and nanoseconds since 1970 of the last change of content.
    pub mtime: (i64, u32),
    /// Extended attributes. Templates keep those in `user.`; the others mean something to the host's kernel only.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a tree is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A template's root: what would mean something to the host's kernel is left out.
    Template,
    /// The upper directory of a layer: everything is as it is given, or refused.
    Layer,
}

/// Writes below one directory. Paths are relative to it, of any bytes, without `.` and `..`.
#[derive(Debug)]
pub struct TreeWriter {
    root: OwnedFd,
    shown: PathBuf,
    origin: String,
    limits: Limits,
    purpose: Purpose,
    /// The directory of the last entry: archives list what is in one directory together.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// A tree whose very files may be given another name here.
    base: Option<OwnedFd>,
    base_parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, set last, since filling a directory changes them.
    times: HashMap<Vec<u8>, (i64, u32)>,
    entries: u64,
    bytes: u64,
    /// Bytes of memory that names take which are remembered until the end.
    names: u64,
}

impl TreeWriter {
    /// Writes below `root`, which exists; `origin` says in messages where the entries come from.
    pub(crate) fn new(root: &Path, origin: &str, limits: Limits) -> Result<Self> {
        Ok(Self {
            root: open_root(root)?,
            shown: root.to_path_buf(),
            origin: origin.to_owned(),
            limits,
            purpose: Purpose::Template,
            parent: None,
            base: None,
            base_parent: None,
            times: HashMap::new(),
            entries: 0,
            bytes: 0,
            names: 0,
        })
    }

    /// Writes the upper directory of a layer instead of a template.
    pub(crate) fn for_layer(self) -> Self {
        Self { purpose: Purpose::Layer, ..self }
    }

    /// Lets [`link_base`](Self::link_base) give files of the template at `base` another name.
    pub(crate) fn with_base(mut self, base: &Path) -> Result<Self> {
        self.base = Some(open_root(base)?);
        Ok(self)
    }

    /// Bytes of regular files written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries written so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Makes a directory, or gives one that is there these attributes. The empty path is the root itself.
    ///
    /// # Errors
    /// [`Error::UnfitEntry`], [`Error::TooLarge`], [`Error::Io`]; so do all others.
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.begin(path, 0)?;
        let dir = if path.is_empty() {
            self.root.try_clone().map_err(Error::io("open", &self.shown))?
        } else {
            let name = self.enter(path)?;
            let parent = self.at();
            match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) if self.is_dir(parent, &name) => {}
                Err(Errno::EXIST) => {
                    self.clear_for(path, &name)?;
                    rustix::fs::mkdirat(self.at(), &name, Mode::RWXU).map_err(self.failed("make directory", path))?;
                }
                Err(errno) => return Err(self.failed("make directory", path)(errno)),
            }
            open_subdir(self.at(), &name, &self.show(path))?
        };
        self.dress(dir.as_fd(), path, attributes, attributes.mode & 0o7777)?;
        self.remember(path)?;
        self.times.insert(path.to_vec(), attributes.mtime);
        Ok(())
    }

    /// Makes a regular file of `size` bytes, which `fill` writes.
    ///
    /// # Errors
    /// Also those of `fill`.
    pub fn file(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        size: u64,
        fill: &mut dyn FnMut(&File) -> Result<()>,
    ) -> Result<()> {
        self.begin(path, size)?;
        let name = self.enter(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR);
        let made = match make(self.at()) {
            Err(Errno::EXIST) => {
                self.clear_for(path, &name)?;
                make(self.at())
            }
            other => other,
        };
        let file = File::from(made.map_err(self.failed("make file", path))?);
        fill(&file)?;
        self.dress(file.as_fd(), path, attributes, attributes.mode & self.bits(0o1777))?;
        rustix::fs::futimens(&file, &self.times(attributes.mtime)).map_err(self.failed("set times of", path))
    }

    /// Makes a regular file of the first `size` bytes of `source`, without filling its holes.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn copy(&mut self, path: &[u8], attributes: &Attributes, source: &File, size: u64) -> Result<()> {
        let shown = self.show(path);
        self.file(path, attributes, size, &mut |target| {
            copy_content(source, target, size).map_err(Error::io("copy", &shown))
        })
    }

    /// Makes a symbolic link. Its target is kept as it is: only whoever runs inside will follow it.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn symlink(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Result<()> {
        self.begin(path, 0)?;
        let fits = !target.is_empty() && target.len() <= MAX_PATH;
        let Some(target) = CString::new(target).ok().filter(|_| fits) else {
            return Err(self.unfit(path, "is a symbolic link whose target is empty, too long or holds a zero byte"));
        };
        self.node(path, attributes, None, &mut |dir, name| rustix::fs::symlinkat(&target, dir, name))
    }

    /// Makes a FIFO.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn fifo(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.begin(path, 0)?;
        let mode = Mode::from_raw_mode(attributes.mode & self.bits(0o777));
        self.node(path, attributes, Some(mode), &mut |dir, name| {
            rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        })
    }

    /// Makes the mark by which a layer hides a name of what lies below it.
    pub(crate) fn whiteout(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.begin(path, 0)?;
        let mode = Mode::from_raw_mode(attributes.mode & self.bits(0));
        self.node(path, attributes, Some(mode), &mut |dir, name| {
            rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
        })
    }

    /// Gives the regular file or symbolic link `first`, written before, another name. In a layer it may also be a FIFO
    /// or a mark that hides a name.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn hard_link(&mut self, path: &[u8], first: &[u8]) -> Result<()> {
        self.begin(path, 0)?;
        self.check(first).map_err(|_| self.unfit(path, "is a hard link to a path outside of the tree"))?;
        let shown = String::from_utf8_lossy(first).into_owned();
        let refused =
            |writer: &Self, why: &str| writer.unfit(path, format!("is a hard link to {shown:?}, which {why}"));
        if first == path || first.is_empty() {
            return Err(refused(self, "is the link itself or the root"));
        }
        let (holder, first_name) = split(first);
        let holder = match open_holder(&self.root, holder) {
            Ok(holder) => holder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(refused(self, "is not there")),
            Err(Errno::LOOP | Errno::XDEV) => return Err(refused(self, "lies behind a symbolic link")),
            Err(errno) => return Err(self.failed("open directory of", first)(errno)),
        };
        let first_name = name_of(first_name).ok_or_else(|| refused(self, "holds a zero byte"))?;
        match rustix::fs::statat(&holder, &first_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if matches!(kind(&stat), FileType::RegularFile | FileType::Symlink) => {}
            // The only devices of a layer are its whiteouts.
            Ok(stat)
                if self.purpose == Purpose::Layer
                    && matches!(kind(&stat), FileType::Fifo | FileType::CharacterDevice) => {}
            Ok(_) => return Err(refused(self, "is neither a regular file nor a symbolic link")),
            Err(Errno::NOENT) => return Err(refused(self, "is not there")),
            Err(errno) => return Err(self.failed("stat", first)(errno)),
        }
        let name = self.enter(path)?;
        let link = |dir: BorrowedFd<'_>| rustix::fs::linkat(&holder, &first_name, dir, &name, AtFlags::empty());
        let linked = match link(self.at()) {
            Err(Errno::EXIST) => {
                self.clear_for(path, &name)?;
                link(self.at())
            }
            other => other,
        };
        linked.map_err(self.failed("link", path))
    }

    /// Gives the base's file at `path` the same name here if it is the inode `id` (device and number), so that
    /// nothing is copied; `false` if it is another or cannot be linked.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn link_base(&mut self, path: &[u8], id: (u64, u64)) -> Result<bool> {
        let Some(base) = &self.base else { return Ok(false) };
        let (holder, name) = split(path);
        let Some(name) = name_of(name) else { return Ok(false) };
        if self.base_parent.as_ref().is_none_or(|(known, _)| known != holder) {
            match open_holder(base, holder) {
                Ok(fd) => self.base_parent = Some((holder.to_vec(), fd)),
                Err(_) => return Ok(false),
            }
        }
        let Some((_, from)) = &self.base_parent else { return Ok(false) };
        let Ok(stat) = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
        if (stat.st_dev, stat.st_ino) != id {
            return Ok(false);
        }
        let from = from.try_clone().map_err(Error::io("open", &self.shown))?;
        self.begin(path, u64::try_from(stat.st_size).unwrap_or(0))?;
        self.enter(path)?;
        match rustix::fs::linkat(&from, &name, self.at(), &name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Another filesystem, or all the names that it allows: copied instead.
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => {
                self.entries -= 1;
                self.bytes -= u64::try_from(stat.st_size).unwrap_or(0);
                Ok(false)
            }
            Err(errno) => Err(self.failed("link", path)(errno)),
        }
    }

    /// Removes what `path` is, with all below it but what `keep` names; fine if there is nothing. Every name looked at
    /// counts as an entry: an archive can say this again and again of a directory that it keeps.
    pub(crate) fn clear(&mut self, path: &[u8], whole: bool, keep: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        self.begin(path, 0)?;
        self.parent = None;
        if path.is_empty() {
            let root = self.root.try_clone().map_err(Error::io("open", &self.shown))?;
            return self.clear_below(root.as_fd(), path, keep);
        }
        let (holder, name) = split(path);
        let holder = match open_holder(&self.root, holder) {
            Ok(holder) => holder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::LOOP | Errno::XDEV) => return Err(self.unfit(path, "lies behind a symbolic link")),
            Err(errno) => return Err(self.failed("open directory of", path)(errno)),
        };
        let Some(name) = name_of(name) else { return Ok(()) };
        if whole && !keep(path) {
            return remove_at(holder.as_fd(), &name, &self.show(path));
        }
        match rustix::fs::statat(&holder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == FileType::Directory => {
                let dir = open_subdir(&holder, &name, &self.show(path))?;
                self.clear_below(dir.as_fd(), path, keep)
            }
            _ => Ok(()),
        }
    }

    fn clear_below(&mut self, dir: BorrowedFd<'_>, path: &[u8], keep: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let shown = self.show(path);
        for entry in entries(dir, &shown)? {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.name.to_bytes());
            self.count(0)?;
            if !keep(&below) {
                remove_at(dir, &entry.name, &self.show(&below))?;
            } else if entry.file_type() == FileType::Directory {
                let subdir = open_subdir(dir, &entry.name, &self.show(&below))?;
                self.clear_below(subdir.as_fd(), &below, keep)?;
            }
        }
        Ok(())
    }

    /// Sets the times of directories; the tree is whole then.
    pub(crate) fn finish(mut self) -> Result<()> {
        for (path, mtime) in std::mem::take(&mut self.times) {
            let dir = if path.is_empty() {
                self.root.try_clone().map_err(Error::io("open", &self.shown))?
            } else {
                match open_holder(&self.root, &path) {
                    // Removed again by a later layer.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    other => other.map_err(self.failed("open directory", &path))?,
                }
            };
            // An `O_PATH` descriptor takes no `futimens`.
            rustix::fs::utimensat(&dir, c".", &self.times(mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed("set times of", &path))?;
        }
        Ok(())
    }

    /// Checks a path and counts the entry.
    fn begin(&mut self, path: &[u8], size: u64) -> Result<()> {
        self.check(path)?;
        self.count(size)
    }

    /// Counts an entry of `size` bytes.
    fn count(&mut self, size: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(size);
        let passed = |reason: String| Error::TooLarge { origin: self.origin.clone(), reason };
        if self.entries > self.limits.max_entries {
            return Err(passed(format!("more than {} entries", self.limits.max_entries)));
        }
        if self.bytes > self.limits.max_bytes {
            return Err(passed(format!("files of more than {} bytes in all", self.limits.max_bytes)));
        }
        Ok(())
    }

    /// Counts the memory that a name takes which is remembered until the end.
    pub(crate) fn remember(&mut self, path: &[u8]) -> Result<()> {
        /// About what a map needs besides.
        const OVERHEAD: u64 = 64;
        self.names += path.len() as u64 + OVERHEAD;
        match self.names > self.limits.max_names {
            true => Err(Error::TooLarge {
                origin: self.origin.clone(),
                reason: format!("names of more than {} bytes in all", self.limits.max_names),
            }),
            false => Ok(()),
        }
    }

    fn check(&self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        if path.len() > MAX_PATH {
            return Err(self.unfit(path, format!("is a path of more than {MAX_PATH} bytes")));
        }
        let mut depth = 0;
        for part in path.split(|byte| *byte == b'/') {
            depth += 1;
            if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
                return Err(self.unfit(path, "is not a plain relative path: it is absolute or has '..' in it"));
            }
            if part.len() > MAX_NAME {
                return Err(self.unfit(path, format!("has a name of more than {MAX_NAME} bytes")));
            }
        }
        let deepest = if self.purpose == Purpose::Layer { MAX_LAYER_DEPTH } else { MAX_DEPTH };
        if depth > deepest {
            return Err(self.unfit(path, format!("lies deeper than {deepest} directories")));
        }
        Ok(())
    }

    /// Opens the directory that holds `path`, with what is missing on the way; gives the name in it.
    fn enter(&mut self, path: &[u8]) -> Result<CString> {
        let (holder, name) = split(path);
        let Some(name) = name_of(name) else { return Err(self.unfit(path, "has no name")) };
        if self.parent.as_ref().is_some_and(|(known, _)| known == holder) {
            return Ok(name);
        }
        let opened = match open_holder(&self.root, holder) {
            Err(Errno::NOENT) if self.purpose == Purpose::Layer => {
                return Err(self.unfit(path, "lies in a directory that does not come before it"));
            }
            Err(Errno::NOENT) => {
                self.make_holders(holder)?;
                open_holder(&self.root, holder)
            }
            other => other,
        };
        let fd = opened.map_err(|errno| match errno {
            Errno::LOOP | Errno::XDEV => self.unfit(path, "lies behind a symbolic link"),
            Errno::NOTDIR => self.unfit(path, "lies below something that is not a directory"),
            errno => self.failed("open directory of", path)(errno),
        })?;
        self.parent = Some((holder.to_vec(), fd));
        Ok(name)
    }

    /// Makes the directories that an archive did not list.
    fn make_holders(&mut self, holder: &[u8]) -> Result<()> {
        let ends = holder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([holder.len()]) {
            let (above, name) = split(&holder[..end]);
            let dir = match open_holder(&self.root, above) {
                Ok(dir) => dir,
                // Told by whoever opens the whole path.
                Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => return Ok(()),
                Err(errno) => return Err(self.failed("open directory", above)(errno)),
            };
            let Some(name) = name_of(name) else { return Ok(()) };
            match rustix::fs::mkdirat(&dir, &name, Mode::RWXU) {
                Ok(()) => {
                    let mode = Mode::from_raw_mode(0o755);
                    // Made this moment, so it is no link that this could follow.
                    rustix::fs::chmodat(&dir, &name, mode, AtFlags::empty())
                        .map_err(self.failed("set mode of", &holder[..end]))?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make directory", &holder[..end])(errno)),
            }
        }
        Ok(())
    }

    /// The directory that [`enter`](Self::enter) opened.
    fn at(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Makes room for an entry that takes the place of another.
    fn clear_for(&mut self, path: &[u8], name: &CString) -> Result<()> {
        if self.purpose == Purpose::Layer {
            return Err(self.unfit(path, "is there twice"));
        }
        remove_at(self.at(), name, &self.show(path))?;
        // It may have been a directory that is held open.
        self.parent = None;
        self.enter(path).map(drop)
    }

    fn node(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        mode: Option<Mode>,
        make: &mut dyn FnMut(BorrowedFd<'_>, &CString) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let name = self.enter(path)?;
        let made = match make(self.at(), &name) {
            Err(Errno::EXIST) => {
                self.clear_for(path, &name)?;
                make(self.at(), &name)
            }
            other => other,
        };
        made.map_err(self.failed("make", path))?;
        let (uid, gid) = self.owner(path, attributes)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(self.at(), &name, Some(uid), Some(gid), nofollow)
            .map_err(self.failed("set owner of", path))?;
        if let Some(mode) = mode {
            // Just made here, and no link.
            rustix::fs::chmodat(self.at(), &name, mode, AtFlags::empty()).map_err(self.failed("set mode of", path))?;
        }
        if self.purpose == Purpose::Layer {
            let node =
                rustix::fs::openat(self.at(), &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .map_err(self.failed("open", path))?;
            // Leads to the very node, also to a link itself; an `O_PATH` descriptor takes no `fsetxattr`.
            let node_path = format!("/proc/thread-self/fd/{}", node.as_raw_fd());
            for (key, value) in &attributes.xattrs {
                let key = self.layer_attribute(path, key, value)?;
                rustix::fs::setxattr(&*node_path, &key, value, rustix::fs::XattrFlags::empty())
                    .map_err(self.failed("set extended attribute of", path))?;
            }
        }
        rustix::fs::utimensat(self.at(), &name, &self.times(attributes.mtime), nofollow)
            .map_err(self.failed("set times of", path))
    }

    /// Owner, attributes, mode: in this order, since a change of owner takes mode bits off.
    fn dress(&self, fd: BorrowedFd<'_>, path: &[u8], attributes: &Attributes, mode: u32) -> Result<()> {
        let (uid, gid) = self.owner(path, attributes)?;
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(self.failed("set owner of", path))?;
        if self.purpose == Purpose::Layer {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(self.failed("set mode of", path))?;
            for (name, value) in &attributes.xattrs {
                let name = self.layer_attribute(path, name, value)?;
                rustix::fs::fsetxattr(fd, &name, value, rustix::fs::XattrFlags::empty())
                    .map_err(self.failed("set extended attribute of", path))?;
            }
            return Ok(());
        }
        for (name, value) in &attributes.xattrs {
            // `user.overlay.` steers overlay file systems of the unprivileged.
            let kept = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if let (true, Ok(name)) = (kept, CString::new(&name[..])) {
                rustix::fs::fsetxattr(fd, &name, value, rustix::fs::XattrFlags::empty())
                    .map_err(self.failed("set extended attribute of", path))?;
            }
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(self.failed("set mode of", path))
    }

    /// The name of an attribute that a layer's entry may have.
    fn layer_attribute(&self, path: &[u8], name: &[u8], value: &[u8]) -> Result<CString> {
        let shown = String::from_utf8_lossy(name).into_owned();
        if !layer_may_have(name, value) {
            return Err(self.unfit(path, format!("has the extended attribute {shown:?}, which no layer has like this")));
        }
        CString::new(name).map_err(|_| self.unfit(path, "has an extended attribute with a zero byte in its name"))
    }

    /// The mode bits that files other than directories keep.
    fn bits(&self, of_template: u32) -> u32 {
        if self.purpose == Purpose::Layer { 0o7777 } else { of_template }
    }

    fn times(&self, (secs, nanos): (i64, u32)) -> Timestamps {
        let time = match self.purpose {
            Purpose::Layer => (secs, nanos),
            // Nothing real is older or newer.
            Purpose::Template if secs < 0 => (0, 0),
            Purpose::Template => (secs.min(MAX_TIME), nanos),
        };
        let time = Timespec { tv_sec: time.0, tv_nsec: i64::from(time.1) };
        Timestamps { last_access: time, last_modification: time }
    }

    fn owner(&self, path: &[u8], attributes: &Attributes) -> Result<(Uid, Gid)> {
        let id = |id: u64| u32::try_from(id).ok().filter(|_| id <= MAX_OWNER);
        match (id(attributes.uid), id(attributes.gid)) {
            (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
            _ => {
                let owner = format!("{}:{}", attributes.uid, attributes.gid);
                Err(self.unfit(path, format!("belongs to {owner}, but sandboxes have the ids 0 to {MAX_OWNER} only")))
            }
        }
    }

    fn is_dir(&self, dir: BorrowedFd<'_>, name: &CString) -> bool {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat) == FileType::Directory)
    }

    /// An entry that is refused.
    pub(crate) fn unfit(&self, path: &[u8], reason: impl Into<String>) -> Error {
        Error::unfit(&self.origin, path, reason)
    }

    fn show(&self, path: &[u8]) -> PathBuf {
        self.shown.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path))
    }

    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
        Error::os(action, self.show(path))
    }
}

/// Reached without symbolic links, without leaving the tree, without crossing a mount.
fn open_holder(root: impl AsFd, holder: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let holder: &[u8] = if holder.is_empty() { b"." } else { holder };
    rustix::fs::openat2(root, holder, flags, Mode::empty(), resolve)
}

/// The directory part and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn name_of(name: &[u8]) -> Option<CString> {
    CString::new(name).ok().filter(|name| !name.is_empty())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether a layer can have this attribute: what sandboxes may set, and the marks that overlayfs itself makes. Those
/// that would let it take content from elsewhere are not among them.
fn layer_may_have(name: &[u8], value: &[u8]) -> bool {
    match name.strip_prefix(b"trusted.overlay.") {
        Some(b"opaque") => value == b"y",
        Some(b"redirect") => {
            let fits = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
            match value.strip_prefix(b"/") {
                Some(rest) => rest.split(|byte| *byte == b'/').all(fits),
                None => fits(value) && !value.contains(&b'/'),
            }
        }
        Some(b"origin" | b"impure" | b"nlink" | b"uuid") => value.len() <= 255,
        Some(_) => false,
        None => {
            name.starts_with(b"user.")
                || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
        }
    }
}
