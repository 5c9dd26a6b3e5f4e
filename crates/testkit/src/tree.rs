//! A file tree in memory, as layers are made of.

use bytes::Bytes;
use forkpoint_domain::{
    diff::TreeDiff,
    restore::{Graft, Region},
    scope::Scope,
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Everything that a sandbox sees, by absolute path; the root itself is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Node>);

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// `None` for a directory.
    pub(crate) content: Option<Bytes>,
    pub(crate) mode: u32,
    pub(crate) modified_at: Timestamp,
}

impl Node {
    pub(crate) fn directory() -> Self {
        Self { content: None, mode: 0o755, modified_at: Timestamp::UNIX_EPOCH }
    }

    pub(crate) fn file(content: impl Into<Bytes>, mode: u32) -> Self {
        Self { content: Some(content.into()), mode, modified_at: Timestamp::UNIX_EPOCH }
    }
}

impl Tree {
    /// What the template `default` holds.
    pub(crate) fn template() -> Self {
        let directories = ["/app", "/etc", "/tmp", "/workspace"].map(|path| (path.to_owned(), Node::directory()));
        let mut tree = Self(directories.into());
        tree.0.insert("/etc/passwd".into(), Node::file("root:x:0:0::/root:/bin/bash\n", 0o644));
        tree
    }

    /// Makes a region show what `from` shows there, or only gain what is missing.
    pub(crate) fn graft(&mut self, graft: &Graft, from: &Tree) {
        let inside = |path: &str| match &graft.region {
            Region::Inside(scope) => scope.contains(path.as_bytes()),
            Region::Outside(scope) => !scope.contains(path.as_bytes()),
        };
        if graft.overwrite {
            self.0.retain(|path, _| !inside(path) || from.0.contains_key(path));
        }
        for (path, node) in from.0.iter().filter(|(path, _)| inside(path)) {
            if graft.overwrite || !self.0.contains_key(path) {
                self.0.insert(path.clone(), node.clone());
            }
        }
    }

    /// The captured set: with includes, the tree below them, else what differs from the template.
    pub(crate) fn captured(&self, scope: &Scope) -> BTreeMap<&str, &Bytes> {
        let template = Tree::template();
        self.0
            .iter()
            .filter(|(path, _)| scope.contains(path.as_bytes()))
            .filter(|(path, node)| scope.has_includes() || template.0.get(*path) != Some(node))
            .filter_map(|(path, node)| Some((path.as_str(), node.content.as_ref()?)))
            .collect()
    }
}

/// How the second of two captured sets differs from the first.
pub(crate) fn differences(first: &BTreeMap<&str, &Bytes>, second: &BTreeMap<&str, &Bytes>) -> TreeDiff {
    let bytes = |path: &&&str| path.as_bytes().to_vec();
    TreeDiff {
        added: second.keys().filter(|path| !first.contains_key(**path)).map(|path| bytes(&path)).collect(),
        removed: first.keys().filter(|path| !second.contains_key(**path)).map(|path| bytes(&path)).collect(),
        modified: second
            .iter()
            .filter(|(path, content)| first.get(*path).is_some_and(|old| old != *content))
            .map(|(path, _)| bytes(&path))
            .collect(),
        ..TreeDiff::default()
    }
}
