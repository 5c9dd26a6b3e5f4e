//! A data directory to import into, with something beside it that must not be touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use forkpoint_templates::{Error, Publication, Template, TemplateStore};

pub(crate) struct Place {
    directory: tempfile::TempDir,
    pub(crate) store: TemplateStore,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("data")).unwrap();
        fs::create_dir(path("canary")).unwrap();
        fs::write(path("canary/file"), "untouched").unwrap();
        let store = TemplateStore::open(&path("data"), &path("cache")).unwrap();
        Self { directory, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn import(&self, name: &str, source: &Path) -> Result<Template, Error> {
        self.import_with(&Publication { name: name.to_owned(), ..Publication::default() }, source)
    }

    pub(crate) fn import_with(&self, publication: &Publication, source: &Path) -> Result<Template, Error> {
        self.store.import(publication, source, &mut |_| {}).map(|(template, _)| template)
    }

    /// Imports an archive that must be refused for what is in it, leaving nothing; gives the message.
    #[track_caller]
    pub(crate) fn refuses(&self, what: &str, source: &Path) -> String {
        let publication = Publication { name: "bad".into(), ..Publication::default() };
        self.refuses_with(what, &publication, source)
    }

    #[track_caller]
    pub(crate) fn refuses_with(&self, what: &str, publication: &Publication, source: &Path) -> String {
        let before = self.outside();
        let error = match self.import_with(publication, source) {
            Err(error) => error,
            Ok(template) => panic!("{what} was imported as {}", template.root.display()),
        };
        assert!(error.is_about_content(), "{what}: {error:?}");
        assert_eq!(self.outside(), before, "{what} changed something outside");
        assert_eq!(self.store.list().unwrap(), [], "{what}");
        let left: Vec<_> = names(&self.path("data/templates/bad"));
        assert_eq!(left, [".lock"], "{what} left something behind");
        error.to_string()
    }

    /// Everything beside the data directory: path, inode, links, size, time.
    fn outside(&self) -> Vec<(PathBuf, u64, u64, u64, i64)> {
        let mut found = Vec::new();
        let mut open = vec![self.path("canary")];
        while let Some(path) = open.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            found.push((path, stat.ino(), stat.nlink(), stat.size(), stat.mtime_nsec()));
        }
        found.sort();
        found
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every path of a tree with what it is: type, mode, owner, and content or target.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let what = if stat.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "dir".to_owned()
        } else if stat.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if stat.is_file() {
            format!("{:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
        } else {
            "other".to_owned()
        };
        let inner = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        found.insert(inner, format!("{:o} {}:{} {what}", stat.mode() & 0o7777, stat.uid(), stat.gid()));
    }
    found
}
