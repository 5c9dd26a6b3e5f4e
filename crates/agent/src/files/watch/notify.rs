//! Watching by inotify: one watch for each directory.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use forkpoint_protocol::{AgentFrame, Change, ChangeKind};
use rustix::fs::Stat;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::scan::{self, Visitor};
use super::{News, Target, tell};
use crate::blocking;
use crate::connection::Connection;
use crate::exec::watch::watch as register;
use crate::failure::Failure;

/// Directories of one watch; larger trees are looked through instead.
const MAX_DIRECTORIES: usize = 8192;
/// Changes taken at once.
const MAX_NEWS: usize = 1024;

const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// How beginning went.
pub(super) enum Begun {
    Notified(Notify),
    /// The kernel has no instance or watch left, or the tree is too large.
    NoRoom(Target),
}

/// The watches of a target.
pub(super) struct Notify {
    fd: OwnedFd,
    tree: Tree,
}

/// Which watch is which directory.
struct Tree {
    target: Target,
    /// Of the watched directory itself.
    top: i32,
    directories: HashMap<i32, Vec<u8>>,
}

/// The same, with its events awaited.
pub(super) struct Listening {
    fd: AsyncFd<OwnedFd>,
    tree: Tree,
}

impl Notify {
    pub(super) fn begin(target: Target) -> Result<Begun, Failure> {
        let fd = match inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) {
            Ok(fd) => fd,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => return Ok(Begun::NoRoom(target)),
            Err(errno) => return Err(Failure::at("watch", target.root(), errno)),
        };
        let mut tree = Tree { target, top: -1, directories: HashMap::new() };
        match tree.cover_all(&fd) {
            Ok(()) => Ok(Begun::Notified(Notify { fd, tree })),
            Err(error) if is_no_room(&error) => Ok(Begun::NoRoom(tree.target)),
            Err(error) => Err(Failure::at("watch", tree.target.root(), error)),
        }
    }

    pub(super) fn listen(self) -> Result<Listening, Failure> {
        Ok(Listening { fd: register(self.fd, Interest::READABLE)?, tree: self.tree })
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::NOMEM | Errno::DQUOT))
}

impl Listening {
    pub(super) async fn follow(self, mut connection: Connection) -> io::Result<()> {
        let Listening { fd, mut tree } = self;
        connection.send(&AgentFrame::Watching { polled: false }).await?;
        loop {
            let mut ready = tokio::select! {
                ready = fd.readable() => ready?,
                () = connection.given_up() => return Ok(()),
            };
            let (mut news, new) = tree.read(fd.get_ref())?;
            if news.changes.len() < MAX_NEWS {
                ready.clear_ready();
            }
            drop(ready);
            if !new.is_empty() || (news.lost && tree.target.recursive) {
                // What came to be in a new directory before it was watched is told as well; after an overflow new
                // directories may have been missed.
                let copy = fd.get_ref().try_clone()?;
                let lost = news.lost;
                let covered = blocking::run(move || {
                    let mut found = Vec::new();
                    let mut outcome = if lost { tree.cover_all(&copy) } else { Ok(()) };
                    for directory in new {
                        outcome = outcome.and_then(|()| tree.cover(&copy, &directory, Some(&mut found)));
                    }
                    Ok((tree, found, outcome))
                });
                let (found, outcome) = match covered.await {
                    Ok((covered, found, outcome)) => {
                        tree = covered;
                        (found, outcome)
                    }
                    Err(failure) => return connection.fail(failure).await,
                };
                news.changes.extend(found);
                match outcome {
                    Ok(()) => {}
                    Err(error) if is_no_room(&error) => news.lost = true,
                    // The top itself may be gone, which the next event tells.
                    Err(_) => {}
                }
            }
            if !tell(&mut connection, news).await? {
                return Ok(());
            }
        }
    }
}

