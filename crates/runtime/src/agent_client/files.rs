//! File calls.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use forkpoint_protocol::codec::Payload;
use forkpoint_protocol::{AgentFrame, HostFrame, MAX_ENTRIES, MAX_PAYLOAD, Request};
use futures::{Stream, StreamExt};
use tokio::time::timeout;

use super::error::unexpected;
use super::link::{self, Link};
use super::{AgentClient, AgentError, Entry, WriteSpec};

/// Longest path taken from an agent: what the kernel takes, joined to a name.
const MAX_PATH: usize = 8192;
/// Longest name of a user or group taken from an agent.
const MAX_NAME: usize = 1024;
/// A listing is cut when its frames have this many bytes together: the number of entries alone is no bound, since
/// one entry may be as large as a frame.
const MAX_LISTING: usize = 32 << 20;

/// What a directory holds or a pattern found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    /// There is more than the limit allowed, or than the agent could look at.
    pub truncated: bool,
}

impl AgentClient {
    /// Opens a regular file and reads from `offset`, at most `len` bytes.
    pub async fn read_file(&self, path: &[u8], offset: u64, len: Option<u64>) -> Result<FileRead, AgentError> {
        let request = Request::ReadFile { path: path.to_vec(), offset, len };
        let mut link = Link::open(self, &request).await?;
        let frame = link.answer(self.deadlines.answer).await?;
        let meta = entry(link::parse(&frame)?)?;
        let left = len.unwrap_or(u64::MAX);
        Ok(FileRead { meta, link, left, deadline: self.deadlines.answer, is_ended: false })
    }

    /// Writes a file from a stream of pieces of any size, in constant memory. An error of the
    /// stream or a dropped call leaves the old file.
    pub async fn write_file<S>(&self, spec: WriteSpec, content: S) -> Result<Entry, AgentError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let mut link = Link::open(self, &Request::WriteFile(spec)).await?;
        let wire = link.wire().clone();
        let mut content = std::pin::pin!(content);
        let deadline = self.deadlines.answer;
        loop {
            // An answer before the end is a refusal.
            let piece = tokio::select! {
                frame = link.frame() => return entry(link::parse(&frame?)?),
                piece = content.next() => piece,
            };
            let Some(piece) = piece.transpose().map_err(AgentError::Source)? else {
                break;
            };
            for part in piece.chunks(MAX_PAYLOAD) {
                let sent = tokio::select! {
                    frame = link.frame() => return entry(link::parse(&frame?)?),
                    sent = timeout(deadline, wire.send_payload(Payload::HostData, part)) => sent,
                };
                match sent {
                    Ok(Ok(())) => {}
                    // Its reason may have come before the connection was closed.
                    Ok(Err(error)) => {
                        return link.answer(deadline).await.map_or(Err(error), |frame| entry(link::parse(&frame)?));
                    }
                    Err(_) => return Err(AgentError::Deadline(deadline)),
                }
            }
        }
        wire.send(&HostFrame::End).await?;
        let frame = link.answer(deadline).await?;
        entry(link::parse(&frame)?)
    }

    /// Writes a file whose content is at hand.
    pub async fn write_bytes(&self, spec: WriteSpec, content: impl Into<Bytes>) -> Result<Entry, AgentError> {
        self.write_file(spec, futures::stream::iter([Ok(content.into())])).await
    }

    /// Lists a directory to a depth (1: only its own entries), at most `limit` entries.
    pub async fn list(&self, path: &[u8], depth: u32, limit: u32) -> Result<Listing, AgentError> {
        self.listing(Request::List { path: path.to_vec(), depth, limit }, limit).await
    }

    /// Finds what matches an absolute pattern, at most `limit` entries.
    pub async fn glob(&self, pattern: &str, limit: u32) -> Result<Listing, AgentError> {
        self.listing(Request::Glob { pattern: pattern.to_owned(), limit }, limit).await
    }

    /// Describes a file; with `follow`, what a link leads to.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Entry, AgentError> {
        self.ask(&Request::Stat { path: path.to_vec(), follow }, self.deadlines.answer, entry).await
    }

    /// Makes a directory (`mode` 0755 if `None`); with `parents` also those above, and an existing
    /// one is no error. `owner` is `user[:group]`, else the default user.
    pub async fn mkdir(
        &self,
        path: &[u8],
        mode: Option<u32>,
        parents: bool,
        owner: Option<String>,
    ) -> Result<Entry, AgentError> {
        let request = Request::Mkdir { path: path.to_vec(), mode, parents, owner };
        self.ask(&request, self.deadlines.answer, entry).await
    }

    /// Renames a file or tree, across mounts by copying.
    pub async fn rename(&self, from: &[u8], to: &[u8], overwrite: bool) -> Result<Entry, AgentError> {
        let request = Request::Move { from: from.to_vec(), to: to.to_vec(), overwrite };
        self.ask(&request, self.deadlines.work, entry).await
    }

    /// Copies a file or tree.
    pub async fn copy(&self, from: &[u8], to: &[u8], overwrite: bool) -> Result<Entry, AgentError> {
        let request = Request::Copy { from: from.to_vec(), to: to.to_vec(), overwrite };
        self.ask(&request, self.deadlines.work, entry).await
    }

    /// Removes a file or directory; with `recursive` what is in it too.
    pub async fn remove(&self, path: &[u8], recursive: bool) -> Result<(), AgentError> {
        self.ask(&Request::Remove { path: path.to_vec(), recursive }, self.deadlines.work, done).await
    }

    async fn listing(&self, request: Request, limit: u32) -> Result<Listing, AgentError> {
        let deadline = self.deadlines.work;
        timeout(deadline, self.collect(request, limit)).await.unwrap_or(Err(AgentError::Deadline(deadline)))
    }

    async fn collect(&self, request: Request, limit: u32) -> Result<Listing, AgentError> {
        let most = limit.min(MAX_ENTRIES) as usize;
        let mut link = Link::open(self, &request).await?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        loop {
            let frame = link.answer(self.deadlines.answer).await?;
            bytes += frame.len();
            if bytes > MAX_LISTING {
                return Ok(Listing { entries, truncated: true });
            }
            match link::parse(&frame)? {
                AgentFrame::Entries(some) if entries.len() + some.len() <= most => {
                    for one in some {
                        entries.push(checked(one)?);
                    }
                }
                AgentFrame::Entries(_) => {
                    return Err(AgentError::Protocol("more entries than the limit".into()));
                }
                AgentFrame::End { truncated } => return Ok(Listing { entries, truncated }),
                frame => return Err(unexpected("a listing", &frame)),
            }
        }
    }
}

