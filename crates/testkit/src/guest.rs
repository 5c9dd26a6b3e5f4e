//! The inside of a sandbox: files in memory, commands by script.

use crate::{
    runtime::{FakeRuntime, Script},
    tree::{Node, Tree},
};
use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::{
    ids::{SandboxId, TerminalId},
    path::SandboxPath,
};
use forkpoint_engine::ports::guest::{
    ByteStream, ExecEvent, ExecSpec, FileContent, FileEntry, FileKind, Guest, GuestError, Listing,
};
use forkpoint_engine::ports::terminal::{Attached, Terminal, TerminalSpec};
use forkpoint_engine::ports::watch::{ChangeKind, Watch, WatchEvent};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;

/// One step of a scripted command.
#[derive(Debug, Clone)]
pub enum Step {
    /// Tells this.
    Tell(ExecEvent),
    /// Says nothing for so long.
    Wait(Duration),
    /// Says nothing any more, until it is killed.
    Hang,
}

/// The guest of one running sandbox.
#[derive(Debug)]
pub struct FakeGuest {
    pub(crate) runtime: FakeRuntime,
    pub(crate) sandbox: SandboxId,
}

const PIECE: usize = 64 * 1024;

impl FakeGuest {
    fn with<T>(&self, work: impl FnOnce(&mut Tree) -> Result<T, GuestError>) -> Result<T, GuestError> {
        self.runtime.with_tree(self.sandbox, work).ok_or_else(|| GuestError::Lost("it is gone".into()))?
    }
}

fn not_found(path: &str) -> GuestError {
    GuestError::NotFound(format!("{path}: no such file or directory"))
}

fn entry(path: &str, node: &Node) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        kind: if node.content.is_some() { FileKind::File } else { FileKind::Directory },
        size: node.content.as_ref().map_or(0, |content| content.len() as u64),
        mode: node.mode,
        uid: 1000,
        gid: 1000,
        modified_at: node.modified_at,
        target: None,
    }
}

/// The directory of `path`; the root is always there.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn is_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

fn make_parents(tree: &mut Tree, path: &str) -> Result<(), GuestError> {
    let mut at = parent(path);
    while !at.is_empty() {
        match tree.0.get(at) {
            Some(Node { content: None, .. }) => {}
            Some(_) => return Err(GuestError::Refused(format!("{at}: not a directory"))),
            None => drop(tree.0.insert(at.to_owned(), Node::directory())),
        }
        at = parent(at);
    }
    Ok(())
}

