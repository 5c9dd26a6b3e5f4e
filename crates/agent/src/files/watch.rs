//! Tells the host what happens to files: by the kernel's own word, or by looking where that cannot be had.
//!
//! Nothing is queued here. What the host does not take stays in the kernel's bounded queue, whose
//! overflow is told.

mod notify;
mod poll;
mod scan;

use std::io;

use forkpoint_protocol::{AgentFrame, Change, ErrorKind, MAX_CHANGES};
use rustix::fs::{CWD, FileType};
use tokio::sync::Semaphore;

use super::path;
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;
use notify::{Begun, Notify};
use poll::Poll;

/// Watches at the same time.
const MOST: usize = 64;

static PLACES: Semaphore = Semaphore::const_new(MOST);

/// What is watched.
#[derive(Clone, Debug)]
struct Target {
    /// The directory that is watched, without a slash at its end (so that the root is empty).
    directory: Vec<u8>,
    /// Only this name in it: what is watched is no directory.
    name: Option<Vec<u8>>,
    recursive: bool,
}

/// What happened since the last time.
#[derive(Debug, Default)]
struct News {
    changes: Vec<Change>,
    lost: bool,
    /// The watched directory itself is gone.
    gone: bool,
}

/// Watches until the host gives up or there is nothing left to watch.
pub(crate) async fn watch(mut connection: Connection, path: Vec<u8>, recursive: bool) -> io::Result<()> {
    let Ok(_place) = PLACES.try_acquire() else {
        let message = format!("{MOST} watches run at the same time already");
        return connection.fail(Failure::new(ErrorKind::Busy, message)).await;
    };
    let begin = blocking::run(move || Notify::begin(Target::find(path, recursive)?));
    let begun = tokio::select! {
        begun = begin => begun,
        () = connection.given_up() => return Ok(()),
    };
    match begun {
        Ok(Begun::Notified(notify)) => match notify.listen() {
            Ok(listening) => listening.follow(connection).await,
            Err(failure) => connection.fail(failure).await,
        },
        Ok(Begun::NoRoom(target)) => Poll::follow(target, connection).await,
        Err(failure) => connection.fail(failure).await,
    }
}

impl Target {
    fn find(path: Vec<u8>, recursive: bool) -> Result<Target, Failure> {
        let mut path = path::checked(path)?;
        while path.last() == Some(&b'/') {
            path.pop();
        }
        if path.is_empty() {
            return Ok(Target { directory: path, name: None, recursive });
        }
        let stat = rustix::fs::statat(CWD, &path[..], rustix::fs::AtFlags::empty())
            .map_err(|errno| Failure::at("watch", &path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(Target { directory: path, name: None, recursive });
        }
        // A file is watched by its directory: programs replace files by renaming new ones over them.
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let name = path.split_off(slash + 1);
        path.pop();
        Ok(Target { directory: path, name: Some(name), recursive: false })
    }

    /// The directory as the kernel takes it.
    fn root(&self) -> &[u8] {
        if self.directory.is_empty() { b"/" } else { &self.directory }
    }

    fn concerns(&self, name: &[u8]) -> bool {
        self.name.as_deref().is_none_or(|only| only == name)
    }
}

/// Sends what happened; `false` when it was the last.
async fn tell(connection: &mut Connection, news: News) -> io::Result<bool> {
    if news.lost {
        connection.send(&AgentFrame::Overflow).await?;
    }
    let mut rest = news.changes;
    while !rest.is_empty() {
        let more = rest.split_off(rest.len().min(MAX_CHANGES));
        connection.send(&AgentFrame::Changes(rest)).await?;
        rest = more;
    }
    if news.gone {
        connection.send(&AgentFrame::End { truncated: false }).await?;
    }
    Ok(!news.gone)
}
