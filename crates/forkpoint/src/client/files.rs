//! Files of a sandbox: raw bytes both ways, lists and directories.

use super::{Client, ClientError};
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};

/// More entries than any tree is expected to have; beyond, it is refused.
pub(crate) const MAX_ENTRIES: usize = 2_000_000;

/// What is in a directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In no order that means anything.
    pub(crate) entries: Vec<Entry>,
    /// The server left some out: there were more than it lists at once.
    pub(crate) truncated: bool,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Something that has no content to copy: a socket, a pipe, a device.
    Other,
}

/// One line of a list. Comes from inside the sandbox: nothing in it can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path as the server gives it.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: EntryKind,
    /// Bytes of a regular file.
    pub(crate) size: u64,
    /// Permission bits, where the server gives them.
    pub(crate) mode: Option<u32>,
    /// Where a symbolic link points, where the server gives it.
    pub(crate) target: Option<String>,
}

impl Entry {
    /// Reads one object of a list.
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let kind = match text("type")? {
            "file" | "regular" => EntryKind::File,
            "directory" | "dir" => EntryKind::Directory,
            "symlink" | "link" => EntryKind::Symlink,
            _ => EntryKind::Other,
        };
        let mode = match value.get("mode") {
            Some(Value::Number(number)) => number.as_u64().and_then(|mode| u32::try_from(mode).ok()),
            Some(Value::String(octal)) => u32::from_str_radix(octal.trim_start_matches("0o"), 8).ok(),
            _ => None,
        };
        Some(Self {
            path: text("path")?.to_owned(),
            kind,
            size: value.get("size").and_then(Value::as_u64).unwrap_or(0),
            mode: mode.map(|mode| mode & 0o7777),
            target: ["target", "link_target", "symlink_target"].into_iter().find_map(text).map(str::to_owned),
        })
    }
}

impl Client {
    /// What is in a directory, or in everything below it.
    pub(crate) async fn list_files(&self, sandbox: &str, path: &str, recursive: bool) -> Result<Listing, ClientError> {
        let route = format!("/sandbox/{sandbox}/files/list");
        let query = [("path", path), ("recursive", "true")];
        let answer = self.get(&route, &query[..if recursive { 2 } else { 1 }]).await?;
        let unexpected = |reason: &str| ClientError::Unexpected { request: route.clone(), reason: reason.to_owned() };
        let files = answer.get("files").and_then(Value::as_array).ok_or_else(|| unexpected("has no list of files"))?;
        if files.len() > MAX_ENTRIES {
            return Err(unexpected("the list has too many files"));
        }
        let entries: Option<Vec<Entry>> = files.iter().map(Entry::parse).collect();
        Ok(Listing {
            entries: entries.ok_or_else(|| unexpected("a file has no path or type"))?,
            truncated: answer.get("truncated").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Opens a file of a sandbox for reading.
    pub(crate) async fn read_file(&self, sandbox: &str, path: &str) -> Result<Response, ClientError> {
        let route = format!("/sandbox/{sandbox}/files/raw");
        Ok(self.send(self.request(Method::GET, &route).query(&[("path", path)])).await?)
    }

    /// Writes a file of a sandbox from a stream; directories above it are made.
    pub(crate) async fn write_file(
        &self,
        sandbox: &str,
        path: &str,
        mode: u32,
        body: Body,
    ) -> Result<Value, ClientError> {
        let route = format!("/sandbox/{sandbox}/files/raw");
        let mode = format!("{:04o}", mode & 0o7777);
        let request = self.request(Method::PUT, &route).query(&[("path", path), ("mode", &mode)]);
        self.stream_body(request.header("content-type", "application/octet-stream"), body).await
    }

    /// Makes a directory and what is missing above it.
    pub(crate) async fn make_directory(&self, sandbox: &str, path: &str) -> Result<Value, ClientError> {
        self.post(&format!("/sandbox/{sandbox}/files/mkdir"), &json!({"path": path, "recursive": true})).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_in_the_forms_that_servers_write() {
        let entry = Entry::parse(&json!({"name":"a","path":"/w/a","type":"file","size":3,"mode":"0755"})).unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode), (EntryKind::File, 3, Some(0o755)));
        let entry = Entry::parse(&json!({"path":"/w/l","type":"symlink","mode":41471,"target":"../x"})).unwrap();
        assert_eq!((entry.kind, entry.mode, entry.target.as_deref()), (EntryKind::Symlink, Some(0o777), Some("../x")));
        assert_eq!(Entry::parse(&json!({"path":"/w/p","type":"fifo"})).unwrap().kind, EntryKind::Other);
        assert_eq!(Entry::parse(&json!({"path":"/w/p"})), None);
        assert_eq!(Entry::parse(&json!("x")), None);
    }
}
