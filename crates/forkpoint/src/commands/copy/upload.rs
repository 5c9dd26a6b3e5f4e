//! Copies into a sandbox.

use super::{
    Copied, Failure, PARALLEL,
    plan::{Given, is_directory_list, join},
    progress::Progress,
};
use crate::client::{Client, ClientError};
use futures::{StreamExt as _, TryStreamExt as _, stream as streams};
use reqwest::Body;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Links made by one command, and the bytes of its arguments: far below what the kernel takes.
const LINKS_PER_COMMAND: usize = 200;
const LINK_BYTES_PER_COMMAND: usize = 64 * 1024;
/// Directories deeper than this are not entered: no sensible tree is.
const MAX_DEPTH: usize = 256;

/// What a directory of this machine holds, by path below it.
#[derive(Debug, Default)]
struct HostList {
    directories: Vec<String>,
    files: Vec<(String, PathBuf, u64)>,
    links: Vec<(String, String)>,
    passed_over: Vec<String>,
}

/// Writes standard input to a file of a sandbox.
pub(crate) async fn stream(client: &Client, sandbox: &str, path: &str, mode: Option<u32>) -> Result<Copied, Failure> {
    let progress = Progress::start(None);
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let body = body(tokio::io::stdin(), progress.clone(), moved.clone());
    client.write_file(sandbox, path, mode.unwrap_or(0o644), body).await?;
    progress.finish(1);
    Ok(Copied { files: 1, bytes: moved.load(std::sync::atomic::Ordering::Relaxed), ..Copied::default() })
}

/// Copies a file or a whole directory of this machine.
pub(crate) async fn tree(
    client: &Client,
    source: &Path,
    sandbox: &str,
    destination: &str,
    mode: Option<u32>,
) -> Result<Copied, Failure> {
    let metadata = fs::metadata(source).map_err(Failure::io(format!("read {}", source.display())))?;
    let given = Given::parse(destination);
    // The name behind `.`, `..` and links, which the user named and so are followed.
    let contents = source.as_os_str().as_encoded_bytes().ends_with(b"/.");
    let real = fs::canonicalize(source).map_err(Failure::io(format!("read {}", source.display())))?;
    let named = if source.file_name().is_some() { source.file_name() } else { real.file_name() };
    let name = match named {
        Some(name) => {
            Some(name.to_str().ok_or_else(|| Failure::Other(format!("{}: its name is not UTF-8", source.display())))?)
        }
        None => None,
    };
    let into = given.is_directory || is_directory(client, sandbox, given.path).await?;
    let target = match name {
        Some(name) if into && !contents => join(given.path, name),
        _ => given.path.to_owned(),
    };
    if metadata.is_dir() {
        directory(client, source, sandbox, &target).await
    } else {
        let progress = Progress::start(Some(metadata.len()));
        let bytes = file(client, source, sandbox, &target, mode, true, &progress).await?;
        progress.finish(1);
        Ok(Copied { files: 1, bytes, ..Copied::default() })
    }
}

async fn is_directory(client: &Client, sandbox: &str, path: &str) -> Result<bool, Failure> {
    match client.list_files(sandbox, path, false).await {
        Ok(listing) => Ok(is_directory_list(path, &listing.entries)),
        // Not there, or not a directory. What else is wrong shows at the next step.
        Err(ClientError::Api(error)) if error.status < 500 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn directory(client: &Client, source: &Path, sandbox: &str, target: &str) -> Result<Copied, Failure> {
    let root = source.to_owned();
    let list =
        tokio::task::spawn_blocking(move || list(&root)).await.map_err(|error| Failure::Other(error.to_string()))??;
    let mut copied = Copied { passed_over: list.passed_over, ..Copied::default() };
    let leaves = leaf_directories(&list.directories);
    streams::iter(
        leaves.iter().map(|path| async move { client.make_directory(sandbox, &join(target, path)).await.map(drop) }),
    )
    .buffer_unordered(PARALLEL)
    .try_collect::<()>()
    .await?;
    let progress = Progress::start(Some(list.files.iter().map(|(_, _, size)| size).sum()));
    let moves = list.files.iter().map(|(path, local, _)| {
        let progress = &progress;
        async move { file(client, local, sandbox, &join(target, path), None, false, progress).await }
    });
    let mut moves = streams::iter(moves).buffer_unordered(PARALLEL);
    while let Some(bytes) = moves.try_next().await? {
        copied.files += 1;
        copied.bytes += bytes;
    }
    links(client, sandbox, target, &list.links).await?;
    progress.finish(copied.files);
    Ok(copied)
}

/// Lists a directory; links in it are listed, not followed.
fn list(root: &Path) -> Result<HostList, Failure> {
    let mut found = HostList { directories: vec![String::new()], ..HostList::default() };
    let mut open = vec![(String::new(), root.to_owned(), 0)];
    while let Some((prefix, directory, depth)) = open.pop() {
        let failed = || Failure::io(format!("read {}", directory.display()));
        for entry in fs::read_dir(&directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                found.passed_over.push(format!("{:?}: its name is not UTF-8", path));
                continue;
            };
            let below = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = fs::symlink_metadata(&path).map_err(Failure::io(format!("read {}", path.display())))?;
            if metadata.is_dir() && depth < MAX_DEPTH {
                found.directories.push(below.clone());
                open.push((below, path, depth + 1));
            } else if metadata.is_file() {
                found.files.push((below, path, metadata.len()));
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(Failure::io(format!("read {}", path.display())))?;
                match target.into_os_string().into_string() {
                    Ok(target) => found.links.push((below, target)),
                    Err(_) => found.passed_over.push(format!("{below:?}: its target is not UTF-8")),
                }
            } else {
                found.passed_over.push(format!("{below:?}: not a file, directory or link"));
            }
        }
    }
    found.files.sort();
    found.links.sort();
    Ok(found)
}

/// The directories that hold no other one: making them makes all.
fn leaf_directories(all: &[String]) -> Vec<&str> {
    let parents: BTreeSet<&str> = all
        .iter()
        .filter(|path| !path.is_empty())
        .map(|path| path.rsplit_once('/').map_or("", |(parent, _)| parent))
        .collect();
    all.iter().map(String::as_str).filter(|path| !parents.contains(path)).collect()
}

async fn file(
    client: &Client,
    local: &Path,
    sandbox: &str,
    target: &str,
    mode: Option<u32>,
    follow: bool,
    progress: &Progress,
) -> Result<u64, Failure> {
    let (file, metadata) = open(local, follow).map_err(Failure::io(format!("read {}", local.display())))?;
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let body = body(tokio::fs::File::from_std(file), progress.clone(), moved.clone());
    client.write_file(sandbox, target, mode.unwrap_or(metadata.mode() & 0o777), body).await?;
    Ok(moved.load(std::sync::atomic::Ordering::Relaxed))
}

/// Opens a regular file. Not blocking: what was a file when it was listed may be a pipe by now.
fn open(path: &Path, follow: bool) -> io::Result<(File, Metadata)> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags.set(OFlags::NOFOLLOW, !follow);
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata))
}

