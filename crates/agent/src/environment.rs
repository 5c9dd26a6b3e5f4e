//! What a command's environment and working directory are when the request leaves them open.

use std::ffi::CString;

use forkpoint_protocol::ErrorKind;

use crate::failure::{Failure, shown};
use crate::users::Account;

/// `PATH` of the default user where the request has none, with the places where `pip` and `npm`
/// install for that user.
const DEFAULT_PATH: &str = "/home/sandbox/.local/bin:/home/sandbox/.npm-global/bin:\
     /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `PATH` for all others: nothing that the default user can write.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `TERM` of commands on a terminal.
const DEFAULT_TERM: &str = "xterm-256color";
/// Where commands start, if it is a directory.
const DEFAULT_DIRECTORY: &[u8] = b"/workspace";

/// Complete environment as `NAME=value`, and the value of `PATH` in it.
pub(crate) struct Environment {
    pub(crate) variables: Vec<CString>,
    pub(crate) path: Vec<u8>,
}

impl Environment {
    /// The given variables (of the same name the last one wins) and defaults for what is absent.
    pub(crate) fn new(
        given: Vec<(Vec<u8>, Vec<u8>)>,
        account: &Account,
        is_default_user: bool,
        terminal: bool,
    ) -> Result<Environment, Failure> {
        let mut all: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = std::collections::BTreeMap::new();
        for (name, value) in given {
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
                let message = format!(
                    "environment variable {}: a name is not empty, without `=`, and neither part has NUL",
                    shown(&name)
                );
                return Err(Failure::invalid(message));
            }
            all.insert(name, value);
        }
        let path = if is_default_user { DEFAULT_PATH } else { SYSTEM_PATH };
        let mut default = |name: &str, value: &[u8]| {
            all.entry(name.into()).or_insert_with(|| value.to_vec());
        };
        default("HOME", &account.home);
        default("USER", account.name.as_bytes());
        default("LOGNAME", account.name.as_bytes());
        default("SHELL", &account.shell);
        default("PATH", path.as_bytes());
        if terminal {
            default("TERM", DEFAULT_TERM.as_bytes());
        }
        let path = all.get(&b"PATH"[..]).cloned().unwrap_or_default();
        let variables = all.into_iter().map(|(name, value)| c_string([&name[..], b"=", &value].concat()));
        Ok(Environment { variables: variables.collect::<Result<_, _>>()?, path })
    }
}

/// Directories to start in; the first that can be entered is it.
pub(crate) fn directories(asked: Option<Vec<u8>>, account: &Account) -> Result<Vec<CString>, Failure> {
    match asked {
        Some(path) if path.first() != Some(&b'/') => {
            Err(Failure::invalid(format!("working directory {}: it must be an absolute path", shown(&path))))
        }
        Some(path) => Ok(vec![c_string(path)?]),
        None => [DEFAULT_DIRECTORY, &account.home, b"/"].into_iter().map(|path| c_string(path.to_vec())).collect(),
    }
}

/// Bytes as the kernel wants them.
pub(crate) fn c_string(bytes: Vec<u8>) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(|error| Failure::new(ErrorKind::Invalid, format!("{} has a NUL byte", shown(&error.into_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { uid: 7, gid: 7, groups: vec![7], name: "u".into(), home: b"/home/u".into(), shell: b"/bin/sh".into() }
    }

    fn variables(given: &[(&str, &str)]) -> Vec<String> {
        let given = given.iter().map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())).collect();
        let environment = Environment::new(given, &account(), true, false).unwrap();
        environment.variables.iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn absent_variables_get_defaults_and_given_ones_stay() {
        let got = variables(&[("PATH", "/x"), ("HOME", ""), ("A", "1"), ("A", "2")]);
        assert_eq!(got, ["A=2", "HOME=", "LOGNAME=u", "PATH=/x", "SHELL=/bin/sh", "USER=u"]);
        assert!(variables(&[]).iter().any(|v| v.starts_with("PATH=/home/sandbox/.local/bin:")));
    }

    #[test]
    fn names_that_cannot_be_variables_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let given = vec![(name.as_bytes().to_vec(), value.as_bytes().to_vec())];
            assert!(Environment::new(given, &account(), true, false).is_err(), "{name:?}");
        }
    }
}
