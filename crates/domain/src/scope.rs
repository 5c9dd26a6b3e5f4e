//! Which paths a checkpoint captured, and so which paths a restore may touch.

use crate::{Invalid, path::SandboxPath};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The most entries that `include_paths` and `exclude_paths` may each have.
pub const MAX_PATTERNS: usize = 256;

/// Include paths minus exclude paths, as they were asked for. Serialises to what `parse` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeSpec {
    /// Empty: everything.
    #[serde(default)]
    pub include_paths: Vec<String>,
    /// Taken away from what is included.
    #[serde(default)]
    pub exclude_paths: Vec<String>,
    /// Those of `include_paths` that did not exist when the checkpoint was captured. Nothing of them was
    /// captured, so a restore leaves them alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent_paths: Vec<String>,
}

impl ScopeSpec {
    /// The include paths that name one path, no pattern: the ones that can be absent.
    pub fn plain_includes(&self) -> impl Iterator<Item = &str> {
        self.include_paths.iter().map(String::as_str).filter(|text| !text.contains(WILDCARDS))
    }
}

const WILDCARDS: [char; 4] = ['*', '?', '[', '{'];

/// A compiled scope. A pattern without wildcard means that path and all below it; `*` and `?` stay
/// inside one path part, `**` crosses them; what lies below a match belongs to it.
#[derive(Debug, Clone)]
pub struct Scope {
    spec: ScopeSpec,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// The part before the first wildcard, cut at a `/`: no match lies outside of it.
    stem: Vec<u8>,
    /// `None` for a plain path, which is its own stem.
    glob: Option<GlobMatcher>,
}

impl Scope {
    /// Everything, nothing excluded.
    pub fn everything() -> Self {
        Self { spec: ScopeSpec::default(), include: Vec::new(), exclude: Vec::new() }
    }

    /// Compiles and checks a scope; patterns must be absolute and without `..`.
    pub fn parse(spec: ScopeSpec) -> Result<Self, Invalid> {
        let mut include = compile("include_paths", &spec.include_paths)?;
        let absent = compile("absent_paths", &spec.absent_paths)?;
        include.retain(|pattern| pattern.glob.is_some() || !absent.iter().any(|one| one.stem == pattern.stem));
        let exclude = compile("exclude_paths", &spec.exclude_paths)?;
        Ok(Self { spec, include, exclude })
    }

    /// What this scope was compiled from.
    pub fn spec(&self) -> &ScopeSpec {
        &self.spec
    }

    /// Whether everything is in scope.
    pub fn is_everything(&self) -> bool {
        !self.has_includes() && self.exclude.is_empty()
    }

    /// Whether include paths limit the scope; then the captured set is the merged tree below them,
    /// else it is what differs from the template.
    pub fn has_includes(&self) -> bool {
        !self.spec.include_paths.is_empty()
    }

    /// Whether the file or directory at this absolute path is in scope.
    pub fn contains(&self, path: &[u8]) -> bool {
        (!self.has_includes() || self.include.iter().any(|pattern| pattern.covers(path)))
            && !self.exclude.iter().any(|pattern| pattern.covers(path))
    }

    /// Whether something below this directory may be in scope (never wrongly `false`).
    pub fn may_contain_below(&self, directory: &[u8]) -> bool {
        (!self.has_includes() || self.include.iter().any(|pattern| pattern.may_match_below(directory)))
            && !self.exclude.iter().any(|pattern| pattern.covers(directory))
    }

    /// Whether something at or below this directory may be out of scope (never wrongly `false`).
    pub fn may_lack_below(&self, directory: &[u8]) -> bool {
        (self.has_includes() && !self.include.iter().any(|pattern| pattern.covers(directory)))
            || self.exclude.iter().any(|pattern| pattern.may_match_below(directory))
    }
}

impl Pattern {
    /// Whether the path itself or one of its ancestors matches.
    fn covers(&self, path: &[u8]) -> bool {
        let Some(glob) = &self.glob else { return is_at_or_below(path, &self.stem) };
        if !is_at_or_below(path, &self.stem) {
            return false;
        }
        let mut end = path.len();
        loop {
            if glob.is_match(Path::new(OsStr::from_bytes(&path[..end]))) {
                return true;
            }
            match path[..end].iter().rposition(|byte| *byte == b'/') {
                Some(slash) if slash > 0 => end = slash,
                _ => return false,
            }
        }
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        is_at_or_below(&self.stem, directory)
            || (self.glob.is_some() && is_at_or_below(directory, &self.stem))
            || self.covers(directory)
    }
}

