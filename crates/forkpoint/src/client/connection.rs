//! Where the server is and with which key to speak to it: flags, then the environment, then a profile.

use super::{error::ClientError, key::ApiKey};
use crate::profile::Profiles;
use clap::Args;
use reqwest::Url;

/// Where a server listens when nothing says otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// Flags that every client command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The server's address [env: FORKPOINT_URL, STATESET_API_URL] [default: http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The API key; other users of this machine can see a key that is given as a flag
    /// [env: FORKPOINT_KEY, STATESET_API_KEY, SANDBOX_API_KEY]
    #[arg(long, global = true, value_name = "KEY", hide_env_values = true)]
    pub(crate) key: Option<ApiKey>,
    /// Take address and key from this profile [env: FORKPOINT_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

/// A server and the key for it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The server's origin with an optional path, no `/api/v1`, no slash at the end.
    pub(crate) url: Url,
    /// The key, if one was found.
    pub(crate) key: Option<ApiKey>,
}

impl Connection {
    /// These flags, and where one is missing the other's.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { url: self.url.or(other.url), key: self.key.or(other.key), profile: self.profile.or(other.profile) }
    }

    /// Decides on server and key. Precedence: flag (a profile named by flag counts as one), `FORKPOINT_*`,
    /// `STATESET_*`, `SANDBOX_API_KEY`, the profile in `FORKPOINT_PROFILE` or else the current one, default.
    /// Profiles are only read when they are needed.
    pub(crate) fn resolve(
        &self,
        env: impl Fn(&str) -> Option<String>,
        profiles: impl FnOnce() -> Result<Profiles, ClientError>,
    ) -> Result<Target, ClientError> {
        let env = |names: &[&str]| names.iter().find_map(|name| env(name).filter(|value| !value.trim().is_empty()));
        let mut url = self.url.clone();
        let mut key = self.key.clone();
        let mut profiles = Some(profiles);
        if let Some(name) = &self.profile
            && let Some(read) = profiles.take()
        {
            let profile = read()?.named(name)?;
            url = url.or(Some(profile.url));
            key = key.or(profile.key.map(ApiKey::from));
        }
        url = url.or_else(|| env(&["FORKPOINT_URL", "STATESET_API_URL"]));
        key = key.or_else(|| env(&["FORKPOINT_KEY", "STATESET_API_KEY", "SANDBOX_API_KEY"]).map(ApiKey::from));
        if (url.is_none() || key.is_none())
            && let Some(read) = profiles
        {
            let profiles = read()?;
            let profile = match env(&["FORKPOINT_PROFILE"]) {
                Some(name) => Some(profiles.named(&name)?),
                None => profiles.current(),
            };
            let Some(profile) = profile else { return finish(url, key) };
            url = url.or(Some(profile.url));
            key = key.or(profile.key.map(ApiKey::from));
        }
        finish(url, key)
    }
}

fn finish(url: Option<String>, key: Option<ApiKey>) -> Result<Target, ClientError> {
    Ok(Target { url: parse_url(url.as_deref().unwrap_or(DEFAULT_URL))?, key })
}

/// Reads a server's address; `/api` and `/api/v1` at its end are dropped, since other clients' settings have them.
pub(crate) fn parse_url(text: &str) -> Result<Url, ClientError> {
    let refuse = |why: &str| {
        // An address can hold a password: it is not repeated.
        ClientError::Settings(format!("the server address {why}; it looks like {DEFAULT_URL}"))
    };
    let trimmed = text.trim().trim_end_matches('/');
    let base = trimmed.strip_suffix("/v1").filter(|rest| rest.ends_with("/api")).unwrap_or(trimmed);
    let base = base.strip_suffix("/api").unwrap_or(base).trim_end_matches('/');
    let url: Url = base.parse().map_err(|_| refuse("is not a URL"))?;
    match url.scheme() {
        "http" => {}
        "https" => return Err(refuse("is https, which needs a proxy in front of this client")),
        _ => return Err(refuse("is not an http URL")),
    }
    if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("must have a host, and no user or password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("must not have a query or fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn resolve(flags: Connection, env: &[(&str, &str)], profiles: &str) -> Result<(String, Option<String>), String> {
        let env: BTreeMap<String, String> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        flags
            .resolve(|name| env.get(name).cloned(), || Profiles::parse(profiles))
            .map(|target| (target.url.to_string(), target.key.map(|key| key.expose().to_owned())))
            .map_err(|error| error.to_string())
    }

    const PROFILES: &str =
        "current = 'a'\n[profiles.a]\nurl = 'http://a:1'\nkey = 'ka'\n[profiles.b]\nurl = 'http://b:2'\n";

    #[test]
    fn the_nearest_source_wins() {
        let env = |n: usize| &[("SANDBOX_API_KEY", "k3"), ("STATESET_API_KEY", "k2"), ("FORKPOINT_KEY", "k1")][..n];
        let key = |flags: Connection, n: usize| resolve(flags, env(n), PROFILES).unwrap().1.unwrap();
        assert_eq!(key(Connection::default(), 0), "ka");
        assert_eq!(key(Connection::default(), 1), "k3");
        assert_eq!(key(Connection::default(), 2), "k2");
        assert_eq!(key(Connection::default(), 3), "k1");
        assert_eq!(key(Connection { key: Some("kf".to_owned().into()), ..Connection::default() }, 3), "kf");
        assert_eq!(key(Connection { profile: Some("a".into()), ..Connection::default() }, 3), "ka");
        assert_eq!(
            resolve(Connection::default(), &[("FORKPOINT_PROFILE", "b")], PROFILES).unwrap(),
            ("http://b:2/".into(), None)
        );
        let urls = [("STATESET_API_URL", "http://s:9/api/v1"), ("FORKPOINT_URL", "http://f:8")];
        let url = |flags, env| resolve(flags, env, PROFILES).unwrap().0;
        assert_eq!(url(Connection::default(), &urls[..0]), "http://a:1/");
        assert_eq!(url(Connection::default(), &urls[..1]), "http://s:9/");
        assert_eq!(url(Connection::default(), &urls), "http://f:8/");
        assert_eq!(url(Connection { url: Some("http://x".into()), ..Connection::default() }, &urls), "http://x/");
        assert_eq!(
            resolve(Connection::default(), &[("FORKPOINT_URL", " ")], "").unwrap(),
            (format!("{DEFAULT_URL}/"), None)
        );
    }

    #[test]
    fn a_profile_file_that_is_not_needed_cannot_be_in_the_way() {
        let flags = Connection { url: Some("http://x".into()), key: Some("k".to_owned().into()), profile: None };
        assert!(resolve(flags, &[], "not toml [").is_ok());
        assert!(resolve(Connection::default(), &[], "not toml [").is_err());
        let unknown = Connection { profile: Some("zzz".into()), ..Connection::default() };
        assert!(resolve(unknown, &[], PROFILES).unwrap_err().contains("no profile \"zzz\""));
    }

    #[test]
    fn addresses_of_other_clients_are_understood() {
        for text in [
            "http://h:1",
            "http://h:1/",
            "http://h:1/api",
            "http://h:1/api/",
            "http://h:1/api/v1",
            "http://h:1/api/v1/",
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), "http://h:1/", "{text}");
        }
        assert_eq!(parse_url("http://h/fp/api/v1").unwrap().as_str(), "http://h/fp");
        for text in ["", "h:1", "ftp://h", "https://h", "http://u:secret@h", "http://h?x=1", "http://h#x"] {
            let error = parse_url(text).unwrap_err().to_string();
            assert!(error.contains("server address") && !error.contains("secret"), "{text}: {error}");
        }
    }
}