/// Tells when a command is dropped before it ended.
struct Alive {
    killed: watch::Sender<u64>,
    ended: bool,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if !self.ended {
            self.killed.send_modify(|count| *count += 1);
        }
    }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn exec(&self, command: ExecSpec) -> Result<BoxStream<'static, ExecEvent>, GuestError> {
        let script: Script = self.runtime.note_command(&command);
        let steps = script(&command)?;
        let alive = Alive { killed: self.runtime.killed_sender(), ended: false };
        Ok(stream::unfold((steps.into_iter(), alive), |(mut steps, mut alive)| async move {
            loop {
                match steps.next() {
                    Some(Step::Tell(event)) => {
                        alive.ended |= matches!(event, ExecEvent::Exit(_) | ExecEvent::Lost(_));
                        return Some((event, (steps, alive)));
                    }
                    Some(Step::Wait(time)) => tokio::time::sleep(time).await,
                    Some(Step::Hang) => std::future::pending().await,
                    // A connection that broke off: nothing was killed.
                    None => {
                        alive.ended = true;
                        drop(alive);
                        return None;
                    }
                }
            }
        })
        .boxed())
    }

    async fn open_terminal(&self, terminal: TerminalSpec) -> Result<Terminal, GuestError> {
        Ok(self.runtime.terminals().open(self.sandbox, terminal))
    }

    async fn terminals(&self) -> Result<Vec<Terminal>, GuestError> {
        Ok(self.runtime.terminals().list(self.sandbox))
    }

    async fn attach_terminal(&self, id: TerminalId, from: Option<u64>) -> Result<Attached, GuestError> {
        self.runtime.terminals().attach(self.sandbox, id, from)
    }

    async fn close_terminal(&self, id: TerminalId) -> Result<(), GuestError> {
        self.runtime.terminals().close(self.sandbox, id)
    }

    async fn read(&self, path: &SandboxPath, offset: u64, length: Option<u64>) -> Result<FileContent, GuestError> {
        let (entry, content) = self.with(|tree| {
            let node = tree.0.get(path.as_str()).ok_or_else(|| not_found(path.as_str()))?;
            let content = node.content.clone().ok_or_else(|| GuestError::Refused(format!("{path}: is a directory")))?;
            Ok((entry(path.as_str(), node), content))
        })?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = length.map_or(content.len(), |length| start.saturating_add(length as usize).min(content.len()));
        let content = content.slice(start..end);
        let pieces: Vec<_> = (0..content.len())
            .step_by(PIECE)
            .map(|at| Ok(content.slice(at..(at + PIECE).min(content.len()))))
            .collect();
        Ok(FileContent { entry, content: stream::iter(pieces).boxed() })
    }

    async fn write_as(
        &self,
        path: &SandboxPath,
        mode: Option<u32>,
        _owner: Option<&str>,
        mut content: ByteStream,
    ) -> Result<FileEntry, GuestError> {
        let mut bytes = Vec::new();
        while let Some(piece) = content.next().await {
            bytes
                .extend_from_slice(&piece.map_err(|error| GuestError::Refused(format!("content broke off: {error}")))?);
        }
        self.runtime.check_disk(bytes.len())?;
        self.with(|tree| {
            let old = tree.0.get(path.as_str());
            if old.is_some_and(|old| old.content.is_none()) {
                return Err(GuestError::Refused(format!("{path}: is a directory")));
            }
            let mode = mode.or(old.map(|old| old.mode)).unwrap_or(0o644);
            make_parents(tree, path.as_str())?;
            let node = Node { content: Some(Bytes::from(bytes)), mode, modified_at: Timestamp::UNIX_EPOCH };
            let entry = entry(path.as_str(), &node);
            tree.0.insert(path.as_str().to_owned(), node);
            Ok(entry)
        })
    }

    async fn stat(&self, path: &SandboxPath) -> Result<FileEntry, GuestError> {
        self.with(|tree| {
            tree.0.get(path.as_str()).map(|node| entry(path.as_str(), node)).ok_or_else(|| not_found(path.as_str()))
        })
    }

    async fn list(&self, path: &SandboxPath, recursive: bool) -> Result<Listing, GuestError> {
        self.with(|tree| {
            match tree.0.get(path.as_str()) {
                _ if path.as_str() == "/" => {}
                None => return Err(not_found(path.as_str())),
                Some(node) if node.content.is_some() => {
                    return Err(GuestError::Refused(format!("{path}: not a directory")));
                }
                Some(_) => {}
            }
            let top = path.as_str().trim_end_matches('/');
            let entries = tree
                .0
                .iter()
                .filter(|(at, _)| is_below(at, top) && (recursive || parent(at) == top))
                .map(|(at, node)| entry(at, node))
                .collect();
            Ok(Listing { entries, truncated: false })
        })
    }

    async fn glob(&self, pattern: &str) -> Result<Listing, GuestError> {
        let scope =
            forkpoint_domain::scope::ScopeSpec { include_paths: vec![pattern.to_owned()], ..Default::default() };
        let scope =
            forkpoint_domain::scope::Scope::parse(scope).map_err(|error| GuestError::Refused(error.to_string()))?;
        self.with(|tree| {
            let found =
                tree.0.iter().filter(|(at, _)| scope.contains(at.as_bytes()) && !scope.contains(parent(at).as_bytes()));
            Ok(Listing { entries: found.map(|(at, node)| entry(at, node)).collect(), truncated: false })
        })
    }

    async fn make_directory_as(
        &self,
        path: &SandboxPath,
        recursive: bool,
        _owner: Option<&str>,
    ) -> Result<(), GuestError> {
        self.with(|tree| {
            match tree.0.get(path.as_str()) {
                Some(Node { content: None, .. }) if recursive => return Ok(()),
                Some(_) => return Err(GuestError::Exists(format!("{path}: already exists"))),
                None => {}
            }
            if recursive {
                make_parents(tree, path.as_str())?;
            } else if !parent(path.as_str()).is_empty() && !tree.0.contains_key(parent(path.as_str())) {
                return Err(not_found(parent(path.as_str())));
            }
            tree.0.insert(path.as_str().to_owned(), Node::directory());
            Ok(())
        })
    }

    async fn rename(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError> {
        self.copy(source, destination).await?;
        self.remove(source, true).await
    }

    async fn copy(&self, source: &SandboxPath, destination: &SandboxPath) -> Result<(), GuestError> {
        self.with(|tree| {
            let (from, to) = (source.as_str(), destination.as_str());
            let copied: Vec<(String, Node)> = tree
                .0
                .iter()
                .filter(|(at, _)| *at == from || is_below(at, from))
                .map(|(at, node)| (format!("{to}{}", &at[from.len()..]), node.clone()))
                .collect();
            if copied.is_empty() {
                return Err(not_found(from));
            }
            make_parents(tree, to)?;
            tree.0.extend(copied);
            Ok(())
        })
    }

    /// Tells each kind of event once, then nothing more.
    async fn watch(&self, path: &SandboxPath, recursive: bool) -> Result<Watch, GuestError> {
        self.stat(path).await?;
        let path = path.as_str().to_owned();
        let kinds = [ChangeKind::Created, ChangeKind::Modified, ChangeKind::Attributes, ChangeKind::Removed];
        let changes = kinds.map(|kind| WatchEvent::Changed { path: path.clone(), kind });
        let events = stream::iter(changes).chain(stream::iter([WatchEvent::Overflow, WatchEvent::Gone]));
        Ok(Watch { polled: recursive, events: events.boxed() })
    }

    async fn remove(&self, path: &SandboxPath, recursive: bool) -> Result<(), GuestError> {
        self.with(|tree| {
            if !tree.0.contains_key(path.as_str()) {
                return Err(not_found(path.as_str()));
            }
            if !recursive && tree.0.keys().any(|at| is_below(at, path.as_str())) {
                return Err(GuestError::Refused(format!("{path}: directory is not empty; remove it with recursive")));
            }
            tree.0.retain(|at, _| at != path.as_str() && !is_below(at, path.as_str()));
            Ok(())
        })
    }
}
