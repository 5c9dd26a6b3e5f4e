//! Names of templates, and the aliases under which they are also asked for.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The template that sandboxes start from when none is named.
pub const DEFAULT: &str = "default";

/// Other names for templates: (alias, name).
pub const ALIASES: &[(&str, &str)] = &[("base", DEFAULT)];

/// A valid template name: `[a-z0-9][a-z0-9._-]{0,63}`. It is a safe single path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateName(String);

impl TemplateName {
    /// Parses `text` and replaces an alias by the name that it stands for.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn resolve(text: &str) -> Result<Self> {
        let name: Self = text.parse()?;
        let target = ALIASES.iter().find(|(alias, _)| *alias == name.0);
        Ok(target.map_or(name, |(_, target)| Self((*target).to_owned())))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The other names of this template.
    #[must_use]
    pub fn aliases(&self) -> Vec<&'static str> {
        ALIASES.iter().filter(|(_, name)| *name == self.0).map(|(alias, _)| *alias).collect()
    }
}

impl FromStr for TemplateName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (1..=64).contains(&bytes.len())
            && plain(bytes[0])
            && bytes.iter().all(|&c| plain(c) || matches!(c, b'.' | b'_' | b'-'));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::InvalidName { name: text.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_documented_form_are_accepted_and_others_refused() {
        let longest = "a".repeat(64);
        for good in ["a", "0", "default", "python-3.11_x", longest.as_str()] {
            assert_eq!(good.parse::<TemplateName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(65);
        for bad in ["", ".", "..", ".tmp-1", "-a", "_a", "A", "a/b", "a b", "ä", "a\0", too_long.as_str()] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_alias_resolves_to_its_template() {
        assert_eq!(TemplateName::resolve("base").unwrap().as_str(), "default");
        assert_eq!(TemplateName::resolve("other").unwrap().as_str(), "other");
        assert_eq!(TemplateName::resolve("default").unwrap().aliases(), ["base"]);
    }
}
