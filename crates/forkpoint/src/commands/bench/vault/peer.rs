//! restic on the same files.

use super::trees;
use crate::commands::Failure;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A repository of restic's newest form, which compresses as the vault does.
#[derive(Debug)]
pub(super) struct Restic {
    repository: PathBuf,
}

impl Restic {
    /// What it says of itself; `None`: it is not installed.
    pub(super) fn version() -> Option<String> {
        let output = Command::new("restic").arg("version").stderr(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub(super) fn new(folder: &Path) -> Result<Self, Failure> {
        let restic = Self { repository: folder.join("restic") };
        restic.run(&["init", "--repository-version", "latest"])?;
        Ok(restic)
    }

    pub(super) fn backup(&self, tree: &Path) -> Result<(), Failure> {
        self.run(&["backup", &tree.to_string_lossy()])
    }

    /// Until it is on stable storage, as a restore from the vault is when it answers; restic itself does not sync.
    pub(super) fn restore(&self, into: &Path) -> Result<(), Failure> {
        self.run(&["restore", "latest", "--target", &into.to_string_lossy()])?;
        let synced = std::fs::File::open(into).map(rustix::fs::syncfs);
        synced.map_err(Failure::io("open what restic restored"))?.map_err(|error| Failure::Other(error.to_string()))
    }

    /// Bytes of its repository.
    pub(super) fn stored(&self) -> Result<u64, Failure> {
        trees::bytes_of(&self.repository)
    }

    fn run(&self, arguments: &[&str]) -> Result<(), Failure> {
        let output = Command::new("restic")
            .arg("--quiet")
            .arg("--cache-dir")
            .arg(self.repository.with_extension("cache"))
            .arg("--repo")
            .arg(&self.repository)
            .args(arguments)
            .env("RESTIC_PASSWORD", "bench")
            .stdin(Stdio::null())
            .output()
            .map_err(Failure::io("start restic"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::Other(format!("restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}