fn body(
    from: impl AsyncRead + Send + 'static,
    progress: Progress,
    moved: std::sync::Arc<std::sync::atomic::AtomicU64>,
) -> Body {
    Body::wrap_stream(ReaderStream::with_capacity(from, CHUNK_BYTES).inspect_ok(move |chunk| {
        moved.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed);
        progress.add(chunk.len() as u64);
    }))
}

/// Makes links by commands in the sandbox, many at once: the API writes files and directories only.
async fn links(client: &Client, sandbox: &str, root: &str, links: &[(String, String)]) -> Result<(), Failure> {
    const SCRIPT: &str = "while [ $# -gt 1 ]; do ln -sfn -- \"$1\" \"$2\" || exit 1; shift 2; done";
    for batch in batches(links) {
        let mut argv = vec!["sh".to_owned(), "-c".to_owned(), SCRIPT.to_owned(), "sh".to_owned()];
        for (path, target) in batch {
            argv.extend([target.clone(), join(root, path)]);
        }
        let answer = client.execute(sandbox, json!({"command": argv})).await?;
        if answer.get("exit_code").and_then(serde_json::Value::as_i64) != Some(0) {
            let why = crate::output::text(&answer, "stderr");
            return Err(Failure::Other(format!("make links in the sandbox: {}", why.trim())));
        }
    }
    Ok(())
}

/// Splits links so that each part fits one command.
fn batches(links: &[(String, String)]) -> Vec<&[(String, String)]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, (path, target)) in links.iter().enumerate() {
        let size = path.len() + target.len();
        if index > start && (index - start == LINKS_PER_COMMAND || bytes + size > LINK_BYTES_PER_COMMAND) {
            parts.push(&links[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < links.len() {
        parts.push(&links[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_without_directories_are_made() {
        let all = ["", "a", "a/b", "a-b", "c", "c/d", "c/d/e"].map(str::to_owned);
        assert_eq!(leaf_directories(&all), ["a/b", "a-b", "c/d/e"]);
        assert_eq!(leaf_directories(&[String::new()]), [""]);
    }

    #[test]
    fn links_are_made_in_parts_that_fit_a_command() {
        let links: Vec<_> = (0..450).map(|n| (format!("l{n}"), "t".to_owned())).collect();
        assert_eq!(batches(&links).iter().map(|part| part.len()).collect::<Vec<_>>(), [200, 200, 50]);
        let long: Vec<_> = (0..40).map(|n| (format!("l{n}"), "t".repeat(4000))).collect();
        assert_eq!(batches(&long).iter().map(|part| part.len()).sum::<usize>(), 40);
        assert!(batches(&long).iter().all(|part| part.len() <= 16));
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn a_tree_is_listed_without_following_its_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("d/f"), "12345").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!(found.links, [("root".to_owned(), "/".to_owned())]);
        assert_eq!(found.files.iter().map(|(path, _, size)| (path.as_str(), *size)).collect::<Vec<_>>(), [("d/f", 5)]);
        assert!(found.passed_over.is_empty());
        assert!(open(&dir.path().join("root"), false).is_err());
    }
}
