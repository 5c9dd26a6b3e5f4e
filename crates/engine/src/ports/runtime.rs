//! Sandboxes and layers as the host runs them.

use super::{
    guest::Guest,
    portable::Portable,
    templates::{NewTemplate, TemplateInfo},
};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::CaptureLimits,
    diff::TreeDiff,
    ids::{LayerId, OrgId, SandboxId},
    limits::Limits,
    recipe::Service,
    restore::{LayerPlan, TreeRef},
    sandbox::StopReason,
    scope::Scope,
    stored::StoredLayer,
    template::{TemplateName, TemplateRef},
};
use std::{fmt, path::PathBuf, sync::Arc};

/// Makes, runs, captures and ends sandboxes on one kind of host.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug + 'static {
    /// The current version of a template as an organisation sees it: its own, else the operator's; `None` if there
    /// is no such template.
    async fn template(&self, org: OrgId, name: &TemplateName) -> Result<Option<TemplateInfo>, RuntimeError>;

    /// Every version of every template, whoever owns it; later versions of a name come later.
    async fn templates(&self) -> Result<Vec<TemplateInfo>, RuntimeError>;

    /// Makes a template of a tree, as a copy of its own. It is there whole when this returns, or not at all.
    async fn publish(&self, new: NewTemplate) -> Result<TemplateInfo, RuntimeError>;

    /// One version of a template, whoever owns it; `None` if it is not here.
    async fn template_version(&self, template: &TemplateRef) -> Result<Option<TemplateInfo>, RuntimeError> {
        Ok(self.templates().await?.into_iter().find(|one| one.template == *template))
    }

    /// What runs in a template's sandboxes from their start.
    async fn services(&self, template: &TemplateRef) -> Result<Arc<[Service]>, RuntimeError> {
        let _ = template;
        Ok(Arc::default())
    }

    /// Removes a version of a template that nothing needs any more; one that is not there is removed already.
    async fn remove_template(&self, template: &TemplateRef) -> Result<(), RuntimeError>;

    /// Makes `layer` as planned; what was half-made under that id before is replaced.
    async fn make_layer(&self, layer: LayerId, plan: &LayerPlan) -> Result<(), RuntimeError>;

    /// An empty layer that was made ahead, if there is one; [`make_layer`](Self::make_layer) with an empty plan makes it
    /// the caller's. `claim` is told of it before it is a layer like others.
    fn spare_layer(&self, claim: &mut (dyn FnMut(LayerId) + Send)) -> Option<LayerId> {
        let _ = claim;
        None
    }

    /// Removes a layer; one that is not there is removed already.
    async fn drop_layer(&self, layer: LayerId) -> Result<(), RuntimeError>;

    /// All layers that are here.
    async fn layers(&self) -> Result<Vec<LayerId>, RuntimeError>;

    /// Whether a layer is here.
    async fn has_layer(&self, layer: LayerId) -> Result<bool, RuntimeError> {
        Ok(self.layers().await?.contains(&layer))
    }

    /// The directory that holds what a layer changed, as an overlay keeps it; `None` where layers are no
    /// directories of this machine.
    fn layer_tree(&self, layer: LayerId) -> Option<PathBuf> {
        let _ = layer;
        None
    }

    /// Bytes of the files in a layer; what it shares with others counts as its own.
    async fn layer_bytes(&self, layer: LayerId) -> Result<u64, RuntimeError> {
        let _ = layer;
        Ok(0)
    }

    /// Removes what earlier builds and imports left unfinished, and caches that nobody will use; tells what. With
    /// `dry_run` only tells.
    async fn collect_files(&self, dry_run: bool) -> Result<Vec<Garbage>, RuntimeError> {
        let _ = dry_run;
        Ok(Vec::new())
    }

    /// Checkpoints as archives; `None` where this is not possible.
    fn portable(&self) -> Option<Arc<dyn Portable>> {
        None
    }

    /// Starts a sandbox on its layer; it answers commands when this returns.
    async fn launch(&self, launch: &Launch) -> Result<Instance, RuntimeError>;

    /// Ends all processes of a sandbox and frees everything but its layer. One that does not run is ended already.
    async fn end(&self, sandbox: SandboxId) -> Result<(), RuntimeError>;

    /// What runs now: sandboxes whose first process lives, also those started by an earlier server.
    async fn instances(&self) -> Result<Vec<Instance>, RuntimeError>;

    /// Sandboxes that do not run and of which something is left on the host; to be ended, unless somebody is at work
    /// on them.
    async fn strays(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        Ok(Vec::new())
    }

    /// Why a sandbox does not run that ran under an earlier server; `None` if that server was just ending or
    /// starting it when it was lost itself.
    fn lost(&self, _sandbox: SandboxId) -> Option<StopReason> {
        Some(StopReason::HostRestart)
    }

    /// Records agree with what runs: what an earlier server left need not be told apart any more.
    async fn recovered(&self) {}

    /// What the host has left for sandboxes.
    async fn room(&self) -> Result<Room, RuntimeError> {
        Ok(Room { memory_bytes: u64::MAX, disk_bytes: u64::MAX, host_bytes: u64::MAX })
    }

    /// Fixes the layer of a running (or stopped) sandbox as `into`, durable when this returns.
    async fn capture(&self, sandbox: SandboxId, layer: LayerId, into: LayerId) -> Result<Capture, RuntimeError>;

    /// Counts a captured set, whose layer nothing has written to since it was captured; refuses as soon as a limit is
    /// passed.
    async fn measure(&self, tree: &TreeRef, scope: &Scope, limits: CaptureLimits) -> Result<Measure, RuntimeError>;

    /// Those of these absolute paths that a tree does not have.
    async fn absent(&self, tree: &TreeRef, paths: Vec<String>) -> Result<Vec<String>, RuntimeError>;

    /// Compares two captured sets.
    async fn compare(&self, first: &Captured, second: &Captured) -> Result<TreeDiff, RuntimeError>;

    /// Reads the regular files at these absolute paths, in their order, as far as they have at most `limit` bytes;
    /// `None` where there is no regular file, or it was not captured.
    async fn read_files(
        &self,
        of: &Captured,
        paths: Vec<Vec<u8>>,
        limit: u64,
    ) -> Result<Vec<Option<FoundFile>>, RuntimeError>;

    /// Commands and files inside a running sandbox.
    fn guest(&self, sandbox: SandboxId) -> Result<Arc<dyn Guest>, RuntimeError>;

    /// Waits until a sandbox's first process has ended by itself, and tells which and why.
    async fn next_death(&self) -> Death;
}

