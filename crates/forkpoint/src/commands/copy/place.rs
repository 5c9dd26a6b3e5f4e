//! One side of a copy: this machine, a sandbox, or a standard stream.

use forkpoint_domain::ids::SandboxId;
use std::{path::PathBuf, str::FromStr};

/// Where something is copied from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path of this machine.
    Host(PathBuf),
    /// An absolute path in a sandbox.
    Sandbox {
        /// Which.
        id: String,
        /// As it was given: a `/` or `/.` at its end means something.
        path: String,
    },
    /// Standard input or output.
    Stream,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        // A local file whose name looks like this can be given as ./sb-…
        if let Some((id, path)) = text.split_once(':')
            && !id.contains('/')
        {
            match id.parse::<SandboxId>() {
                Ok(id) if path.starts_with('/') => {
                    return Ok(Self::Sandbox { id: id.to_string(), path: path.to_owned() });
                }
                Ok(_) => return Err("the path in a sandbox must begin with /".to_owned()),
                Err(_) if id.starts_with("sb-") || path.starts_with('/') => {
                    return Err(
                        "the part before : is not the id of a sandbox (a local path like it begins with ./)".to_owned()
                    );
                }
                Err(_) => {}
            }
        }
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(Self::Host(text.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let uuid = "018f5c2e-7a8b-7c3d-9e4f-a1b2c3d4e5f6";
        let sandbox = |path: &str| Ok(Place::Sandbox { id: format!("sb-{uuid}"), path: path.into() });
        assert_eq!(format!("sb-{uuid}:/w/.").parse(), sandbox("/w/."));
        assert_eq!(format!("{uuid}:/w:x").parse(), sandbox("/w:x"));
        assert_eq!("-".parse(), Ok(Place::Stream));
        for local in ["a", "./sb-1:/x", "/a:b", "a:b", "../x"] {
            assert_eq!(local.parse(), Ok(Place::Host(local.into())), "{local}");
        }
        for bad in ["", "sb-1:/x", "web:/x", &format!("sb-{uuid}:w"), &format!("sb-{uuid}:")] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
