//! The difference of two checkpoints as lines for people.

use crate::output::{clean, human_bytes, text};
use serde_json::Value;
use std::collections::HashSet;

/// One line a change: `+`, `-` or `~`, then the path or variable; a file that was moved as `from -> to`, and only so.
/// Values of variables can be secret and are not shown. Behind these, files by line, as far as the server told them.
pub(crate) fn lines(answer: &Value) -> Vec<String> {
    let diff = answer.get("diff").unwrap_or(answer);
    let mut lines = Vec::new();
    let moved: HashSet<&str> = list(diff, "files_renamed")
        .flat_map(|one| ["from", "to"].map(|name| one.get(name).and_then(Value::as_str)))
        .flatten()
        .collect();
    for (sign, field) in [("+", "files_added"), ("-", "files_removed"), ("~", "files_modified")] {
        let paths = list(diff, field).filter_map(Value::as_str);
        lines.extend(paths.filter(|path| !moved.contains(path)).map(|path| format!("{sign} {}", clean(path))));
    }
    for one in list(diff, "files_renamed") {
        lines.push(format!("> {} -> {}", clean(&text(one, "from")), clean(&text(one, "to"))));
    }
    for (what, field) in [("mode", "files_mode_changed"), ("owner", "files_owner_changed")] {
        lines.extend(list(diff, field).map(|one| {
            let [path, old, new] = ["path", "old", "new"].map(|name| clean(&text(one, name)));
            format!("~ {path} ({what} {old} -> {new})")
        }));
    }
    for (sign, field) in [("+", "env_added"), ("-", "env_removed"), ("~", "env_modified")] {
        let names = diff.get(field).and_then(Value::as_object).into_iter().flatten();
        lines.extend(names.map(|(name, _)| format!("{sign} env {}", clean(name))));
    }
    let change = diff.get("size_change_bytes").and_then(Value::as_i64).unwrap_or(0);
    if change != 0 {
        let sign = if change < 0 { '-' } else { '+' };
        lines.push(format!("size {sign}{}", human_bytes(change.unsigned_abs())));
    }
    for one in list(diff, "contents") {
        match one.get("diff").and_then(Value::as_str) {
            // Tabs are text; nothing else that is no printable character reaches the terminal.
            Some(diff) => {
                lines.extend(diff.lines().map(|line| line.split('\t').map(clean).collect::<Vec<_>>().join("\t")))
            }
            None => lines.push(format!("{} ({})", clean(&text(one, "path")), clean(&text(one, "omitted")))),
        }
    }
    if let Some(count) = diff.get("contents_left_out").and_then(Value::as_u64).filter(|count| *count > 0) {
        lines.push(format!("{count} more files differ and are not shown by line"));
    }
    lines
}

fn list<'a>(diff: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    diff.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_listed_and_values_of_variables_are_not() {
        let answer = json!({"diff": {
            "files_added": ["/workspace/a\nb"], "files_removed": ["/workspace/c"], "files_modified": ["/x"],
            "env_added": {"TOKEN": "secret"}, "env_removed": {}, "env_modified": {"B": {"from": "1", "to": "2"}},
            "size_change_bytes": 36_700_160,
        }});
        assert_eq!(
            lines(&answer),
            ["+ /workspace/a\\nb", "- /workspace/c", "~ /x", "+ env TOKEN", "~ env B", "size +35.0 MB"]
        );
        assert!(lines(&json!({"diff": {"files_added": [], "size_change_bytes": 0}})).is_empty());
    }

    #[test]
    fn what_was_moved_is_told_once_and_files_by_line_come_last() {
        let answer = json!({"diff": {
            "files_added": ["/b", "/new"], "files_removed": ["/a"], "files_modified": [],
            "files_renamed": [{"from": "/a", "to": "/b", "size_bytes": 5}],
            "files_mode_changed": [{"path": "/x", "old": "0644", "new": "0755"}],
            "files_owner_changed": [{"path": "/x", "old": "0:0", "new": "1000:1000"}],
            "contents": [
                {"path": "/new", "diff": "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+a\tb\u{1b}[31m\n"},
                {"path": "/bin", "diff": null, "omitted": "binary"},
            ],
            "contents_left_out": 2,
        }});
        assert_eq!(
            lines(&answer),
            [
                "+ /new",
                "> /a -> /b",
                "~ /x (mode 0644 -> 0755)",
                "~ /x (owner 0:0 -> 1000:1000)",
                "--- /dev/null",
                "+++ b/new",
                "@@ -0,0 +1 @@",
                &format!("+a\tb{}", clean("\u{1b}[31m")),
                "/bin (binary)",
                "2 more files differ and are not shown by line",
            ]
        );
    }
}