/// Whether `path` is `ancestor` or lies below it, by whole path parts.
fn is_at_or_below(path: &[u8], ancestor: &[u8]) -> bool {
    let ancestor = if ancestor == b"/" { b"" } else { ancestor };
    path.starts_with(ancestor) && matches!(path.get(ancestor.len()), None | Some(b'/'))
}

fn compile(field: &str, patterns: &[String]) -> Result<Vec<Pattern>, Invalid> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Invalid::new(field, format!("has more than {MAX_PATTERNS} entries")));
    }
    patterns
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let field = format!("{field}[{index}]");
            let path = SandboxPath::parse(&field, text)?;
            let text = path.as_str();
            let Some(wild) = text.find(WILDCARDS) else {
                return Ok(Pattern { stem: text.as_bytes().to_vec(), glob: None });
            };
            let glob = GlobBuilder::new(text)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| Invalid::new(&field, format!("is not a valid pattern: {}", error.kind())))?
                .compile_matcher();
            let stem = match text[..wild].rfind('/') {
                Some(0) | None => "/",
                Some(slash) => &text[..slash],
            };
            Ok(Pattern { stem: stem.as_bytes().to_vec(), glob: Some(glob) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(include: &[&str], exclude: &[&str]) -> Scope {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        Scope::parse(ScopeSpec { include_paths: owned(include), exclude_paths: owned(exclude), ..ScopeSpec::default() })
            .unwrap()
    }

    #[test]
    fn what_was_absent_at_capture_is_out_of_scope() {
        let spec = ScopeSpec {
            include_paths: vec!["/w/src".into(), "/w/gone/".into()],
            absent_paths: vec!["/w/gone".into()],
            ..ScopeSpec::default()
        };
        let scope = Scope::parse(spec.clone()).unwrap();
        assert!(scope.contains(b"/w/src/a") && !scope.contains(b"/w/gone/new"));
        let nothing = ScopeSpec { absent_paths: vec!["/w/src".into(), "/w/gone".into()], ..spec };
        let scope = Scope::parse(nothing).unwrap();
        assert!(scope.has_includes() && !scope.contains(b"/w/src") && !scope.may_contain_below(b"/"));
    }

    #[test]
    fn what_is_in_scope() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&[], &[], "/anything", true),
            (&["/workspace/src"], &[], "/workspace/src", true),
            (&["/workspace/src"], &[], "/workspace/src/a/b", true),
            (&["/workspace/src"], &[], "/workspace/src2", false),
            (&["/workspace/src/"], &[], "/workspace/src/a", true),
            (&["/"], &[], "/etc/passwd", true),
            (&[], &["/workspace/*.log"], "/workspace/a.log", false),
            (&[], &["/workspace/*.log"], "/workspace/deep/a.log", true),
            (&[], &["/workspace/**/*.log"], "/workspace/very/deep/a.log", false),
            (&[], &["/workspace/*/cache"], "/workspace/a/cache/x", false),
            (&["/workspace"], &["/workspace/node_modules"], "/workspace/node_modules/x", false),
            (&["/workspace"], &["/workspace/node_modules"], "/workspace/index.js", true),
            (&["/a/{b,c}"], &[], "/a/c/d", true),
        ];
        for (include, exclude, path, expected) in table {
            assert_eq!(
                scope(include, exclude).contains(path.as_bytes()),
                *expected,
                "{include:?} - {exclude:?}: {path}"
            );
        }
    }

    #[test]
    fn walks_are_pruned_but_never_too_early() {
        let narrow = scope(&["/workspace/*/src"], &["/workspace/b"]);
        for (directory, below) in
            [("/", true), ("/workspace", true), ("/workspace/a", true), ("/etc", false), ("/workspace/b", false)]
        {
            assert_eq!(narrow.may_contain_below(directory.as_bytes()), below, "{directory}");
        }
        let excluding = scope(&[], &["/a/b/*.tmp"]);
        for (directory, lacks) in [("/", true), ("/a", true), ("/a/b", true), ("/c", false)] {
            assert_eq!(excluding.may_lack_below(directory.as_bytes()), lacks, "{directory}");
        }
    }

    #[test]
    fn names_of_any_bytes_are_matched() {
        assert!(!scope(&[], &["/w/*.log"]).contains(b"/w/\xff\n.log"));
    }

    #[test]
    fn bad_patterns_name_their_place() {
        for bad in ["relative", "/a/../b", "", "/a/[b"] {
            let spec = ScopeSpec { include_paths: vec!["/fine".into(), bad.into()], ..ScopeSpec::default() };
            assert_eq!(Scope::parse(spec).unwrap_err().field, "include_paths[1]", "{bad}");
        }
    }
}
