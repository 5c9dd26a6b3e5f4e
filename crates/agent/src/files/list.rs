//! Lists directories and finds files by pattern.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use forkpoint_protocol::{AgentFrame, Entry, ErrorKind, MAX_ENTRIES};
use globset::{GlobBuilder, GlobMatcher};
use rustix::io::Errno;

use super::tree::{Cursor, is_directory};
use super::{entry, path};
use crate::blocking;
use crate::connection::Connection;
use crate::failure::{Failure, shown};
use crate::users::{Names, Users};

/// Entries in one frame: with the longest paths and targets they stay below the frame limit.
const BATCH: usize = 100;
/// Names looked at between two looks at the connection.
const STEP: usize = 5000;
/// Names kept in memory at once; a larger directory is told of in part.
const HELD: usize = 120_000;
/// Longer paths cannot be asked for.
const MAX_PATH: usize = 4096;
const MAX_PATTERN: usize = 4096;
/// Trees that the kernel makes up and that nobody searches.
const PROC_MAGIC: u64 = 0x9fa0;
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// Sends what is in a directory.
pub(crate) async fn list(connection: Connection, path: Vec<u8>, depth: u32, limit: u32) -> io::Result<()> {
    send(connection, move || Walk::directory(path::checked(path)?, depth.max(1) as usize, limit)).await
}

/// Sends what matches a pattern.
pub(crate) async fn glob(connection: Connection, pattern: String, limit: u32) -> io::Result<()> {
    send(connection, move || Walk::pattern(&pattern, limit)).await
}

/// Part of a walk, to be done on another thread.
type Step = Box<dyn FnOnce() -> Result<(Walk, Vec<Entry>), Failure> + Send>;

async fn send<F>(mut connection: Connection, start: F) -> io::Result<()>
where
    F: FnOnce() -> Result<Walk, Failure> + Send + 'static,
{
    let mut next: Step = Box::new(|| start()?.step());
    loop {
        let done = tokio::select! {
            done = blocking::run(next) => done,
            () = connection.given_up() => return Ok(()),
        };
        let (walk, entries) = match done {
            Ok(done) => done,
            Err(failure) => return connection.fail(failure).await,
        };
        if !entries.is_empty() {
            connection.send(&AgentFrame::Entries(entries)).await?;
        }
        if walk.is_done() {
            return connection.send(&AgentFrame::End { truncated: walk.truncated }).await;
        }
        next = Box::new(|| walk.step());
    }
}

/// A listing on its way.
struct Walk {
    cursor: Option<Cursor>,
    /// Names still to visit, of the cursor's directory (last) and those above it.
    levels: Vec<std::vec::IntoIter<CString>>,
    held: usize,
    /// The cursor's directory, without a slash at the end.
    path: Vec<u8>,
    depth: usize,
    left: u32,
    matcher: Option<GlobMatcher>,
    truncated: bool,
    names: Names,
}

impl Walk {
    fn directory(path: Vec<u8>, depth: usize, limit: u32) -> Result<Walk, Failure> {
        let cursor = Cursor::open(&path).map_err(|errno| Failure::at("list", &path, errno))?;
        let mut walk = Walk::new(path, depth, limit, None);
        walk.begin(cursor)?;
        Ok(walk)
    }

