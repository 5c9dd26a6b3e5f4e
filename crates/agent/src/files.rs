//! Works on the sandbox's files for the host.
//!
//! The agent lives in the sandbox's own root, so that whatever a symbolic link or a mount leads to
//! is inside. It works as root there; what it makes belongs to the default user unless a request
//! says otherwise. Trees are walked by directory descriptors without following links, since the
//! sandbox's processes change them meanwhile.

mod copy;
mod entry;
mod list;
mod path;
mod read;
mod remove;
mod rename;
mod tree;
mod watch;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forkpoint_protocol::{AgentFrame, Entry, ErrorKind, Request};

use crate::agent::Agent;
use crate::blocking;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::users::{Account, Users};

pub(crate) use list::{glob, list};
pub(crate) use read::{read, read_small};
pub(crate) use watch::watch;
pub(crate) use write::write;

/// Answers the requests that need no content: stat, mkdir, move, copy, remove.
pub(crate) async fn change(
    agent: &Agent,
    connection: &mut Connection,
    request: Request,
) -> Result<AgentFrame<'static>, Failure> {
    let default_user = agent.default_user.clone();
    let stop = Stop::default();
    let for_work = stop.clone();
    let mut work = std::pin::pin!(blocking::run(move || perform(request, &default_user, &for_work)));
    let done = tokio::select! {
        done = &mut work => done,
        () = connection.given_up() => {
            stop.request();
            work.await
        }
    };
    done.map(|entry| entry.map_or(AgentFrame::Ok, AgentFrame::Entry))
}

fn perform(request: Request, default_user: &str, stop: &Stop) -> Result<Option<Entry>, Failure> {
    match request {
        Request::Stat { path, follow } => entry::at_path(&path::checked(path)?, follow).map(Some),
        Request::Mkdir { path, mode, parents, owner } => {
            let path = path::checked(path)?;
            let owner = owner_of(owner.as_deref(), default_user)?;
            path::make_directory(&path, mode, parents, owner)?;
            entry::at_path(&path, true).map(Some)
        }
        Request::Move { from, to, overwrite } => {
            let (from, to) = (path::checked(from)?, path::checked(to)?);
            rename::rename(&from, &to, overwrite, stop)?;
            entry::at_path(&to, false).map(Some)
        }
        Request::Copy { from, to, overwrite } => {
            let (from, to) = (path::checked(from)?, path::checked(to)?);
            copy::copy(&from, &to, overwrite, stop)?;
            entry::at_path(&to, false).map(Some)
        }
        Request::Remove { path, recursive } => {
            remove::remove(&path::checked(path)?, recursive, stop)?;
            Ok(None)
        }
        _ => Err(Failure::invalid("not a request about a file's name")),
    }
}

/// Owner of something new.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl From<Account> for Owner {
    fn from(account: Account) -> Owner {
        Owner { uid: account.uid, gid: account.gid }
    }
}

/// The named owner, else the default user; root where the sandbox has no such user.
fn owner_of(wanted: Option<&str>, default_user: &str) -> Result<Owner, Failure> {
    let users = Users::load();
    match wanted {
        Some(wanted) => users.account(wanted).map(Owner::from),
        None => Ok(users.account(default_user).map_or(Owner { uid: 0, gid: 0 }, Owner::from)),
    }
}

/// Asks long work to end early.
#[derive(Debug, Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Failure::new(ErrorKind::Other, "given up by the caller")),
            false => Ok(()),
        }
    }
}
