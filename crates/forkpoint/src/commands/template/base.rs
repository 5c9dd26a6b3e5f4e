//! Bases of recipes that lie on the server's machine: they become templates of the operator first.

use super::local;
use crate::commands::Failure;
use aws_lc_rs::digest;
use forkpoint_domain::{
    recipe::{HostBase, SourceKind},
    template::TemplateName,
};
use forkpoint_templates::{Details, Publication, TemplateStore};
use std::{
    fs::Metadata,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

/// Marks what was imported for recipes.
const CATEGORY: &str = "recipe-base";

/// Makes a template of the base unless there is one of just that, and gives its name.
pub(super) async fn prepare(
    base: &HostBase,
    recipe_dir: &Path,
    data_dir: Option<&Path>,
) -> Result<TemplateName, Failure> {
    let Some(data_dir) = data_dir else {
        return Err(Failure::Usage(
            "the recipe's [base] is on the server's machine: give --data-dir, as its operator there; or start from a \
             template"
                .to_owned(),
        ));
    };
    let (config, data_dir) = local::open(Some(data_dir))?;
    let (base, recipe_dir) = (base.clone(), recipe_dir.to_path_buf());
    let prepared = tokio::task::spawn_blocking(move || {
        let store = TemplateStore::open(&data_dir, &config.cache_dir).map_err(whole)?;
        let name = match base {
            HostBase::Debian { suite } => store.ensure_debian(&suite, &mut tell).map_err(whole)?.name,
            HostBase::Source { kind, path, image } => import(&store, kind, &recipe_dir.join(path), image)?,
        };
        TemplateName::parse(name.as_str()).map_err(|invalid| Failure::Other(invalid.to_string()))
    });
    prepared.await.map_err(|error| Failure::Other(format!("prepare the base: {error}")))?
}

fn import(
    store: &TemplateStore,
    kind: SourceKind,
    path: &Path,
    image: Option<String>,
) -> Result<forkpoint_templates::TemplateName, Failure> {
    let shown = path.display().to_string();
    let path = path.canonicalize().map_err(Failure::io(format!("find the base {shown}")))?;
    let (is_dir, is_layout) = (path.is_dir(), path.join("oci-layout").is_file());
    let (fits, expected) = match kind {
        SourceKind::Oci => (is_layout || path.is_file(), "an OCI layout (a directory, or a tar archive of it)"),
        SourceKind::DockerArchive => (path.is_file(), "a docker-archive, which is a file"),
        SourceKind::Directory => (is_dir && !is_layout, "a root directory"),
    };
    if !fits {
        return Err(Failure::Other(format!("the base {shown} is not {expected}")));
    }
    let source =
        [format!("{kind:?}").as_bytes(), path.as_os_str().as_bytes(), image.as_deref().unwrap_or("").as_bytes()]
            .join(&0);
    let name = format!("base-{}", &hex(digest::digest(&digest::SHA256, &source).as_ref())[..16]);
    let seen = fingerprint(&path)?;
    if let Ok(known) = store.get(&name)
        && known.manifest.recipe == seen
    {
        return Ok(known.name);
    }
    let publication = Publication {
        name,
        details: Details {
            description: format!("Base of recipes: {shown}").chars().take(4096).collect(),
            category: CATEGORY.to_owned(),
            ..Details::default()
        },
        tag: image,
        recipe: seen,
        ..Publication::default()
    };
    let (template, _) = store.import(&publication, &path, &mut tell).map_err(whole)?;
    Ok(template.name)
}

/// What tells whether a source changed, without reading its content: names, sizes, times and inodes. 32 hex digits.
fn fingerprint(path: &Path) -> Result<String, Failure> {
    let mut hasher = digest::Context::new(&digest::SHA256);
    let mut waiting = vec![path.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let stat = path.symlink_metadata().map_err(Failure::io(format!("look at {}", path.display())))?;
        hasher.update(&(path.as_os_str().len() as u64).to_le_bytes());
        hasher.update(path.as_os_str().as_bytes());
        for number in facts(&stat) {
            hasher.update(&number.to_le_bytes());
        }
        if stat.is_dir() {
            let listed = std::fs::read_dir(&path).and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
            });
            let mut listed = listed.map_err(Failure::io(format!("list {}", path.display())))?;
            listed.sort();
            waiting.extend(listed);
        }
    }
    Ok(hex(hasher.finish().as_ref())[..32].to_owned())
}

fn facts(stat: &Metadata) -> [i64; 10] {
    let (dev, ino, size) = (stat.dev() as i64, stat.ino() as i64, stat.size() as i64);
    let (mode, uid, gid) = (i64::from(stat.mode()), i64::from(stat.uid()), i64::from(stat.gid()));
    // The change time also tells of what leaves size and modification time as they were.
    [dev, ino, size, mode, uid, gid, stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()]
}

fn tell(progress: forkpoint_templates::Progress) {
    // Progress is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "base: {progress}");
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

fn whole(error: forkpoint_templates::Error) -> Failure {
    Failure::Other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_changes_in_any_way_has_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("etc/motd");
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(&file, "one").unwrap();
        let first = fingerprint(folder.path()).unwrap();
        assert_eq!(first, fingerprint(folder.path()).unwrap());
        // Of the same size and time.
        let times = std::fs::File::open(&file).unwrap().metadata().unwrap().modified().unwrap();
        std::fs::write(&file, "two").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap();
        let second = fingerprint(folder.path()).unwrap();
        std::fs::write(folder.path().join("etc/new"), "").unwrap();
        let third = fingerprint(folder.path()).unwrap();
        assert!(first != second && second != third && first != third);
    }
}
