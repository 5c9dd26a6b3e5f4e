//! Templates: finding them, making one of a tree, removing one.

use super::{LocalRuntime, blocking, failed};
use forkpoint_domain::{
    env::Environment,
    ids::OrgId,
    recipe::Service,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    runtime::RuntimeError,
    sealer::Sealed,
    templates::{NewTemplate, TemplateAbout, TemplateInfo},
};
use forkpoint_templates::{Attributes, Details, Error, Publication, Template, TreeWriter};
use forkpoint_volumes::{Entry, Everything, FileKind, Metadata, Tree, read_tree};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

impl LocalRuntime {
    pub(super) async fn current_template(
        &self,
        org: OrgId,
        name: &TemplateName,
    ) -> Result<Option<TemplateInfo>, RuntimeError> {
        let (inner, asked) = (self.inner.clone(), name.clone());
        let found = blocking(move || match inner.templates.get_as(asked.as_str(), Some(&org.to_string())) {
            Ok(template) => Ok(Some(template)),
            Err(Error::Unknown { .. }) => Ok(None),
            Err(error) => Err(failed("find template")(error)),
        })
        .await?;
        found.map(|template| self.known(template)).transpose()
    }

    pub(super) async fn all_templates(&self) -> Result<Vec<TemplateInfo>, RuntimeError> {
        let inner = self.inner.clone();
        let found = blocking(move || inner.templates.list().map_err(failed("list templates"))).await?;
        found.iter().map(describe).collect()
    }

    pub(super) async fn publish_tree(&self, new: NewTemplate) -> Result<TemplateInfo, RuntimeError> {
        let tree = self.tree(&new.tree).await?;
        let inner = self.inner.clone();
        let made = blocking(move || {
            let publication = Publication {
                name: new.name.as_str().to_owned(),
                details: Details {
                    owner: Some(new.owner.to_string()),
                    description: new.about.description,
                    category: new.about.category,
                    tags: new.about.tags,
                    origin: new.origin,
                    sealed_env: new.sealed_env.map(|sealed| hex(&sealed.0)),
                    user: new.user,
                    services: new.services.into_iter().map(stored).collect(),
                    ..Details::default()
                },
                base: Some(tree.template.clone()),
                recipe: new.recipe,
                ..Publication::default()
            };
            inner.templates.publish(&publication, &mut |_| {}, |writer| flatten(&tree, writer)).map_err(refused)
        })
        .await?;
        self.known(made)
    }

    pub(super) async fn remove_template_version(&self, template: &TemplateRef) -> Result<(), RuntimeError> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).remove(template);
        let (inner, template) = (self.inner.clone(), template.clone());
        blocking(move || {
            let removed = inner.templates.remove(template.name.as_str(), &template.digest);
            removed.map(drop).map_err(failed("remove template"))
        })
        .await
    }

    pub(super) async fn version_of_template(
        &self,
        template: &TemplateRef,
    ) -> Result<Option<TemplateInfo>, RuntimeError> {
        let (inner, asked) = (self.inner.clone(), template.clone());
        let found = blocking(move || match inner.templates.get_version(asked.name.as_str(), &asked.digest) {
            Ok(template) => Ok(Some(template)),
            Err(Error::Unknown { .. }) => Ok(None),
            Err(error) => Err(failed("find template")(error)),
        })
        .await?;
        found.map(|template| self.known(template)).transpose()
    }

    /// What starting a sandbox needs to know of a template version; it never changes.
    pub(super) async fn known_version(&self, template: &TemplateRef) -> Result<Known, RuntimeError> {
        if let Some(known) = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).get(template) {
            return Ok(known.clone());
        }
        let found = self.version_of_template(template).await?;
        let found = found.ok_or_else(|| RuntimeError::TemplateMissing(template.clone()))?;
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).get(&found.template).cloned();
        known.ok_or_else(|| RuntimeError::TemplateMissing(template.clone()))
    }

    /// Remembers where a template's root is.
    pub(super) fn known(&self, template: Template) -> Result<TemplateInfo, RuntimeError> {
        let info = describe(&template)?;
        let known = Known { root: template.root, user: info.user.clone(), services: info.services.clone().into() };
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).insert(info.template.clone(), known);
        Ok(info)
    }
}

/// What starting a sandbox needs to know of a template version.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Its root directory.
    pub(super) root: PathBuf,
    /// Who commands run as; `None`: `sandbox`.
    pub(super) user: Option<String>,
    /// What runs from the start.
    pub(super) services: Arc<[Service]>,
}

fn stored(service: Service) -> forkpoint_templates::Service {
    let Service { name, command, user, working_dir, env } = service;
    forkpoint_templates::Service { name, command, user, working_dir, env }
}

