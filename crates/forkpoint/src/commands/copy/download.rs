//! Copies out of a sandbox.

use super::{
    Copied, Failure, PARALLEL,
    host_tree::HostTree,
    plan::{Given, below, is_directory_list, join, stays_inside},
    progress::Progress,
};
use crate::client::{Client, ClientError, Entry, EntryKind, Listing, MAX_ENTRIES};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Response;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};
use tokio::io::AsyncWriteExt as _;

/// Writes a file of a sandbox to standard output.
pub(crate) async fn stream(client: &Client, sandbox: &str, path: &str) -> Result<Copied, Failure> {
    let mut response = client.read_file(sandbox, path).await?;
    let mut copied = Copied { files: 1, ..Copied::default() };
    while let Some(chunk) = next_chunk(client, &mut response).await? {
        std::io::stdout().lock().write_all(&chunk)?;
        copied.bytes += chunk.len() as u64;
    }
    std::io::stdout().lock().flush()?;
    Ok(copied)
}

/// Copies a file or a whole directory to this machine.
pub(crate) async fn tree(
    client: &Client,
    sandbox: &str,
    source: &str,
    destination: &Path,
    mode: Option<u32>,
) -> Result<Copied, Failure> {
    let source = Given::parse(source);
    match client.list_files(sandbox, source.path, true).await {
        Ok(listing) if is_directory_list(source.path, &listing.entries) => {
            let entries = whole_list(client, sandbox, source.path, listing).await?;
            let root = directory_target(&source, destination)?;
            directory(client, sandbox, source.path, entries, &root).await
        }
        Err(ClientError::Api(error)) if source.is_directory || error.status >= 500 => {
            Err(ClientError::Api(error).into())
        }
        // Not a directory: reading it as a file says best what it is.
        Ok(_) | Err(ClientError::Api(_)) => single_file(client, sandbox, &source, destination, mode).await,
        Err(error) => Err(error.into()),
    }
}

/// All entries of a tree. A server that does not list so many at once is asked directory by directory.
async fn whole_list(client: &Client, sandbox: &str, root: &str, first: Listing) -> Result<Vec<Entry>, Failure> {
    if !first.truncated {
        return Ok(first.entries);
    }
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let listing = client.list_files(sandbox, &directory, false).await?;
        if listing.truncated || all.len() + listing.entries.len() > MAX_ENTRIES {
            return Err(Failure::Other(format!(
                "{directory:?} holds more files than can be listed; copy an archive of it"
            )));
        }
        for entry in &listing.entries {
            let name = below(&directory, entry).map_err(untrue)?;
            if name.contains('/') {
                return Err(untrue(format!("{name:?} is deeper than was asked for")));
            }
            if entry.kind == EntryKind::Directory {
                open.push(join(&directory, &name));
            }
        }
        all.extend(listing.entries);
    }
    Ok(all)
}

fn untrue(why: String) -> Failure {
    Failure::Other(format!("the sandbox's list of files cannot be right: {why}"))
}

/// The directory of this machine that takes a directory's content.
fn directory_target(source: &Given<'_>, destination: &Path) -> Result<PathBuf, Failure> {
    let inside = destination.is_dir() && !source.contents;
    let root = match (inside, source.name()) {
        (true, Some(name)) => destination.join(name),
        _ => destination.to_owned(),
    };
    match std::fs::create_dir(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Failure::io(format!("create {}", root.display()))(error))
        }
        _ => Ok(root),
    }
}

