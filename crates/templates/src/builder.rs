//! Building a template's root by mmdebstrap, from the host's own package sources.

mod output;
mod run;

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::progress::{Cancel, Reporter, Stage};
use crate::recipe::Recipe;
use crate::sources::{HostApt, Selection};
use crate::{Error, Result, tree};

/// Free bytes without which building is not begun: the root (about 550 MB), the downloaded packages, the
/// package lists, and the dpkg database's temporary files.
const NEEDED_BYTES: u64 = 1_100_000_000;

/// A finished root and the release that it is of.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) root: PathBuf,
    pub(crate) release: String,
}

/// Builds `recipe` in the directory `staging`, as `staging/rootfs`; mmdebstrap's output goes to `log`.
pub(crate) fn build(
    recipe: &Recipe,
    apt: &HostApt,
    staging: &Path,
    log: &Path,
    cancel: &Cancel,
    reporter: &mut Reporter<'_>,
) -> Result<Built> {
    let free = tree::free_bytes(staging)?;
    if free < NEEDED_BYTES {
        return Err(full(staging));
    }
    let selection = apt.select(recipe.release.as_deref())?;
    let root = staging.join("rootfs");
    let result = run::mmdebstrap(recipe, &selection, staging, &root, log, cancel, reporter).and_then(|()| {
        reporter.report(Stage::Finishing, 92)?;
        finish(&root, recipe, &selection, log)
    });
    match result {
        Err(error) if error.is_full() => Err(full(staging)),
        Err(error) => Err(error),
        Ok(()) => Ok(Built { root, release: selection.release }),
    }
}

/// The error for a filesystem without room.
fn full(path: &Path) -> Error {
    let free_mb = tree::free_bytes(path).unwrap_or(0) / 1_000_000;
    // The staging directory is hidden and about to go; its parent is what an operator knows.
    let path = path.parent().unwrap_or(path).to_path_buf();
    Error::DiskFull { path, need_mb: NEEDED_BYTES / 1_000_000, free_mb }
}

/// Replaces what belongs to the host or to the act of building, and checks that the root is usable.
fn finish(root: &Path, recipe: &Recipe, selection: &Selection, log: &Path) -> Result<()> {
    tree::seal(root, tree::SCRATCH)?;
    for directory in ["etc/apt/sources.list.d", "etc/apt/apt.conf.d"] {
        remove_matching(&root.join(directory), |name| {
            name.contains("mmdebstrap") || directory.ends_with("sources.list.d")
        })?;
    }
    tree::remove(&root.join("etc/apt/sources.list"))?;
    let has_key = |key: &str| tree::exists(root, key.trim_start_matches('/')).unwrap_or(false);
    let sources = selection.for_inside(&HostApt::mirrors, &has_key);
    write(root, c"etc/apt/sources.list.d", c"distribution.sources", &sources)?;
    let mut settings = String::from("Acquire::Languages \"none\";\n");
    for line in HostApt::kept_inside() {
        settings.push_str(&line);
        settings.push('\n');
    }
    write(root, c"etc/apt/apt.conf.d", c"50forkpoint", &settings)?;

    let broken = |reason: String| Error::Build { name: recipe.name.clone(), reason, log: log.to_path_buf() };
    for path in recipe.required {
        if !tree::exists(root, path)? {
            return Err(broken(format!("the finished root has no /{path}")));
        }
    }
    let users = tree::read_small(root, c"etc/passwd")?;
    let wanted = "sandbox:x:1000:1000:";
    if !users.lines().any(|line| line.starts_with(wanted)) {
        return Err(broken(format!("the finished root's /etc/passwd has no line {wanted}...")));
    }
    Ok(())
}

fn write(root: &Path, directory: &CStr, name: &CStr, text: &str) -> Result<()> {
    tree::create_file(root, directory, name, text.as_bytes())
}

fn remove_matching(directory: &Path, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        if unwanted(&entry.file_name().to_string_lossy()) {
            tree::remove(&entry.path())?;
        }
    }
    Ok(())
}
