//! Absolute paths inside a sandbox.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest path accepted, in bytes (Linux's PATH_MAX without the final NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// An absolute, normalised path inside a sandbox: starts with `/`, has no `.`, `..`, empty or NUL part.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxPath(String);

impl SandboxPath {
    /// Parses `text` for the request field `field`: repeated and trailing slashes fold, anything
    /// relative or with a `..` part is refused.
    pub fn parse(field: &str, text: &str) -> Result<Self, Invalid> {
        let refuse = |problem: &str| Err(Invalid::new(field, problem));
        if text.is_empty() {
            return refuse("must not be empty; give an absolute path like /workspace/app.py");
        }
        if !text.starts_with('/') {
            return refuse("must be absolute; it must begin with /");
        }
        if text.len() > MAX_PATH_BYTES {
            return refuse("is longer than 4095 bytes");
        }
        if text.contains('\0') {
            return refuse("must not contain a NUL byte");
        }
        let mut normal = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return refuse("must not contain '..'"),
                part if part.len() > 255 => return refuse("has a part of more than 255 bytes"),
                part => {
                    normal.push('/');
                    normal.push_str(part);
                }
            }
        }
        if normal.is_empty() {
            normal.push('/');
        }
        Ok(Self(normal))
    }

    /// The path as text, always beginning with `/`, never ending with it but for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SandboxPath {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse("path", &text)
    }
}

impl From<SandboxPath> for String {
    fn from(path: SandboxPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        for (given, expected) in
            [("/", "/"), ("//a//b/", "/a/b"), ("/a/./b", "/a/b"), ("/ü/x y", "/ü/x y"), ("/..a/b..", "/..a/b..")]
        {
            assert_eq!(SandboxPath::parse("path", given).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn paths_that_could_leave_are_refused() {
        for given in ["", "a", "./a", "../a", "/a/../b", "/..", "/a\0b"] {
            assert_eq!(SandboxPath::parse("working_dir", given).unwrap_err().field, "working_dir", "{given:?}");
        }
        assert!(SandboxPath::parse("path", &format!("/{}", "x".repeat(256))).is_err());
    }
}
