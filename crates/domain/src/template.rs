//! Names of templates, the immutable root filesystems that sandboxes start from.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The template that is used when none is asked for.
pub const DEFAULT_TEMPLATE: &str = "default";

/// A template's name: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

impl TemplateName {
    /// Parses a name; `base` is another name of `default`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let good_start = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let good_rest = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
        if !good_start || !good_rest || text.len() > 64 {
            return Err(Invalid::new(
                "template",
                "must be 1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit",
            ));
        }
        Ok(Self(if text == "base" { DEFAULT_TEMPLATE.to_owned() } else { text.to_owned() }))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TemplateName {
    fn default() -> Self {
        Self(DEFAULT_TEMPLATE.to_owned())
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TemplateName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl TryFrom<String> for TemplateName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> Self {
        name.0
    }
}

/// One version of a template, exactly: what layers were made upon and can only be read with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TemplateRef {
    /// The template's name.
    pub name: TemplateName,
    /// Digest of its recipe or content, lower-case hex.
    pub digest: String,
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.digest)
    }
}