async fn directory(
    client: &Client,
    sandbox: &str,
    source: &str,
    mut entries: Vec<Entry>,
    root: &Path,
) -> Result<Copied, Failure> {
    let tree = HostTree::open(root).map_err(Failure::io(format!("open {}", root.display())))?;
    // A directory sorts before what is in it.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let (mut copied, mut files, mut links) = (Copied::default(), Vec::new(), Vec::new());
    for entry in entries {
        let path = below(source, &entry).map_err(untrue)?;
        match entry.kind {
            EntryKind::Directory => {
                tree.make_directory(&path).map_err(Failure::io(format!("create directory {path:?}")))?;
            }
            EntryKind::File => files.push((path, entry)),
            EntryKind::Symlink => links.push((path, entry.target)),
            EntryKind::Other => copied.passed_over.push(format!("{path:?}: not a file")),
        }
    }
    let progress = Progress::start(Some(files.iter().map(|(_, entry)| entry.size).fold(0, u64::saturating_add)));
    let moves = files.into_iter().map(|(path, entry)| {
        let (tree, progress) = (&tree, &progress);
        async move {
            let remote = join(source, &path);
            let response = client.read_file(sandbox, &remote).await;
            match response {
                Ok(response) => {
                    save(client, response, tree, &path, entry.mode.unwrap_or(0o644), progress).await.map(Ok)
                }
                // It went away since the list was made: sandboxes go on running while they are copied.
                Err(error) if error.is_not_found() => Ok(Err(format!("{path:?}: it is gone"))),
                Err(error) => Err(error.into()),
            }
        }
    });
    let mut moves = stream::iter(moves).buffer_unordered(PARALLEL);
    while let Some(moved) = moves.try_next().await? {
        match moved {
            Ok(bytes) => {
                copied.files += 1;
                copied.bytes += bytes;
            }
            Err(why) => copied.passed_over.push(why),
        }
    }
    // Links last: nothing is written after they exist.
    for (path, target) in links {
        match target {
            Some(target) if stays_inside(&path, &target) => {
                tree.link(&path, &target).map_err(Failure::io(format!("link {path:?}")))?;
            }
            Some(_) => copied.passed_over.push(format!("{path:?}: a link that leaves the copied directory")),
            None => copied.passed_over.push(format!("{path:?}: a link, and the server does not say where to")),
        }
    }
    progress.finish(copied.files);
    Ok(copied)
}

async fn single_file(
    client: &Client,
    sandbox: &str,
    source: &Given<'_>,
    destination: &Path,
    mode: Option<u32>,
) -> Result<Copied, Failure> {
    let (directory, name) = if destination.is_dir() {
        let name = source.name().ok_or_else(|| Failure::Usage("say what to call the copy".to_owned()))?;
        (destination, name.to_owned())
    } else {
        let name = destination.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::Usage("the destination's name must be text".to_owned()))?;
        let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")), name.to_owned())
    };
    let response = client.read_file(sandbox, source.path).await?;
    let tree = HostTree::open(directory).map_err(Failure::io(format!("open {}", directory.display())))?;
    let progress = Progress::start(response.content_length());
    let bytes = save(client, response, &tree, &name, mode.unwrap_or(0o644), &progress).await?;
    progress.finish(1);
    Ok(Copied { files: 1, bytes, passed_over: Vec::new() })
}

/// Writes one answer's bytes to a file; a file that did not come whole does not appear.
async fn save(
    client: &Client,
    mut response: Response,
    tree: &HostTree,
    path: &str,
    mode: u32,
    progress: &Progress,
) -> Result<u64, Failure> {
    let failed = || Failure::io(format!("write {path:?}"));
    let (file, unfinished) = tree.create(path).map_err(failed())?;
    let mut file = tokio::fs::File::from_std(file);
    let mut bytes = 0;
    while let Some(chunk) = next_chunk(client, &mut response).await? {
        file.write_all(&chunk).await.map_err(failed())?;
        bytes += chunk.len() as u64;
        progress.add(chunk.len() as u64);
    }
    file.flush().await.map_err(failed())?;
    unfinished.finish(&file.into_std().await, mode).map_err(failed())?;
    Ok(bytes)
}

async fn next_chunk(client: &Client, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
    response.chunk().await.map_err(|error| client.broken(&error).into())
}