/// A template in the engine's words.
fn describe(template: &Template) -> Result<TemplateInfo, RuntimeError> {
    let damaged = |problem: String| RuntimeError::Failed {
        step: "read template",
        problem: format!("{}: {problem}", template.root.with_file_name("template.json").display()),
    };
    let manifest = &template.manifest;
    let details = &manifest.details;
    let name = TemplateName::parse(template.name.as_str()).map_err(|invalid| damaged(invalid.to_string()))?;
    let owner = details.owner.as_deref().map(str::parse::<OrgId>).transpose();
    let sealed = details.sealed_env.as_deref().map(|text| unhex(text).ok_or_else(|| damaged("sealed_env".into())));
    let seconds = i64::try_from(manifest.built_at).unwrap_or(i64::MAX);
    Ok(TemplateInfo {
        template: TemplateRef { name, digest: template.digest.clone() },
        owner: owner.map_err(|invalid| damaged(invalid.to_string()))?,
        about: TemplateAbout {
            description: details.description.clone(),
            category: details.category.clone(),
            tags: details.tags.clone(),
        },
        env: Environment::parse("env", details.env.clone()).map_err(|invalid| damaged(invalid.to_string()))?,
        sealed_env: sealed.transpose()?.map(Sealed),
        origin: details.origin.clone(),
        user: details.user.clone(),
        services: details
            .services
            .iter()
            .cloned()
            .map(|forkpoint_templates::Service { name, command, user, working_dir, env }| Service {
                name,
                command,
                user,
                working_dir,
                env,
            })
            .collect(),
        recipe: manifest.recipe.clone(),
        release: manifest.release.clone(),
        file_count: manifest.files,
        size_bytes: manifest.bytes,
        created_at: Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// Why `templates` did not make one, in terms that callers can act on. What is said of an entry names paths inside.
fn refused(error: Error) -> RuntimeError {
    match error {
        Error::UnfitEntry { .. } | Error::TooLarge { .. } => {
            RuntimeError::Refused { code: "template_unfit", problem: error.to_string() }
        }
        Error::NameTaken { .. } => RuntimeError::Refused { code: "template_name_taken", problem: error.to_string() },
        error if error.is_full() => RuntimeError::NoSpace(error.to_string()),
        error => failed("publish template")(error),
    }
}

/// Writes everything that a tree shows. Files that are the template's own are not copied but shared.
fn flatten(tree: &Tree, writer: &mut TreeWriter) -> Result<(), Error> {
    // Files with several names: device and inode to the first path.
    let mut linked: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut failure = None;
    let walked = read_tree(tree, &Everything, &mut |entry| {
        let path = entry.path.strip_prefix(b"/").unwrap_or(entry.path);
        write_entry(entry, path, writer, &mut linked).map_err(|stop| match stop {
            Stop::Read(error) => error,
            Stop::Write(error) => {
                failure = Some(error);
                // Ends the walk; the failure itself is told below.
                forkpoint_volumes::Error::Io {
                    action: "publish",
                    path: PathBuf::new(),
                    source: io::ErrorKind::Interrupted.into(),
                }
            }
        })
    });
    match (failure, walked) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(unreadable(error)),
    }
}

/// Whose failure ended the walk.
enum Stop {
    Read(forkpoint_volumes::Error),
    Write(Error),
}

impl From<forkpoint_volumes::Error> for Stop {
    fn from(error: forkpoint_volumes::Error) -> Self {
        Self::Read(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Write(error)
    }
}

fn write_entry(
    entry: &Entry<'_>,
    path: &[u8],
    writer: &mut TreeWriter,
    linked: &mut HashMap<(u64, u64), Vec<u8>>,
) -> Result<(), Stop> {
    let meta = &entry.meta;
    match meta.kind {
        FileKind::Directory => {
            let xattrs = entry.xattrs()?;
            return Ok(writer.directory(path, &attributes(meta, xattrs))?);
        }
        // Worthless without the program that made it; devices are in no tree that a sandbox wrote.
        FileKind::Socket | FileKind::Device => return Ok(()),
        FileKind::File | FileKind::Symlink | FileKind::Fifo => {}
    }
    if writer.link_base(path, meta.id)? {
        return Ok(());
    }
    if meta.links > 1 {
        if let Some(first) = linked.get(&meta.id) {
            return Ok(writer.hard_link(path, first)?);
        }
        linked.insert(meta.id, path.to_vec());
    }
    match meta.kind {
        FileKind::Symlink => writer.symlink(path, &entry.target()?, &attributes(meta, Vec::new()))?,
        FileKind::Fifo => writer.fifo(path, &attributes(meta, Vec::new()))?,
        _ => {
            let source = entry.open()?;
            let xattrs = entry.xattrs()?;
            writer.copy(path, &attributes(meta, xattrs), &source, meta.size)?;
        }
    }
    Ok(())
}

fn attributes(meta: &Metadata, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Attributes {
    Attributes {
        mode: meta.mode,
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        mtime: (meta.mtime.secs, meta.mtime.nanos),
        xattrs,
    }
}

/// A tree that cannot be read, as the reason of a template that was not made.
fn unreadable(error: forkpoint_volumes::Error) -> Error {
    if error.is_about_content() {
        return Error::TooLarge { origin: "the checkpoint".into(), reason: error.to_string() };
    }
    let source = match error {
        forkpoint_volumes::Error::Io { source, .. } => source,
        error => io::Error::other(error),
    };
    Error::Io { action: "read tree", path: PathBuf::new(), source }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}
