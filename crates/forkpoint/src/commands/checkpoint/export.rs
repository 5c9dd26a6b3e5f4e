//! `forkpoint checkpoint export`: a checkpoint as an OCI image layout.

use crate::commands::{Context, Failure};
use forkpoint_domain::ids::CheckpointId;
use futures::TryStreamExt as _;
use reqwest::Response;
use serde_json::json;
use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};
use tokio_util::io::{StreamReader, SyncIoBridge};

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which checkpoint
    id: CheckpointId,
    /// A file that ends in .tar, a directory that is not there yet, or - for standard output
    file: PathBuf,
    /// Put the environment's variables into the image, in clear; without this they are left out
    #[arg(long)]
    with_env: bool,
    /// Leave the template out: for servers that have it, not for other tools
    #[arg(long)]
    no_template: bool,
}

/// Exports and prints the hash of the checkpoint's tree, unless the archive itself goes to standard output.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let target = Target::of(args.file)?;
    let flag = |value: bool| if value { "true" } else { "false" };
    let query = [("env", flag(args.with_env)), ("template", flag(!args.no_template))];
    let response = client.open(&format!("/checkpoints/{}/export", args.id), &query).await?;
    let checksum = response.headers().get("x-forkpoint-checksum").and_then(|text| text.to_str().ok());
    let checksum = checksum.unwrap_or_default().to_owned();
    let size = response.content_length();
    let shown = target.clone();
    tokio::task::spawn_blocking(move || shown.fill(&mut reader(response)))
        .await
        .map_err(|error| Failure::Other(format!("export: {error}")))??;
    if let Target::Output = target {
        return Ok(0);
    }
    let answer = json!({ "id": args.id.to_string(), "checksum": checksum, "size_bytes": size });
    context.output.value_or(&answer, || context.output.line(&checksum))?;
    Ok(0)
}

/// Reads an answer's body where blocking is allowed.
fn reader(response: Response) -> impl Read {
    let pieces = response.bytes_stream().map_err(io::Error::other);
    SyncIoBridge::new(StreamReader::new(Box::pin(pieces)))
}

/// Where an archive goes.
#[derive(Debug, Clone)]
enum Target {
    Output,
    File(PathBuf),
    Directory(PathBuf),
}

impl Target {
    fn of(path: PathBuf) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Output);
        }
        if path.extension().is_some_and(|extension| extension == "tar") {
            return Ok(Self::File(path));
        }
        if path.symlink_metadata().is_ok() {
            let shown = path.display();
            return Err(Failure::Usage(format!(
                "{shown} is there already; name a new directory, or a file that ends in .tar"
            )));
        }
        Ok(Self::Directory(path))
    }

    /// Writes it beside and moves it into place, so that what has the name is whole.
    fn fill(&self, archive: &mut dyn Read) -> Result<(), Failure> {
        match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                copy(archive, &mut output, "standard output")?;
                Ok(output.flush()?)
            }
            Self::File(path) => {
                let parent = parent(path);
                let failed = || Failure::io(format!("write {}", path.display()));
                let mut beside =
                    tempfile::Builder::new().prefix(".forkpoint-export-").tempfile_in(parent).map_err(failed())?;
                copy(archive, beside.as_file_mut(), &path.display().to_string())?;
                beside.as_file().sync_all().map_err(failed())?;
                beside.persist(path).map(drop).map_err(|error| failed()(error.error))
            }
            Self::Directory(path) => {
                let failed = || Failure::io(format!("write {}", path.display()));
                // Removed with what is in it unless it is moved away.
                let beside =
                    tempfile::Builder::new().prefix(".forkpoint-export-").tempdir_in(parent(path)).map_err(failed())?;
                let made = beside.path().join("layout");
                forkpoint_portable::directory::unpack(archive, &made)
                    .map_err(|error| Failure::Other(format!("write {}: {error}", path.display())))?;
                std::fs::rename(&made, path).map_err(failed())
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, shown: &str) -> Result<(), Failure> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::io("the archive broke off")(error)),
        };
        to.write_all(&buffer[..got]).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Output(error),
            _ => Failure::io(format!("write {shown}"))(error),
        })?;
    }
}
