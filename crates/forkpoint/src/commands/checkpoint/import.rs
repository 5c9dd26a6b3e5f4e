//! `forkpoint checkpoint import`: an archive from this server or another becomes a checkpoint.

use crate::{
    commands::{Context, Failure},
    output::{clean, text},
};
use bytes::Bytes;
use futures::stream;
use reqwest::Body;
use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

const PIECE: usize = 256 << 10;

/// What to import.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or directory that export wrote, or - for standard input
    file: PathBuf,
    /// What the checkpoint is called [default: as where it was made]
    #[arg(long)]
    name: Option<String>,
}

/// Imports and prints the checkpoint's id.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let query: Vec<_> = args.name.iter().map(|name| ("name", name.as_str())).collect();
    let key = uuid::Uuid::new_v4().to_string();
    let repeatable = args.file.as_os_str() != "-";
    let (body, size) = open(&args.file).await?;
    let answer = match client.upload("/checkpoints/import", &query, &key, body, size).await {
        // The server may or may not have it: asked again with the same key, it makes one at most.
        Err((_, true)) if repeatable => {
            let (body, size) = open(&args.file).await?;
            client.upload("/checkpoints/import", &query, &key, body, size).await
        }
        other => other,
    };
    let answer = answer.map_err(|(error, _)| error)?;
    context.output.value_or(&answer, || context.output.line(&clean(&text(&answer, "id"))))?;
    Ok(0)
}

/// The archive as a body, and its size if that is known.
async fn open(path: &Path) -> Result<(Body, Option<u64>), Failure> {
    if path.as_os_str() == "-" {
        return Ok((Body::wrap_stream(ReaderStream::with_capacity(tokio::io::stdin(), PIECE)), None));
    }
    let failed = || Failure::io(format!("open {}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(failed())?;
    let stat = file.metadata().await.map_err(failed())?;
    if !stat.is_dir() {
        return Ok((Body::wrap_stream(ReaderStream::with_capacity(file, PIECE)), stat.is_file().then_some(stat.len())));
    }
    if !path.join("oci-layout").is_file() {
        return Err(Failure::Usage(format!("{} is no OCI layout: it has no file oci-layout", path.display())));
    }
    let (pieces, taken) = mpsc::channel(4);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut to = BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        let packed = forkpoint_portable::directory::pack(&path, &mut to).map_err(io::Error::other);
        if let Err(error) = packed.and_then(|()| to.flush()) {
            // Nobody may be left to be told.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let body = stream::unfold(taken, |mut taken| async { taken.recv().await.map(|piece| (piece, taken)) });
    Ok((Body::wrap_stream(body), None))
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
