//! What can go wrong with templates, said so that whoever runs the server can act on it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure; the message alone tells what was wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name outside `[a-z0-9][a-z0-9._-]{0,63}`.
    #[error(
        "template name {name:?} is not valid: use 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit"
    )]
    InvalidName {
        /// The name as given, shortened.
        name: String,
    },
    /// No template of this name (and digest) is in the data directory.
    #[error("template {name:?} is unknown; known are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are, comma-separated.
        known: String,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// A bare verb phrase, such as "read".
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no room for the template; nothing was left behind.
    #[error("no room for the template in {path}: about {need_mb} MB needed, {free_mb} MB free", path = path.display())]
    DiskFull {
        /// The directory that is on the full filesystem.
        path: PathBuf,
        /// Megabytes that the step needs in all, roughly.
        need_mb: u64,
        /// Megabytes that were free when the step failed or was refused.
        free_mb: u64,
    },
    /// `template.json` cannot be read as one.
    #[error("template manifest {path} is damaged: {reason}", path = path.display())]
    BadManifest {
        /// The manifest's path.
        path: PathBuf,
        /// Why it was refused.
        reason: String,
    },
    /// A tree holds something that has no place in a template.
    #[error("{path} is a {kind}, which a template must not hold", path = path.display())]
    UnfitFile {
        /// Path within the tree.
        path: PathBuf,
        /// "device", "socket".
        kind: &'static str,
    },
    /// The cached tree is not what its manifest says.
    #[error("cached template in {path} is damaged: {reason}", path = path.display())]
    CacheDamaged {
        /// The cache entry.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The cache or data directory could be changed by others than its owner.
    #[error("{path} must belong to uid {uid} and be writable by nobody else: `chown {uid} {path}; chmod go-w {path}`", path = path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// The uid of this process.
        uid: u32,
    },
    /// The host's apt configuration has no source to build from.
    #[error(
        "no usable Debian or Ubuntu package source in {path}: {reason}; name one in a sources file of the host's apt",
        path = path.display()
    )]
    NoSources {
        /// Where sources were looked for.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// A program that building needs is not installed.
    #[error("{program} is missing: install the package {package}, for example by scripts/packages")]
    MissingProgram {
        /// The program's name.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// mmdebstrap failed, or left a root that lacks something.
    #[error("building template {name} failed: {reason}; the whole output is in {log}", log = log.display())]
    Build {
        /// The template's name.
        name: String,
        /// The decisive lines of output.
        reason: String,
        /// The log file in the cache directory.
        log: PathBuf,
    },
    /// Something in an archive, an image, a directory or a sandbox's tree has no place in a template.
    #[error("{origin}: {entry:?} {reason}; nothing was kept")]
    UnfitEntry {
        /// What it was read from.
        origin: String,
        /// The entry's path, with what is not UTF-8 replaced.
        entry: String,
        /// What is wrong with it, to be read after the path.
        reason: String,
    },
    /// What is to be imported is not of a form that can be imported, or is damaged.
    #[error("{path} cannot be imported: {reason}; nothing was kept", path = path.display())]
    BadImport {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is to become a template is larger than allowed.
    #[error("{origin}: {reason}; nothing was kept")]
    TooLarge {
        /// What it was read from.
        origin: String,
        /// Which bound was passed.
        reason: String,
    },
    /// The name belongs to a template of another kind.
    #[error("template name {name:?} is taken: {reason}")]
    NameTaken {
        /// The name.
        name: String,
        /// By what, and what would be right.
        reason: String,
    },
    /// The caller asked to stop; nothing half-made was left.
    #[error("making the template was cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Like [`Error::io`], for answers of the system-call layer.
    pub(crate) fn os(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.as_ref().to_path_buf();
        move |errno| Self::Io { action, path, source: errno.into() }
    }

    /// Like [`Error::io`], for streams: what they refuse themselves travels inside of the system's errors, and
    /// what is not the system's is damage.
    pub(crate) fn through_io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.downcast::<Self>() {
            Ok(refusal) => refusal,
            Err(source) if source.raw_os_error().is_some() => Self::Io { action, path, source },
            Err(damage) => Self::bad_import(&path, damage.to_string()),
        }
    }

    /// An entry that is refused.
    pub(crate) fn unfit(origin: &str, entry: &[u8], reason: impl Into<String>) -> Self {
        let entry: String = String::from_utf8_lossy(entry).chars().take(200).collect();
        Self::UnfitEntry { origin: origin.to_owned(), entry, reason: reason.into() }
    }

    /// A source that is refused.
    pub(crate) fn bad_import(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadImport { path: path.to_path_buf(), reason: reason.into() }
    }

    /// Whether the cause is what was given, not this machine.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::UnfitEntry { .. } | Self::UnfitFile { .. } | Self::BadImport { .. } | Self::TooLarge { .. }
        )
    }

    /// Whether the root of this failure is a full filesystem.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
