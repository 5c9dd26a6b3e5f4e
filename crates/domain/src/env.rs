//! Environment variables of a sandbox: what is allowed, and how two sets differ.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The most variables a sandbox may have.
pub const MAX_VARIABLES: usize = 1024;
/// The most bytes that all names and values may have together (the kernel's own limit for one exec is 2 MiB).
pub const MAX_TOTAL_BYTES: usize = 256 * 1024;

/// Environment variables by name. Values may be secrets, so `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Checks names (not empty, no `=`, no NUL), values (no NUL) and the total size, for request field `field`.
    pub fn parse(field: &str, variables: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if variables.len() > MAX_VARIABLES {
            return Err(Invalid::new(field, format!("has more than {MAX_VARIABLES} variables")));
        }
        let mut total = 0;
        for (name, value) in &variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(Invalid::new(field, "has a variable whose name is empty or contains '=' or NUL"));
            }
            if value.contains('\0') {
                return Err(Invalid::new(format!("{field}.{name}"), "must not contain a NUL byte"));
            }
            total += name.len() + value.len() + 2;
        }
        if total > MAX_TOTAL_BYTES {
            return Err(Invalid::new(field, format!("is larger than {MAX_TOTAL_BYTES} bytes in total")));
        }
        Ok(Self(variables))
    }

    /// These variables with those of `over` laid on top.
    #[must_use]
    pub fn overlaid(mut self, over: &Environment) -> Self {
        self.0.extend(over.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    /// The variables in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is no variable.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The variables as a plain map.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// One variable whose value changed.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct ChangedValue {
    /// The value in the first set.
    pub old: String,
    /// The value in the second set.
    pub new: String,
}

impl fmt::Debug for ChangedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangedValue(hidden)")
    }
}

/// How the second of two environments differs from the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvironmentDiff {
    /// Only in the second.
    pub added: Environment,
    /// Only in the first.
    pub removed: Environment,
    /// In both with different values.
    pub modified: BTreeMap<String, ChangedValue>,
}

/// Computes how `second` differs from `first`.
pub fn diff(first: &Environment, second: &Environment) -> EnvironmentDiff {
    let mut result = EnvironmentDiff::default();
    for (name, old) in &first.0 {
        match second.0.get(name) {
            None => drop(result.removed.0.insert(name.clone(), old.clone())),
            Some(new) if new != old => {
                result.modified.insert(name.clone(), ChangedValue { old: old.clone(), new: new.clone() });
            }
            Some(_) => {}
        }
    }
    for (name, new) in &second.0 {
        if !first.0.contains_key(name) {
            result.added.0.insert(name.clone(), new.clone());
        }
    }
    result
}

/// Parts of names whose variables hold secrets, as far as names tell.
const SECRET_PARTS: [&str; 10] =
    ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "PWD", "CREDENTIAL", "APIKEY", "KEY", "AUTH"];

/// Whether a variable's name says that its value is secret: one of its parts between underscores (in any case, with
/// or without a plural `S`) is `KEY`, `TOKEN`, `SECRET`, `PASSWORD` or the like. `PWD` and `OLDPWD` alone are the
/// shell's directories.
pub fn is_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    if matches!(upper.as_str(), "PWD" | "OLDPWD") {
        return false;
    }
    upper.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| {
        let one = part.strip_suffix('S').unwrap_or(part);
        SECRET_PARTS.iter().any(|secret| part == *secret || one == *secret)
            || ["SECRET", "TOKEN", "PASSWORD", "APIKEY"].iter().any(|secret| part.contains(secret))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_of_secrets() {
        for secret in [
            "API_KEY",
            "api-key",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "DB_PASSWORD",
            "MYTOKEN",
            "AUTH",
            "SSH_KEYS",
            "OPENAI_APIKEY",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["NODE_ENV", "PWD", "PATH", "KEYBOARD", "MONKEY", "A", "AUTHOR", "DEBUG"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Environment {
        let map = pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Environment::parse("env", map).unwrap()
    }

    #[test]
    fn differences_are_sorted_into_three_kinds() {
        let found = diff(&env(&[("A", "1"), ("B", "2"), ("C", "3")]), &env(&[("B", "2"), ("C", "4"), ("D", "5")]));
        assert_eq!(found.added, env(&[("D", "5")]));
        assert_eq!(found.removed, env(&[("A", "1")]));
        assert_eq!(found.modified.keys().collect::<Vec<_>>(), ["C"]);
    }

    #[test]
    fn values_never_show_in_debug() {
        let shown = format!("{:?}", diff(&env(&[("KEY", "s3cret")]), &env(&[("KEY", "s3cret2")])));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn names_and_values_that_exec_cannot_carry_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
            let map = BTreeMap::from([(name.to_string(), value.to_string())]);
            assert!(Environment::parse("env", map).is_err(), "{name:?}={value:?}");
        }
        let big = BTreeMap::from([("A".to_string(), "x".repeat(MAX_TOTAL_BYTES))]);
        assert!(Environment::parse("env", big).is_err());
    }
}
