//! Named servers and their keys in `~/.config/forkpoint/profiles.toml`, readable by their owner only.

use crate::client::{ApiKey, ClientError};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// More than any sensible file has.
const MAX_BYTES: u64 = 1024 * 1024;

/// One server and the key for it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The server's address.
    pub(crate) url: String,
    /// The API key, unless it comes from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).field("key", &self.key.as_ref().map(|_| "<key>")).finish()
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// The profile used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All profiles by name.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

impl Profiles {
    /// Reads the file's text. Errors do not quote it: it holds keys.
    pub(crate) fn parse(text: &str) -> Result<Self, ClientError> {
        toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(0, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            ClientError::Settings(format!("the profile file is wrong near line {line}: {}", error.message()))
        })
    }

    /// Where the file is: `$XDG_CONFIG_HOME/forkpoint/profiles.toml`, else below `~/.config`.
    pub(crate) fn path(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let base = env("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| env("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".config")))?;
        Some(base.join("forkpoint/profiles.toml"))
    }

    /// Reads the file; one that does not exist is empty, one that others may read is refused.
    pub(crate) fn read(path: &Path) -> Result<Self, ClientError> {
        let wrong = |what: String| ClientError::Settings(format!("{}: {what}", path.display()));
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(wrong(format!("read profiles: {error}"))),
        };
        let mode = file.metadata().map_err(|error| wrong(format!("read profiles: {error}")))?.mode();
        if mode & 0o077 != 0 {
            return Err(wrong(format!("holds API keys but has mode {:04o}; make it 0600", mode & 0o7777)));
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| wrong(format!("read profiles: {error}")))?;
        Self::parse(&text)
    }

    /// Writes the file whole, mode 0600 from its first byte, by way of a new file beside it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ClientError> {
        let wrong =
            |what: &str, error: io::Error| ClientError::Settings(format!("{}: {what}: {error}", path.display()));
        let text = toml::to_string_pretty(self).map_err(|error| wrong("encode profiles", io::Error::other(error)))?;
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|error| wrong("create its directory", error))?;
        }
        let beside = path.with_extension(format!("toml.{}", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .and_then(|fd: OwnedFd| {
                let mut file = fs::File::from(fd);
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&beside, path));
        written.map_err(|error| {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_file(&beside);
            wrong("write profiles", error)
        })
    }

    /// The profile of that name.
    pub(crate) fn named(&self, name: &str) -> Result<Profile, ClientError> {
        self.profiles.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { format!("there are: {}", known.join(", ")) };
            ClientError::Settings(format!("no profile {name:?}; {known}"))
        })
    }

    /// The profile in use, if there is one.
    pub(crate) fn current(&self) -> Option<Profile> {
        self.current.as_ref().and_then(|name| self.profiles.get(name)).cloned()
    }

    /// Adds or replaces a profile; the first one is taken into use.
    pub(crate) fn add(&mut self, name: &str, url: String, key: Option<&ApiKey>) -> Result<(), ClientError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(ClientError::Settings(
                "a profile's name is 1 to 64 letters, digits, `-`, `_` or `.`".to_owned(),
            ));
        }
        self.profiles.insert(name.to_owned(), Profile { url, key: key.map(|key| key.expose().to_owned()) });
        self.current.get_or_insert_with(|| name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn profiles_read_back_and_only_their_owner_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/forkpoint/profiles.toml");
        let mut profiles = Profiles::read(&path).unwrap();
        profiles.add("local", "http://127.0.0.1:7070".into(), Some(&"sk-1".to_owned().into())).unwrap();
        profiles.add("other", "http://h".into(), None).unwrap();
        profiles.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let read = Profiles::read(&path).unwrap();
        assert_eq!(read.current.as_deref(), Some("local"));
        assert_eq!(read.current().unwrap().key.as_deref(), Some("sk-1"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Profiles::read(&path).unwrap_err().to_string().contains("mode 0644; make it 0600"));
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        for text in ["[profiles.a]\nurl='http://h'\nkey='sk-secret'\nother=1\n", "[profiles.a]\nkey='sk-secret\n"] {
            let error = Profiles::parse(text).unwrap_err().to_string();
            assert!(error.contains("near line") && !error.contains("sk-secret"), "{error}");
        }
        assert!(!format!("{:?}", Profile { url: "u".into(), key: Some("sk-secret".into()) }).contains("secret"));
    }

    #[test]
    fn names_stay_plain() {
        for bad in ["", "a b", "../x", "a\n", &"x".repeat(65)] {
            assert!(Profiles::default().add(bad, "http://h".into(), None).is_err(), "{bad:?}");
        }
    }
}
