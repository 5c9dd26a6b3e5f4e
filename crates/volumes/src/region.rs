//! Which part of a tree an operation may see or touch, as a question and not as a list.

/// A set of absolute sandbox paths (`/workspace/a`, the root is `/`), any bytes in names.
///
/// The three answers must agree: walks prune by the last two, so a wrong `false` from
/// [`may_contain_below`](Region::may_contain_below) hides files.
pub trait Region {
    /// Whether this very path belongs to the region.
    fn contains(&self, path: &[u8]) -> bool;

    /// Whether any path strictly below the directory may belong to it. `true` is always safe.
    fn may_contain_below(&self, dir: &[u8]) -> bool;

    /// Whether every path strictly below the directory belongs to it. `false` is always safe;
    /// `true` lets whole directories be replaced at once.
    fn contains_all_below(&self, dir: &[u8]) -> bool {
        let _ = dir;
        false
    }
}

/// The region with every path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everything;

impl Region for Everything {
    fn contains(&self, _path: &[u8]) -> bool {
        true
    }

    fn may_contain_below(&self, _dir: &[u8]) -> bool {
        true
    }

    fn contains_all_below(&self, _dir: &[u8]) -> bool {
        true
    }
}

/// All paths that the inner region does not contain.
#[derive(Debug, Clone, Copy)]
pub struct Outside<R>(pub R);

impl<R: Region> Region for Outside<R> {
    fn contains(&self, path: &[u8]) -> bool {
        !self.0.contains(path)
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        !self.0.contains_all_below(dir)
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        !self.0.may_contain_below(dir)
    }
}

/// The given paths and everything below them.
#[derive(Debug, Clone, Default)]
pub struct Under(pub Vec<Vec<u8>>);

impl Region for Under {
    fn contains(&self, path: &[u8]) -> bool {
        self.0.iter().any(|top| is_at_or_below(path, top))
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        self.0.iter().any(|top| is_at_or_below(dir, top) || is_at_or_below(top, dir))
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        self.contains(dir)
    }
}

impl<R: Region + ?Sized> Region for &R {
    fn contains(&self, path: &[u8]) -> bool {
        (**self).contains(path)
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        (**self).may_contain_below(dir)
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        (**self).contains_all_below(dir)
    }
}

impl<R: Region + ?Sized> Region for Box<R> {
    fn contains(&self, path: &[u8]) -> bool {
        (**self).contains(path)
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        (**self).may_contain_below(dir)
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        (**self).contains_all_below(dir)
    }
}

fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    let top = if top == b"/" { b"" } else { top };
    match path.strip_prefix(top) {
        Some(rest) => rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_follows_component_borders() {
        let region = Under(vec![b"/work/a".to_vec()]);
        for (path, contains, below) in [
            (&b"/"[..], false, true),
            (b"/work", false, true),
            (b"/work/a", true, true),
            (b"/work/a/b", true, true),
            (b"/work/ab", false, false),
            (b"/other", false, false),
        ] {
            assert_eq!(region.contains(path), contains, "{path:?}");
            assert_eq!(region.may_contain_below(path), below, "{path:?}");
            assert_eq!(Outside(&region).contains(path), !contains, "{path:?}");
        }
        assert!(Under(vec![b"/".to_vec()]).contains(b"/x/y"));
        assert!(!Outside(&region).may_contain_below(b"/work/a"));
        assert!(Outside(&region).may_contain_below(b"/work"));
        assert!(Outside(&region).contains_all_below(b"/other"));
    }
}
