//! A directory in the making: hidden until renamed to its name, removed if that never happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::manifest::sync_dir;
use crate::{Error, Result, tree};

pub(crate) const PREFIX: &str = ".tmp-";

/// A `.tmp-` directory; dropping it removes it with all that is in it.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    kept: bool,
}

impl Staging {
    /// Makes a new directory below `parent`, whose lock the caller holds.
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{}-{count}", std::process::id()));
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        tree::set_mode(&path, 0o755)?;
        Ok(Self { path, kept: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its name, durably. What had that name must be gone.
    pub(crate) fn publish(mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(Error::io("rename to", target))?;
        self.kept = true;
        target.parent().map_or(Ok(()), sync_dir)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = tree::remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "remove unfinished template");
        }
    }
}

/// Removes what killed processes left in `parent`, whose lock the caller holds.
pub(crate) fn remove_leftovers(parent: &Path) -> Result<()> {
    let entries = fs::read_dir(parent).map_err(Error::io("list", parent))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", parent))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            tracing::info!(path = %entry.path().display(), "removing an unfinished template");
            tree::remove(&entry.path())?;
        }
    }
    Ok(())
}
