//! Layers and trees: making, measuring and comparing them with `volumes`.

use super::{LocalRuntime, blocking, spares::is_spare};
use forkpoint_domain::{
    checkpoint::CaptureLimits,
    diff::TreeDiff,
    ids::LayerId,
    restore::{LayerPlan, Region as DomainRegion, TreeRef},
    scope::Scope,
    stored::StoredLayer,
    template::TemplateRef,
};
use forkpoint_engine::{
    failpoint::{Point, pass},
    ports::runtime::{Captured, FoundFile, Measure, RuntimeError},
};
use forkpoint_volumes::{Basis, MeasureLimits, Outside, Region, Source, Tree};
use std::path::PathBuf;
use std::sync::Arc;

/// A scope as `volumes` asks about it.
struct InScope<'a>(&'a Scope);

impl Region for InScope<'_> {
    fn contains(&self, path: &[u8]) -> bool {
        self.0.contains(path)
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        self.0.may_contain_below(dir)
    }

    fn contains_all_below(&self, dir: &[u8]) -> bool {
        !self.0.may_lack_below(dir)
    }
}

/// One path alone, nothing below it.
struct Only<'a>(&'a [u8]);

impl Region for Only<'_> {
    fn contains(&self, path: &[u8]) -> bool {
        path == self.0
    }

    fn may_contain_below(&self, dir: &[u8]) -> bool {
        let dir = if dir == b"/" { b"" } else { dir };
        self.0.starts_with(dir) && self.0.get(dir.len()) == Some(&b'/')
    }
}

/// What a captured set is counted by.
fn basis(scope: &Scope) -> Basis {
    if scope.has_includes() { Basis::Merged } else { Basis::Changes }
}

impl LocalRuntime {
    /// Where a template version's root directory is.
    pub(super) async fn root(&self, template: &TemplateRef) -> Result<PathBuf, RuntimeError> {
        Ok(self.known_version(template).await?.root)
    }

    pub(super) async fn tree(&self, tree: &TreeRef) -> Result<Tree, RuntimeError> {
        let template = self.root(&tree.template).await?;
        Ok(Tree { template, layer: tree.layer.map(|layer| self.inner.layers.path(layer.uuid())) })
    }

