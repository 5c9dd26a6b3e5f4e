//! An API key, kept out of every text that this program writes.

use std::{convert::Infallible, fmt, str::FromStr};
use zeroize::Zeroizing;

/// The text of an API key. Neither its `Debug` form nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key's text; only for the header, the profile file and `profile add`.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The text with every occurrence of the key in it replaced.
    pub(crate) fn redact(&self, text: String) -> String {
        if self.0.is_empty() { text } else { text.replace(self.0.as_str(), "<key>") }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(<key>)")
    }
}

impl From<String> for ApiKey {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }
}

/// Never fails, so that no parser can quote the key in its complaint; the key is checked where it is used.
impl FromStr for ApiKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_nowhere() {
        let key: ApiKey = " sk-sandbox-secret.a.b\n".parse().unwrap();
        assert_eq!(key.expose(), "sk-sandbox-secret.a.b");
        assert!(!format!("{key:?}").contains("secret"));
        assert_eq!(key.redact("bad key sk-sandbox-secret.a.b!".into()), "bad key <key>!");
    }
}
