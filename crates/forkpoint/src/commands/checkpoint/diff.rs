//! The difference of two checkpoints as lines for people.

use crate::output::{clean, human_bytes};
use serde_json::Value;

/// One line a change: `+`, `-` or `~`, then the path or variable. Values of variables can be secret and are
/// not shown.
pub(crate) fn lines(answer: &Value) -> Vec<String> {
    let diff = answer.get("diff").unwrap_or(answer);
    let mut lines = Vec::new();
    for (sign, field) in [("+", "files_added"), ("-", "files_removed"), ("~", "files_modified")] {
        let paths = diff.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        lines.extend(paths.map(|path| format!("{sign} {}", clean(path))));
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
    lines
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
}
