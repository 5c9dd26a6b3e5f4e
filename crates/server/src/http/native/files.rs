//! Files in a running sandbox: whole ones as JSON, big ones raw, and the tree they lie in.

pub(super) mod json;
pub(super) mod raw;
pub(super) mod tree;
pub(super) mod watch;

use crate::http::{
    error::{ApiError, ApiResult},
    time::Time,
};
use forkpoint_engine::ports::guest::{FileEntry, FileKind};
use serde::Serialize;
use utoipa::ToSchema;

/// One file, directory or link.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FileEntry)]
pub(super) struct EntryView {
    /// The last part of the path.
    name: String,
    /// Absolute; bytes that are not UTF-8 are replaced.
    path: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// Bytes of a regular file, else 0.
    size: u64,
    /// Permission bits in octal.
    #[schema(example = "0644")]
    mode: String,
    /// Owner inside.
    uid: u32,
    /// Group inside.
    gid: u32,
    /// Last change of content.
    #[schema(value_type = String, format = DateTime)]
    modified_at: Time,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<FileEntry> for EntryView {
    fn from(entry: FileEntry) -> Self {
        let name = entry.path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/");
        Self {
            name: name.to_owned(),
            kind: match entry.kind {
                FileKind::File => "file",
                FileKind::Directory => "directory",
                FileKind::Symlink => "symlink",
                FileKind::Other => "other",
            },
            size: entry.size,
            mode: format!("{:04o}", entry.mode & 0o7777),
            uid: entry.uid,
            gid: entry.gid,
            modified_at: Time(entry.modified_at),
            target: entry.target,
            path: entry.path,
        }
    }
}

/// Reads permission bits written in octal.
fn parse_mode(field: &str, text: &str) -> ApiResult<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain
        .then(|| u32::from_str_radix(digits, 8).ok())
        .flatten()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| ApiError::invalid(field, "must be permission bits in octal, like 0644"))
}
