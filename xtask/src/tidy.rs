//! House rules that no compiler checks.

use anyhow::{Context, bail};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A broken rule and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Words that no committed text has, written in two halves so that this file does not have them either:
/// hosts of package registries (mirrors come from the host's own settings), paths of somebody's machine.
const FORBIDDEN: [(&str, &str); 9] = [
    ("deb.debian", ".org"),
    ("security.debian", ".org"),
    ("archive.ubuntu", ".com"),
    ("registry.npmjs", ".org"),
    ("files.pythonhosted", ".org"),
    ("pypi", ".org"),
    ("static.crates", ".io"),
    ("proxy.golang", ".org"),
    ("/work", "/main"),
];

/// Words that mark unfinished work.
const UNFINISHED: [(&str, &str); 5] =
    [("TO", "DO"), ("FIX", "ME"), ("todo", "!("), ("unimplemented", "!("), ("#[igno", "re")];

/// Everything in the tree that breaks a rule.
pub(crate) fn problems(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let mut found = Vec::new();
    for file in committed(root)? {
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        look(&file, &text, &mut found);
    }
    Ok(found)
}

fn look(file: &Path, text: &str, found: &mut Vec<Problem>) {
    let mut tell = |line, what: String| found.push(Problem { file: file.to_owned(), line, what });
    let is_rust = file.extension().is_some_and(|end| end == "rs");
    if is_rust && !text.trim_start().starts_with("//!") {
        tell(1, "begins with a sentence about the file (//!)".into());
    }
    if file.file_name().is_some_and(|name| name == "mod.rs")
        && !file.components().any(|part| part.as_os_str() == "tests")
    {
        tell(1, "is named after its module and beside its folder, not mod.rs".into());
    }
    let is_lock = file.extension().is_some_and(|end| end == "lock");
    for (index, line) in text.lines().enumerate() {
        for (left, right) in FORBIDDEN.iter().filter(|_| !is_lock) {
            if line.contains(&format!("{left}{right}")) {
                tell(index + 1, format!("names {left}{right}"));
            }
        }
        for (left, right) in UNFINISHED.iter().filter(|_| is_rust) {
            if line.contains(&format!("{left}{right}")) {
                tell(index + 1, format!("has an open {left}{right}"));
            }
        }
        if is_rust && line.contains("allow(unsafe_code)") && !text.contains("SAFETY:") {
            tell(index + 1, "allows unsafe code without a SAFETY comment".into());
        }
    }
}

/// Files that git tracks or would.
fn committed(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("start git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout).context("file names")?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_rules_are_named_with_their_line() {
        let text = format!("fn f() {{}}\n// {}{} later\nlet url = \"http://{}{}/\";\n", "TO", "DO", "pypi", ".org");
        let mut found = Vec::new();
        look(Path::new("crates/x/src/lib.rs"), &text, &mut found);
        let lines: Vec<usize> = found.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 3], "{found:?}");
    }

    #[test]
    fn a_tidy_file_has_no_problem() {
        let mut found = Vec::new();
        look(Path::new("crates/x/src/lib.rs"), "//! Does x.\n\npub fn x() {}\n", &mut found);
        assert_eq!(found, []);
    }
}