    fn pattern(pattern: &str, limit: u32) -> Result<Walk, Failure> {
        let invalid = |reason: &str| Failure::invalid(format!("pattern `{}`: {reason}", shown(pattern.as_bytes())));
        if !pattern.starts_with('/') || pattern.contains('\0') || pattern.len() > MAX_PATTERN {
            return Err(invalid("it must be absolute, without NUL, and not longer than 4096 bytes"));
        }
        let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
        let matcher = glob.map_err(|error| invalid(&error.kind().to_string()))?.compile_matcher();
        // The search starts at the last directory that the pattern names in so many letters.
        let special = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
        let start = pattern[..special].rfind('/').unwrap_or(0);
        let depth = match pattern.contains("**") {
            true => usize::MAX,
            false => pattern[start..].matches('/').count(),
        };
        let base = pattern.as_bytes()[..start].to_vec();
        let opened = Cursor::open(if base.is_empty() { b"/" } else { &base });
        let mut walk = Walk::new(base, depth, limit, Some(matcher));
        match opened {
            Ok(cursor) => walk.begin(cursor)?,
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Failure::at("search", &walk.path, errno)),
        }
        Ok(walk)
    }

    fn new(mut path: Vec<u8>, depth: usize, limit: u32, matcher: Option<GlobMatcher>) -> Walk {
        while path.last() == Some(&b'/') {
            path.pop();
        }
        let left = limit.min(MAX_ENTRIES);
        let names = Users::load().names();
        Walk { cursor: None, levels: Vec::new(), held: 0, path, depth, left, matcher, truncated: false, names }
    }

    fn begin(&mut self, cursor: Cursor) -> Result<(), Failure> {
        let (names, more) = cursor.names(HELD).map_err(|errno| Failure::at("list", &self.path, errno))?;
        self.push_level(names, more);
        self.cursor = Some(cursor);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.levels.is_empty()
    }

    /// Visits some names; returns what is to be told of.
    fn step(mut self) -> Result<(Walk, Vec<Entry>), Failure> {
        let mut entries = Vec::new();
        for _ in 0..STEP {
            if entries.len() >= BATCH || self.is_done() {
                break;
            }
            match self.visit() {
                Ok(Some(entry)) if self.left == 0 => {
                    drop(entry);
                    self.truncated = true;
                    self.levels.clear();
                }
                Ok(Some(entry)) => {
                    self.left -= 1;
                    entries.push(entry);
                }
                Ok(None) => {}
                // The tree was changed under the walk; what is above can not be found again.
                Err(errno) => {
                    let message = Failure::at("list", &self.path, errno).message;
                    return Err(Failure::new(ErrorKind::Busy, message));
                }
            }
        }
        Ok((self, entries))
    }

    fn visit(&mut self) -> Result<Option<Entry>, Errno> {
        let (Some(cursor), Some(level)) = (&mut self.cursor, self.levels.last_mut()) else {
            return Ok(None);
        };
        let Some(name) = level.next() else {
            self.levels.pop();
            if !self.levels.is_empty() {
                cursor.leave()?;
                let end = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                self.path.truncate(end);
            }
            return Ok(None);
        };
        self.held -= 1;
        let name = name.to_bytes();
        // Whatever is gone since the names were read is not there.
        let Ok(stat) = cursor.stat(name) else {
            return Ok(None);
        };
        let path = [&self.path[..], b"/", name].concat();
        let is_match = self.matcher.as_ref().is_none_or(|glob| glob.is_match(Path::new(OsStr::from_bytes(&path))));
        let found = match is_match {
            true => entry::describe(cursor.fd(), name, path.clone(), &stat, &self.names).ok(),
            false => None,
        };
        if is_directory(&stat) && cursor.depth() + 1 < self.depth {
            self.descend(name, path, stat.st_dev);
        }
        Ok(found)
    }

    fn descend(&mut self, name: &[u8], path: Vec<u8>, device: u64) {
        let Some(cursor) = &mut self.cursor else {
            return;
        };
        if path.len() >= MAX_PATH {
            self.truncated = true;
            return;
        }
        let crosses = device != cursor.identity().0;
        if cursor.enter(name).is_err() {
            return;
        }
        let (names, more) = match crosses && is_made_up(cursor) {
            true => Default::default(),
            false => cursor.names(HELD - self.held).unwrap_or_default(),
        };
        self.path = path;
        self.push_level(names, more);
    }

    fn push_level(&mut self, names: Vec<CString>, more: bool) {
        self.truncated |= more;
        self.held += names.len();
        self.levels.push(names.into_iter());
    }
}

fn is_made_up(cursor: &Cursor) -> bool {
    rustix::fs::fstatfs(cursor.fd()).is_ok_and(|fs| matches!(fs.f_type as u64, PROC_MAGIC | SYSFS_MAGIC))
}
