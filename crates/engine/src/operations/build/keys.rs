//! Keys of steps: equal ones stand for equal trees.

use super::RecipeFile;
use forkpoint_domain::recipe::Action;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Raised when the way in which steps are done changes what comes out.
const REVISION: u32 = 1;

/// The key of what is there before the first step.
pub(super) fn first(parts: &impl Serialize) -> String {
    let mut hasher = Sha256::new();
    put(&mut hasher, &REVISION.to_le_bytes());
    put(&mut hasher, &json(parts));
    text(hasher)
}

/// The key of a step's outcome, from the key of what it starts from.
pub(super) fn next(before: &str, action: &Action, files: &BTreeMap<String, RecipeFile>) -> String {
    let mut hasher = Sha256::new();
    put(&mut hasher, before.as_bytes());
    put(&mut hasher, &json(action));
    if let Action::Copy { from, .. } = action {
        for (path, file) in below(files, from) {
            put(&mut hasher, path.as_bytes());
            match file {
                RecipeFile::Directory => put(&mut hasher, b"directory"),
                RecipeFile::File { content, mode } => {
                    put(&mut hasher, &mode.to_le_bytes());
                    put(&mut hasher, &Sha256::digest(content));
                }
            }
        }
    }
    text(hasher)
}

/// What lies at or below a path, with its path from there on (empty: the path itself).
pub(super) fn below<'a>(
    files: &'a BTreeMap<String, RecipeFile>,
    from: &'a str,
) -> impl Iterator<Item = (&'a str, &'a RecipeFile)> {
    files.iter().filter_map(move |(path, file)| {
        let rest = match from {
            "." => path.as_str(),
            from => match path.strip_prefix(from)? {
                "" => "",
                rest => rest.strip_prefix('/')?,
            },
        };
        Some((rest, file))
    })
}

/// Length first, so that no two lists of parts are one list of bytes.
fn put(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Keys are strings and numbers finite, so this does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// 32 hex digits, the form of a template's digest.
fn text(hasher: Sha256) -> String {
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn file(content: &str, mode: u32) -> RecipeFile {
        RecipeFile::File { content: content.to_owned().into(), mode }
    }

    fn copy() -> Action {
        Action::Copy { from: "src".into(), path: "/srv".into(), mode: None, owner: "root".into() }
    }

    #[test]
    fn whatever_decides_an_outcome_decides_its_key() {
        let all =
            |list: &[(&str, RecipeFile)]| list.iter().map(|(path, one)| (path.to_string(), one.clone())).collect();
        let base = [("src/a", file("1", 0o644)), ("src/b", file("2", 0o644))];
        let key = |before: &str, list: &[(&str, RecipeFile)]| next(before, &copy(), &all(list));
        let keys = [
            key("k", &base),
            key("j", &base),
            key("k", &[("src/a", file("2", 0o644)), ("src/b", file("2", 0o644))]),
            key("k", &[("src/a", file("1", 0o755)), ("src/b", file("2", 0o644))]),
            key("k", &[("src/a", file("1", 0o644)), ("src/c", file("2", 0o644))]),
            key("k", &base[..1]),
            key("k", &[("src/a", file("1", 0o644)), ("src/b", RecipeFile::Directory)]),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        let mut beside = base.to_vec();
        beside.push(("srcs/x", file("no part of it", 0o644)));
        assert_eq!(key("k", &beside), keys[0]);
        assert_eq!(keys[0].len(), 32);
        assert_ne!(first(&["a", "b"]), first(&["ab"]));
    }

    #[test]
    fn below_gives_a_file_itself_a_directory_or_everything() {
        let files = BTreeMap::from([
            ("a".to_owned(), file("", 0)),
            ("a.txt".to_owned(), file("", 0)),
            ("d/x".to_owned(), file("", 0)),
        ]);
        let paths = |from| below(&files, from).map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths("a"), [""]);
        assert_eq!(paths("d"), ["x"]);
        assert_eq!(paths("."), ["a", "a.txt", "d/x"]);
        assert!(paths("e").is_empty());
    }
}
