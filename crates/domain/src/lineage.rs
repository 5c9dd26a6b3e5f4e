//! The tree of sandboxes, checkpoints and forks, and how it is drawn.

use std::collections::{BTreeMap, BTreeSet};

/// One sandbox or checkpoint of a lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageNode {
    /// Its id as text.
    pub id: String,
    /// What it came from, if that still exists or once did.
    pub parent: Option<String>,
    /// One line about it.
    pub label: String,
}

/// Draws nodes as a tree, one line a node, in the order given among siblings. A node whose parent is
/// not among the nodes is a root; a cycle, which sound records never have, is cut where it closes.
pub fn draw(nodes: &[LineageNode]) -> String {
    let known: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&LineageNode>> = BTreeMap::new();
    let mut roots = Vec::new();
    for node in nodes {
        match node.parent.as_deref().filter(|parent| known.contains(parent) && *parent != node.id) {
            Some(parent) => children.entry(parent).or_default().push(node),
            None => roots.push(node),
        }
    }
    let mut text = String::new();
    let mut drawn = BTreeSet::new();
    // Explicit stack: a lineage can be thousands of checkpoints deep.
    let mut stack: Vec<(&LineageNode, String, String)> =
        roots.into_iter().rev().map(|root| (root, String::new(), String::new())).collect();
    while let Some((node, lead, below)) = stack.pop() {
        if !drawn.insert(node.id.as_str()) {
            continue;
        }
        text.push_str(&lead);
        text.push_str(&node.label);
        text.push('\n');
        let kids = children.get(node.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        for (index, kid) in kids.iter().enumerate().rev() {
            let last = index + 1 == kids.len();
            let (turn, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            stack.push((kid, format!("{below}{turn}"), format!("{below}{bar}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, parent: Option<&str>) -> LineageNode {
        LineageNode { id: id.into(), parent: parent.map(Into::into), label: id.into() }
    }

    #[test]
    fn forks_hang_below_their_checkpoint() {
        let drawn = draw(&[
            node("sb-1", None),
            node("cp-1", Some("sb-1")),
            node("sb-2", Some("cp-1")),
            node("cp-3", Some("sb-2")),
            node("sb-3", Some("cp-1")),
            node("cp-2", Some("sb-1")),
            node("sb-9", Some("gone")),
        ]);
        assert_eq!(drawn, "sb-1\n├─ cp-1\n│  ├─ sb-2\n│  │  └─ cp-3\n│  └─ sb-3\n└─ cp-2\nsb-9\n");
    }

    #[test]
    fn a_cycle_does_not_hang() {
        assert_eq!(draw(&[node("a", Some("b")), node("b", Some("a")), node("c", Some("c"))]), "c\n");
    }
}
