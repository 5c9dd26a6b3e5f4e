//! Watching by looking every second and comparing with the last look.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, Change, ChangeKind, ErrorKind};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::scan::{self, Visitor};
use super::{News, Target, tell};
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Entries of one look: each is kept in memory.
const MAX_ENTRIES: usize = 50_000;

/// What two looks are compared by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Facts {
    inode: u64,
    /// Size and time of the last change, nanoseconds since 1970.
    content: (u64, i128),
    attributes: (u32, u32, u32, i128),
}

type Seen = BTreeMap<Vec<u8>, Facts>;

/// What was seen at the last look.
pub(super) struct Poll {
    target: Target,
    seen: Seen,
}

impl Poll {
    pub(super) async fn follow(target: Target, mut connection: Connection) -> io::Result<()> {
        let first = blocking::run(move || {
            let seen = look(&target).map_err(|error| too_large(&target, error))?;
            Ok(Poll { target, seen })
        });
        let mut poll = match first.await {
            Ok(poll) => poll,
            Err(failure) => return connection.fail(failure).await,
        };
        connection.send(&AgentFrame::Watching { polled: true }).await?;
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = connection.given_up() => return Ok(()),
            }
            let looked = blocking::run(move || Ok(poll.again())).await;
            let news = match looked {
                Ok((next, news)) => {
                    poll = next;
                    news
                }
                Err(failure) => return connection.fail(failure).await,
            };
            if !tell(&mut connection, news).await? {
                return Ok(());
            }
        }
    }

    fn again(mut self) -> (Poll, News) {
        let now = match look(&self.target) {
            Ok(now) => now,
            Err(error) => {
                let errno = Errno::from_io_error(&error);
                // Too many by now, or nothing can be told for another reason: some of it is not seen.
                let gone = matches!(errno, Some(Errno::NOENT | Errno::NOTDIR));
                return (self, News { lost: !gone, gone, ..News::default() });
            }
        };
        let mut news = News::default();
        let mut tell = |path: &Vec<u8>, kind| news.changes.push(Change { path: path.clone(), kind });
        for path in self.seen.keys().filter(|path| !now.contains_key(*path)) {
            tell(path, ChangeKind::Removed);
        }
        for (path, facts) in &now {
            match self.seen.get(path) {
                None => tell(path, ChangeKind::Created),
                Some(before) if before.inode != facts.inode => {
                    tell(path, ChangeKind::Removed);
                    tell(path, ChangeKind::Created);
                }
                Some(before) if before.content != facts.content => tell(path, ChangeKind::Modified),
                Some(before) if before.attributes != facts.attributes => tell(path, ChangeKind::Attributes),
                Some(_) => {}
            }
        }
        self.seen = now;
        (self, news)
    }
}

fn too_large(target: &Target, error: io::Error) -> Failure {
    if Errno::from_io_error(&error) == Some(Errno::TOOBIG) {
        let message = format!(
            "watch {}: the kernel has no room for another watch, and more than {MAX_ENTRIES} entries are too many to \
             look at again and again",
            crate::failure::shown(target.root())
        );
        return Failure::new(ErrorKind::TooLarge, message);
    }
    Failure::at("watch", target.root(), error)
}

fn nanoseconds(seconds: i128, nanoseconds: i128) -> i128 {
    seconds * 1_000_000_000 + nanoseconds
}

fn look(target: &Target) -> io::Result<Seen> {
    struct Look<'a> {
        target: &'a Target,
        seen: Seen,
    }

    impl Visitor for Look<'_> {
        fn enter(&mut self, _: &[u8]) -> io::Result<bool> {
            Ok(true)
        }

        fn meet(&mut self, path: &[u8], name: &[u8], stat: &Stat) -> io::Result<()> {
            if !self.target.concerns(name) {
                return Ok(());
            }
            if self.seen.len() >= MAX_ENTRIES {
                return Err(Errno::TOOBIG.into());
            }
            let is_directory = super::super::tree::is_directory(stat);
            // What is in a directory is told of by itself.
            let content = match is_directory {
                true => (0, 0),
                false => (stat.st_size as u64, nanoseconds(stat.st_mtime.into(), stat.st_mtime_nsec.into())),
            };
            let changed = match is_directory {
                true => 0,
                false => nanoseconds(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
            };
            let attributes = (stat.st_mode, stat.st_uid, stat.st_gid, changed);
            self.seen.insert(path.to_vec(), Facts { inode: stat.st_ino, content, attributes });
            Ok(())
        }
    }

    let mut look = Look { target, seen: Seen::new() };
    scan::look(&target.directory, target.recursive, &mut look)?;
    Ok(look.seen)
}