impl Tree {
    fn cover_all(&mut self, fd: &impl AsFd) -> io::Result<()> {
        let root = self.target.root().to_vec();
        // The first one alone may be named by a link.
        self.top = inotify::add_watch(fd, &root[..], EVENTS)?;
        self.directories.insert(self.top, self.target.directory.clone());
        if self.target.recursive {
            let directory = self.target.directory.clone();
            self.cover(fd, &directory, None)?;
        }
        Ok(())
    }

    /// Watches a directory and all below; with `found`, what is there is told as created.
    fn cover(&mut self, fd: &impl AsFd, directory: &[u8], found: Option<&mut Vec<Change>>) -> io::Result<()> {
        struct Cover<'a, F> {
            fd: &'a F,
            tree: &'a mut Tree,
            found: Option<&'a mut Vec<Change>>,
        }

        impl<F: AsFd> Visitor for Cover<'_, F> {
            fn enter(&mut self, path: &[u8]) -> io::Result<bool> {
                if path == self.tree.target.directory {
                    return Ok(true);
                }
                if self.tree.directories.len() >= MAX_DIRECTORIES {
                    return Err(Errno::NOSPC.into());
                }
                match inotify::add_watch(self.fd, path, EVENTS | WatchFlags::DONT_FOLLOW) {
                    Ok(watch) => {
                        self.tree.directories.insert(watch, path.to_vec());
                        Ok(true)
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(false),
                    Err(errno) => Err(errno.into()),
                }
            }

            fn meet(&mut self, path: &[u8], _: &[u8], _: &Stat) -> io::Result<()> {
                if let Some(found) = &mut self.found
                    && found.len() < MAX_NEWS
                {
                    found.push(Change { path: path.to_vec(), kind: ChangeKind::Created });
                }
                Ok(())
            }
        }

        scan::look(directory, true, &mut Cover { fd, tree: self, found })
    }

    /// Takes what the kernel has; gives also directories that are new.
    fn read(&mut self, fd: &OwnedFd) -> io::Result<(News, Vec<Vec<u8>>)> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(fd, &mut buffer);
        let (mut news, mut new) = (News::default(), Vec::new());
        loop {
            if news.changes.len() >= MAX_NEWS && reader.is_buffer_empty() {
                break;
            }
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                news.lost = true;
                continue;
            }
            let watch = event.wd();
            if flags.contains(ReadFlags::IGNORED) {
                news.gone |= watch == self.top;
                self.directories.remove(&watch);
                continue;
            }
            let is_top = watch == self.top;
            if is_top && flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
                news.gone = true;
                continue;
            }
            let Some(directory) = self.directories.get(&watch) else { continue };
            let path = match event.file_name().map(std::ffi::CStr::to_bytes) {
                Some(name) if self.target.concerns(name) => [&directory[..], b"/", name].concat(),
                // Its parent tells the same of any other directory.
                None if is_top && self.target.name.is_none() => self.target.root().to_vec(),
                _ => continue,
            };
            let kind = match flags {
                flags if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) => ChangeKind::Created,
                flags if flags.contains(ReadFlags::MODIFY) => ChangeKind::Modified,
                flags if flags.contains(ReadFlags::ATTRIB) => ChangeKind::Attributes,
                flags if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => ChangeKind::Removed,
                _ => continue,
            };
            if self.target.recursive && flags.contains(ReadFlags::ISDIR) {
                if kind == ChangeKind::Created {
                    new.push(path.clone());
                } else if flags.contains(ReadFlags::MOVED_FROM) {
                    self.forget_below(fd, &path);
                }
            }
            let change = Change { path, kind };
            // A writer's many small writes are one.
            if news.changes.last() != Some(&change) {
                news.changes.push(change);
            }
        }
        Ok((news, new))
    }

    /// What was moved away is somewhere else now, under another name or out of sight.
    fn forget_below(&mut self, fd: &OwnedFd, path: &[u8]) {
        let is_below = |one: &[u8]| one.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.directories.retain(|watch, directory| {
            if !is_below(directory) {
                return true;
            }
            // It may be gone by itself.
            let _ = inotify::remove_watch(fd, *watch);
            false
        });
    }
}
