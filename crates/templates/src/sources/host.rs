//! The apt of this host: its source files, what it already fetched, and how it reaches archives.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Selection, Source, parse_deb822, parse_one_line, select, select_release};
use crate::{Error, Result};

/// Settings that say how to reach archives. They are used while building; what may hold a proxy's
/// address or password never gets into the template.
const TRANSPORT: &[&str] = &[
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
];

/// Of these, the ones that describe the archive itself and are kept for apt inside.
const KEPT_INSIDE: &[&str] = &["Acquire::Check-Valid-Until", "Acquire::Check-Date"];

/// No sources file of apt comes near this; a larger one is not read to its end.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Where the host's apt keeps its configuration.
#[derive(Clone, Debug)]
pub struct HostApt {
    etc: PathBuf,
    only: Option<PathBuf>,
}

impl Default for HostApt {
    fn default() -> Self {
        Self { etc: PathBuf::from("/etc/apt"), only: None }
    }
}

impl HostApt {
    /// A configuration below another directory than `/etc/apt`.
    #[must_use]
    pub fn at(etc: impl Into<PathBuf>) -> Self {
        Self { etc: etc.into(), only: None }
    }

    /// Takes the entries of one file (`*.list` or `*.sources`) instead of the host's. This is how a host
    /// of another distribution makes a template of, say, Debian bookworm.
    #[must_use]
    pub fn from_file(file: impl Into<PathBuf>) -> Self {
        Self { only: Some(file.into()), ..Self::default() }
    }

    /// The text of the file given to [`HostApt::from_file`], empty for the host's own configuration.
    pub(crate) fn identity(&self) -> Result<String> {
        self.only.as_deref().map_or(Ok(String::new()), read)
    }

    /// All enabled binary entries.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let mut files = Vec::new();
        if let Some(only) = &self.only {
            files.push(only.clone());
        } else {
            files.push(self.etc.join("sources.list"));
            let parts = self.etc.join("sources.list.d");
            if let Ok(entries) = fs::read_dir(&parts) {
                files.extend(entries.filter_map(|e| e.ok().map(|e| e.path())));
            }
            files[1..].sort();
            files.retain(|f| f.is_file());
        }
        let mut found = Vec::new();
        for file in files {
            match file.extension().and_then(OsStr::to_str) {
                Some("sources") => found.extend(parse_deb822(&read(&file)?)),
                Some("list") => found.extend(parse_one_line(&read(&file)?)),
                // apt ignores files of other names too.
                _ => {}
            }
        }
        Ok(found)
    }

    /// The sources that a template is built from: of a release, or of the one that is preferred.
    ///
    /// # Errors
    /// [`Error::NoSources`], [`Error::Io`].
    pub fn select(&self, release: Option<&str>) -> Result<Selection> {
        let sources = self.sources()?;
        let origins = fetched_origins();
        let origin =
            |uri: &str, suite: &str| origins.get(&(uri.trim_end_matches('/').to_owned(), suite.to_owned())).cloned();
        let path = self.only.as_ref().unwrap_or(&self.etc);
        let own = own_release();
        let selected = match release {
            Some(release) => select_release(&sources, &own, &origin, release),
            None => select(&sources, &own, &origin),
        };
        selected.map_err(|reason| Error::NoSources { path: path.clone(), reason })
    }

    /// Settings for building, as lines of apt's configuration.
    pub(crate) fn transport() -> Vec<String> {
        settings().into_iter().filter(|s| TRANSPORT.iter().any(|key| s.starts_with(key))).collect()
    }

    /// Settings for apt inside.
    pub(crate) fn kept_inside() -> Vec<String> {
        settings().into_iter().filter(|s| KEPT_INSIDE.iter().any(|key| s.starts_with(key))).collect()
    }

    /// The archives in a mirror list of the host, given as `mirror+file:/path`.
    pub(crate) fn mirrors(uri: &str) -> Vec<String> {
        let path = uri.trim_start_matches("mirror+file:");
        let path = format!("/{}", path.trim_start_matches('/'));
        let text = read(Path::new(&path)).unwrap_or_default();
        let first_words = text.lines().filter_map(|l| l.split_whitespace().next());
        first_words.filter(|w| !w.starts_with('#')).map(str::to_owned).collect()
    }
}

fn read(path: &Path) -> Result<String> {
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_LIMIT), &mut bytes)
        .map_err(Error::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `VERSION_CODENAME` of the host, empty if it has none.
fn own_release() -> String {
    let text = read(Path::new("/etc/os-release")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let result = Command::new(program).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    result.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// (URI, suite) to origin, for what the host has fetched; empty before its first `apt-get update`.
fn fetched_origins() -> HashMap<(String, String), String> {
    let format = "$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)";
    let lines = output("apt-get", &["indextargets", "--format", format, "Created-By: Packages"]);
    let mut origins = HashMap::new();
    for line in lines.lines() {
        let mut fields = line.split('\t');
        if let (Some(uri), Some(suite), Some(origin)) = (fields.next(), fields.next(), fields.next())
            && !origin.is_empty()
            && !origin.starts_with("$(")
        {
            origins.insert((uri.trim_end_matches('/').to_owned(), suite.to_owned()), origin.to_owned());
        }
    }
    origins
}

/// `Name "value";` lines of apt's configuration that have a value.
fn settings() -> Vec<String> {
    let dump = output("apt-config", &["dump"]);
    dump.lines().filter(|l| l.starts_with("Acquire::") && !l.ends_with("\"\";")).map(str::to_owned).collect()
}