/// A file being read.
#[derive(Debug)]
pub struct FileRead {
    meta: Entry,
    link: Link,
    left: u64,
    deadline: Duration,
    is_ended: bool,
}

impl FileRead {
    /// The file as it was when opened. It may grow or shrink meanwhile: the content decides.
    pub fn meta(&self) -> &Entry {
        &self.meta
    }

    /// Next piece; `None` at the end. Without `len` it is the caller who bounds what a hostile
    /// sandbox may send.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        if self.is_ended {
            return Ok(None);
        }
        let frame = self.link.answer(self.deadline).await?;
        match link::parse(&frame)? {
            AgentFrame::Data([]) => Err(AgentError::Protocol("a frame that says nothing".into())),
            AgentFrame::Data(data) if data.len() as u64 <= self.left => {
                self.left -= data.len() as u64;
                Ok(Some(frame.slice_ref(data)))
            }
            AgentFrame::Data(_) => Err(AgentError::Protocol("more content than was asked for".into())),
            AgentFrame::End { .. } => {
                self.is_ended = true;
                Ok(None)
            }
            frame => Err(unexpected("reading a file", &frame)),
        }
    }

    /// The pieces as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, AgentError>> + Send {
        futures::stream::try_unfold(self, |mut file| async move { Ok(file.next().await?.map(|piece| (piece, file))) })
    }
}

/// Takes the answer of requests that have nothing to tell.
pub(super) fn done(frame: AgentFrame<'_>) -> Result<(), AgentError> {
    match frame {
        AgentFrame::Ok => Ok(()),
        frame => Err(unexpected("a request", &frame)),
    }
}

fn entry(frame: AgentFrame<'_>) -> Result<Entry, AgentError> {
    match frame {
        AgentFrame::Entry(entry) => checked(entry),
        frame => Err(unexpected("a file request", &frame)),
    }
}

fn checked(entry: Entry) -> Result<Entry, AgentError> {
    let is_path = entry.path.first() == Some(&b'/') && entry.path.len() <= MAX_PATH && !entry.path.contains(&0);
    if !is_path || entry.mode > 0o7777 {
        return Err(AgentError::Protocol("an entry without a usable path or mode".into()));
    }
    let is_long = |name: &String| name.len() > MAX_NAME;
    if is_long(&entry.user) || is_long(&entry.group) || entry.target.as_ref().is_some_and(|to| to.len() > MAX_PATH) {
        return Err(AgentError::Protocol("an entry with names longer than can be".into()));
    }
    Ok(entry)
}