/// Something that nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// What it is, e.g. `layer`.
    pub kind: &'static str,
    /// Which.
    pub name: String,
    /// What it holds; 0 if that cannot be told.
    pub bytes: u64,
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Which sandbox; also its host name.
    pub sandbox: SandboxId,
    /// Its template.
    pub template: TemplateRef,
    /// Its layer.
    pub layer: LayerId,
    /// Its limits.
    pub limits: Limits,
}

/// A sandbox that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Which.
    pub sandbox: SandboxId,
    /// On which layer.
    pub layer: LayerId,
    /// Its outer address on this host.
    pub address: String,
}

/// What a host has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Memory that could be taken now without anybody else missing it, in bytes.
    pub memory_bytes: u64,
    /// Disk space that layers could take, the host's reserve left alone, in bytes.
    pub disk_bytes: u64,
    /// What of that is on the host's own disk, where all else lies beside the layers.
    pub host_bytes: u64,
}

/// A captured set, wherever its layer is.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The tree it is of.
    pub tree: TreeRef,
    /// What of it was captured.
    pub scope: Arc<Scope>,
    /// What is read instead of a layer that is not on this machine.
    pub stored: Option<Arc<dyn StoredLayer>>,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// How many bytes it has.
    pub size: u64,
    /// These; `None`: more than asked for.
    pub content: Option<Vec<u8>>,
}

/// What a capture cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capture {
    /// How long the sandbox stood still, in milliseconds.
    pub pause_ms: f64,
    /// The whole capture, flush included, in milliseconds.
    pub copy_duration_ms: f64,
}

/// A captured set, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Regular files and symbolic links.
    pub file_count: u64,
    /// Bytes of its regular files, hard links once.
    pub size_bytes: u64,
}

/// A sandbox that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Which.
    pub sandbox: SandboxId,
    /// Why.
    pub reason: StopReason,
}

/// Why the runtime refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The sandbox does not run.
    #[error("sandbox is not running")]
    NotRunning,
    /// A layer is gone that should be there.
    #[error("layer {0} is missing")]
    LayerMissing(LayerId),
    /// A template version is gone that should be there.
    #[error("template {0} is missing")]
    TemplateMissing(TemplateRef),
    /// The captured set has more files than allowed.
    #[error("more than {limit} files")]
    TooManyFiles {
        /// The most files allowed.
        limit: u64,
    },
    /// The captured set has more bytes than allowed.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The most bytes allowed.
        limit: u64,
    },
    /// The tree itself is the cause, nothing is broken: says what is wrong with it, for its owner.
    #[error("{0}")]
    Unfit(String),
    /// A stored layer cannot be read where it is kept.
    #[error("{0}")]
    Stored(String),
    /// The host has no room left on disk.
    #[error("no space left on the host: {0}")]
    NoSpace(String),
    /// The host has no slot, memory or other means left for now.
    #[error("host is out of capacity: {0}")]
    NoCapacity(String),
    /// What was asked for does not fit what is there; the reason is for clients.
    #[error("{problem}")]
    Refused {
        /// Stable, snake case.
        code: &'static str,
        /// What is in the way and what would be right.
        problem: String,
    },
    /// The host lacks what this needs.
    #[error("not possible on this host: {0}")]
    Unsupported(String),
    /// Something failed; says at which step.
    #[error("{step}: {problem}")]
    Failed {
        /// A bare action, e.g. `mount overlay`.
        step: &'static str,
        /// What went wrong.
        problem: String,
    },
}
