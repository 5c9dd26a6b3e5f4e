//! Decides names: where a copy goes, and whether a name that a sandbox gives may be used on this machine.

use crate::client::{Entry, EntryKind};

/// The longest path that is followed, as in the kernel.
const MAX_PATH_BYTES: usize = 4096;

/// A remote path as given: without what its end means, and what that is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given<'a> {
    /// Without `/` or `/.` at its end; `/` for the root.
    pub(crate) path: &'a str,
    /// It ended with `/`: it must be a directory.
    pub(crate) is_directory: bool,
    /// It ended with `/.`: what is in it is meant, not it.
    pub(crate) contents: bool,
}

impl<'a> Given<'a> {
    /// Reads an absolute path.
    pub(crate) fn parse(text: &'a str) -> Self {
        let inner = text.strip_suffix("/.");
        let contents = inner.is_some();
        let text = inner.unwrap_or(text);
        let path = text.trim_end_matches('/');
        let is_directory = contents || path.len() != text.len() || path.is_empty();
        Self { path: if path.is_empty() { "/" } else { path }, is_directory, contents }
    }

    /// The last part of the path; none for the root and for `..`.
    pub(crate) fn name(&self) -> Option<&'a str> {
        self.path.rsplit('/').next().filter(|name| !name.is_empty() && *name != "." && *name != "..")
    }
}

/// Joins a directory of a sandbox with something below it.
pub(crate) fn join(directory: &str, below: &str) -> String {
    match (directory, below) {
        (_, "") => directory.to_owned(),
        ("/", _) => format!("/{below}"),
        _ => format!("{directory}/{below}"),
    }
}

/// The path of a listed entry below the listed directory, or what is wrong with it. The list comes from the
/// sandbox, and the name decides where this machine writes: nothing but plain names passes.
pub(crate) fn below(root: &str, entry: &Entry) -> Result<String, String> {
    let path = entry.path.as_str();
    let rest = match path.strip_prefix('/') {
        None => Some(path),
        Some(_) if root == "/" => path.strip_prefix('/'),
        Some(_) => path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')),
    };
    let rest = rest.ok_or_else(|| format!("{path:?} is not below {root:?}"))?;
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0') && part.len() <= 255;
    if rest.len() > MAX_PATH_BYTES || !rest.split('/').all(plain) {
        return Err(format!("{path:?} is not a plain path"));
    }
    Ok(rest.to_owned())
}

/// Whether a symbolic link of a copied tree stays in it: relative, and never above the tree's root.
pub(crate) fn stays_inside(link: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = link.split('/').count() - 1;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// Whether the list that a server gave for a path is that of a directory: some give a file its own entry.
pub(crate) fn is_directory_list(path: &str, entries: &[Entry]) -> bool {
    !matches!(entries, [only] if only.path == path && only.kind != EntryKind::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::File, size: 0, mode: None, target: None }
    }

    #[test]
    fn the_end_of_a_path_means_something() {
        for (text, path, is_directory, contents, name) in [
            ("/a/b", "/a/b", false, false, Some("b")),
            ("/a/b/", "/a/b", true, false, Some("b")),
            ("/a/b/.", "/a/b", true, true, Some("b")),
            ("/", "/", true, false, None),
            ("/.", "/", true, true, None),
            ("/a/..", "/a/..", false, false, None),
        ] {
            let given = Given::parse(text);
            assert_eq!(
                (given.path, given.is_directory, given.contents, given.name()),
                (path, is_directory, contents, name)
            );
        }
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b/c"), "/a/b/c");
        assert_eq!(join("/a", ""), "/a");
    }

    #[test]
    fn only_plain_names_below_the_root_pass() {
        for (root, path, rest) in
            [("/w", "/w/a/b", "a/b"), ("/", "/etc/x", "etc/x"), ("/w", "a/b", "a/b"), ("/w", "/w/..a", "..a")]
        {
            assert_eq!(below(root, &entry(path)).as_deref(), Ok(rest));
        }
        for path in [
            "/etc/passwd",
            "/w",
            "/w/",
            "/wide",
            "/w/../etc/x",
            "/w/a/../../x",
            "../x",
            "/w//x",
            "/w/a\0",
            "",
            "/w/./x",
        ] {
            assert!(below("/w", &entry(path)).is_err(), "{path:?}");
        }
        assert!(below("/w", &entry(&format!("/w/{}", "x".repeat(256)))).is_err());
    }

    #[test]
    fn links_may_not_leave_the_tree() {
        for (link, target) in [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../b"), ("a", "./d/../b")] {
            assert!(stays_inside(link, target), "{link} -> {target}");
        }
        for (link, target) in [("a", "/etc/passwd"), ("a", "../b"), ("d/a", "../../b"), ("a", "d/../../b"), ("a", "")] {
            assert!(!stays_inside(link, target), "{link} -> {target}");
        }
    }
}
