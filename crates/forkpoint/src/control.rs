//! What an operator on the server's own machine can ask of it: a socket in the data directory, one line of JSON each way.
//! Whoever may enter the data directory (root) may ask.

use anyhow::{Context, bail};
use forkpoint_engine::{Platform, ports::runtime::Garbage};
use serde::{Deserialize, Serialize};
use std::{fs, os::fd::AsRawFd, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

const NAME: &str = "control";
/// The longest question, in bytes.
const MAX_QUESTION: u64 = 4096;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 20;
/// How long the question may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Remove what may go now.
    Collect {
        /// Only tell what would go.
        dry_run: bool,
    },
}

/// What was done, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Collected(Vec<Removed>),
    Failed(String),
}

/// Something that went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// What it is, e.g. `layer`.
    pub(crate) kind: String,
    /// Which.
    pub(crate) name: String,
    /// What it holds.
    pub(crate) bytes: u64,
}

impl From<Garbage> for Removed {
    fn from(one: Garbage) -> Self {
        Self { kind: one.kind.to_owned(), name: one.name, bytes: one.bytes }
    }
}

/// Calls `work` with a path to the socket that is short enough for an address, however long the data directory's is.
fn at_socket<T>(data_dir: &Path, work: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let run = fs::File::open(data_dir.join("run"))?;
    work(&Path::new("/proc/self/fd").join(run.as_raw_fd().to_string()).join(NAME))
}

/// Answers until dropped. The caller holds the data directory's lock: a socket that is there already is a dead one's.
pub(crate) async fn serve(data_dir: &Path, platform: Platform) {
    let listener = at_socket(data_dir, |path| {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(path)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "operators cannot ask this server to collect"),
    };
    loop {
        match listener.accept().await {
            // One after the other: who asks waits.
            Ok((stream, _)) => {
                if let Err(error) = answer(stream, &platform).await {
                    tracing::warn!(%error, "could not answer an operator");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not hear an operator");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, platform: &Platform) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_QUESTION));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.context("the question did not come")??;
    let answer = match serde_json::from_str(&line) {
        Ok(Question::Collect { dry_run }) => match platform.collect_now(dry_run).await {
            Ok(found) => Answer::Collected(found.into_iter().map(Removed::from).collect()),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Err(error) => Answer::Failed(format!("the server does not understand this: {error}")),
    };
    writer.write_all((serde_json::to_string(&answer)? + "\n").as_bytes()).await?;
    Ok(())
}

/// Asks the server of a data directory to collect.
pub(crate) async fn ask_to_collect(data_dir: &Path, dry_run: bool) -> anyhow::Result<Vec<Removed>> {
    let stream = at_socket(data_dir, |path| {
        let stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    });
    let mut stream = stream.context("reach the server that works on this directory (is it still starting?)")?;
    let question = serde_json::to_string(&Question::Collect { dry_run })? + "\n";
    stream.write_all(question.as_bytes()).await.context("ask the server")?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).await.context("hear the server")?;
    match serde_json::from_str(&text).context("the server ended before it answered")? {
        Answer::Collected(removed) => Ok(removed),
        Answer::Failed(problem) => bail!("{problem}"),
    }
}