    pub(super) async fn make_planned_layer(&self, layer: LayerId, plan: &LayerPlan) -> Result<(), RuntimeError> {
        let template = self.root(&plan.template).await?;
        let graft = match &plan.graft {
            Some(graft) => Some((self.tree(&graft.from).await?, graft.region.clone(), graft.overwrite)),
            None => None,
        };
        let (inner, base) = (self.inner.clone(), plan.base);
        blocking(move || {
            let layers = &inner.layers;
            match base {
                Some(base) if !layers.exists(base.uuid()).map_err(failed("look at layer"))? => {
                    return Err(RuntimeError::LayerMissing(base));
                }
                Some(base) => layers.snapshot(base.uuid(), layer.uuid()).map_err(failed("snapshot layer"))?,
                // Made ahead.
                None if is_spare(layer) && layers.exists(layer.uuid()).map_err(failed("look at layer"))? => {}
                None => layers.create(layer.uuid()).map_err(failed("make layer"))?,
            }
            pass(Point::LayerMade);
            let Some((from, region, overwrite)) = graft else { return Ok(()) };
            let onto = layers.path(layer.uuid());
            let grafted = match &region {
                DomainRegion::Inside(scope) => {
                    forkpoint_volumes::graft(&onto, &template, &from, &InScope(scope), overwrite)
                }
                DomainRegion::Outside(scope) => {
                    forkpoint_volumes::graft(&onto, &template, &from, &Outside(InScope(scope)), overwrite)
                }
            };
            pass(Point::LayerGrafted);
            match grafted.map_err(failed("graft layer")) {
                Ok(_) => Ok(()),
                Err(error) => {
                    if let Err(error) = layers.delete(layer.uuid()) {
                        tracing::warn!(layer.id = %layer, %error, "could not remove a half-made layer");
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    pub(super) async fn measure_tree(
        &self,
        tree: &TreeRef,
        scope: &Scope,
        limits: CaptureLimits,
    ) -> Result<Measure, RuntimeError> {
        let tree = self.tree(tree).await?;
        let scope = scope.clone();
        blocking(move || {
            let limits = MeasureLimits { max_files: limits.max_files, max_bytes: limits.max_bytes };
            let found = forkpoint_volumes::measure_snapshot(&tree, &InScope(&scope), basis(&scope), limits)
                .map_err(failed("measure layer"))?;
            Ok(Measure { file_count: found.file_count, size_bytes: found.size_bytes })
        })
        .await
    }

    pub(super) async fn absent_paths(&self, tree: &TreeRef, paths: Vec<String>) -> Result<Vec<String>, RuntimeError> {
        let tree = self.tree(tree).await?;
        blocking(move || {
            let mut absent = Vec::new();
            for path in paths {
                let only = Only(path.trim_end_matches('/').as_bytes());
                let mut found = only.0.is_empty();
                forkpoint_volumes::read_tree(&tree, &only, &mut |_| {
                    found = true;
                    Ok(())
                })
                .map_err(failed("look for path"))?;
                if !found {
                    absent.push(path);
                }
            }
            Ok(absent)
        })
        .await
    }

    pub(super) async fn compare_trees(&self, first: &Captured, second: &Captured) -> Result<TreeDiff, RuntimeError> {
        let (a, b) = (self.seen(first).await?, self.seen(second).await?);
        let (scope_a, scope_b) = (first.scope.clone(), second.scope.clone());
        blocking(move || {
            let (basis_a, basis_b) = (basis(&scope_a), basis(&scope_b));
            let in_a = InScope(&scope_a);
            let in_b = InScope(&scope_b);
            // One value for both tells that they are the same.
            let in_b = if scope_a.spec() == scope_b.spec() { &in_a } else { &in_b };
            forkpoint_volumes::compare(a.source(), &in_a, basis_a, b.source(), in_b, basis_b)
                .map_err(failed("compare layers"))
        })
        .await
    }

    pub(super) async fn files_of(
        &self,
        of: &Captured,
        paths: Vec<Vec<u8>>,
        limit: u64,
    ) -> Result<Vec<Option<FoundFile>>, RuntimeError> {
        let (seen, scope) = (self.seen(of).await?, of.scope.clone());
        blocking(move || {
            // What is out of scope was not captured, though a layer on this machine has it.
            let inside: Vec<bool> = paths.iter().map(|path| scope.contains(path)).collect();
            let wanted = paths.into_iter().zip(&inside).filter(|(_, inside)| **inside).map(|(path, _)| path);
            let wanted: Vec<Vec<u8>> = wanted.collect();
            let found = forkpoint_volumes::read_files(seen.source(), &wanted, limit).map_err(failed("read files"))?;
            let told = |file: forkpoint_volumes::Found| FoundFile { size: file.size, content: file.content };
            let mut found = found.into_iter();
            Ok(inside.into_iter().map(|inside| if inside { found.next().flatten().map(told) } else { None }).collect())
        })
        .await
    }

    /// Where a captured set is read.
    async fn seen(&self, captured: &Captured) -> Result<Seen, RuntimeError> {
        Ok(Seen { tree: self.tree(&captured.tree).await?, stored: captured.stored.clone() })
    }
}

struct Seen {
    tree: Tree,
    stored: Option<Arc<dyn StoredLayer>>,
}

impl Seen {
    fn source(&self) -> Source<'_> {
        match &self.stored {
            Some(layer) => Source::Stored { template: &self.tree.template, layer: layer.clone() },
            None => Source::Here(&self.tree),
        }
    }
}

/// Names the step at which `volumes` failed, keeping apart what callers must tell apart.
pub(super) fn failed(step: &'static str) -> impl FnOnce(forkpoint_volumes::Error) -> RuntimeError {
    move |error| match error {
        forkpoint_volumes::Error::TooManyFiles { limit } => RuntimeError::TooManyFiles { limit },
        forkpoint_volumes::Error::TooLarge { limit } => RuntimeError::TooLarge { limit },
        forkpoint_volumes::Error::Stored { reason } => RuntimeError::Stored(reason),
        error if error.is_about_content() => RuntimeError::Unfit(error.to_string()),
        error if error.is_out_of_space() => RuntimeError::NoSpace(format!("{step}: {error}")),
        forkpoint_volumes::Error::DriverUnavailable { .. } => RuntimeError::Unsupported(error.to_string()),
        error => super::failed(step)(error),
    }
}
