//! Checkpoints as archives that another server takes back.

use super::{runtime::RuntimeError, templates::TemplateInfo};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::CaptureLimits,
    env::Environment,
    ids::{CheckpointId, LayerId, OrgId, SandboxId},
    restore::TreeRef,
    scope::ScopeSpec,
    template::{TemplateName, TemplateRef},
};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, fs::File, io::Write, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage {
    /// Its id where it was made.
    pub checkpoint: CheckpointId,
    /// The sandbox that it was captured from.
    pub sandbox: SandboxId,
    /// The checkpoint before it.
    pub parent: Option<CheckpointId>,
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The caller's own JSON object.
    pub metadata: Map<String, Value>,
    /// What its layer lies on.
    pub template: TemplateRef,
    /// What was captured.
    pub scope: ScopeSpec,
    /// When it was captured.
    pub created_at: Timestamp,
    /// The hash of its tree, `b3:<hex>`; empty: not known yet.
    pub checksum: String,
    /// What became of its environment.
    pub env: EnvState,
}

/// Whether an archive has the checkpoint's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvState {
    /// None was captured.
    None,
    /// One was captured, and it is not in the archive.
    LeftOut,
    /// It is in the archive, in clear.
    Included,
}

impl EnvState {
    /// As archives write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::LeftOut => "left-out",
            Self::Included => "included",
        }
    }

    /// Reads what archives write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::LeftOut, Self::Included].into_iter().find(|one| one.as_str() == text)
    }
}

/// What is to be exported.
#[derive(Debug, Clone)]
pub struct ExportJob {
    /// The template and the layer; nothing may change the layer until the archive is written.
    pub tree: TreeRef,
    /// What the archive says of it.
    pub lineage: Lineage,
    /// The environment, if it is to be in the archive.
    pub env: Option<Environment>,
    /// Whether the archive has the template too.
    pub with_template: bool,
}

/// An archive that was looked through and can be written.
pub trait Prepared: Send + fmt::Debug {
    /// The hash of the tree, `b3:<hex>`.
    fn checksum(&self) -> &str;

    /// Bytes of the archive.
    fn size(&self) -> u64;

    /// Writes it. Blocks.
    fn write(&self, to: &mut dyn Write, stop: &CancellationToken) -> Result<(), RuntimeError>;
}

/// What an archive says of itself; every blob in it has the digest that it is named by.
#[derive(Debug, Clone)]
pub struct Archived {
    /// Where it comes from.
    pub lineage: Lineage,
    /// Variables that the image sets.
    pub env: BTreeMap<String, String>,
    /// Names the contents of the template in it; `None`: there is none.
    pub base: Option<String>,
}

/// Writes and reads such archives. Refusals that an archive is the cause of are [`RuntimeError::Refused`] with the code
/// [`ARCHIVE_UNFIT`] or [`ARCHIVE_TOO_LARGE`].
#[async_trait]
pub trait Portable: Send + Sync + fmt::Debug + 'static {
    /// Looks a tree through.
    async fn prepare(&self, job: ExportJob, stop: CancellationToken) -> Result<Box<dyn Prepared>, RuntimeError>;

    /// A file for an archive that comes in; it has no name, so that nothing of it is left whatever happens.
    async fn spool(&self) -> Result<File, RuntimeError>;

    /// Looks an archive through.
    async fn read(&self, archive: Arc<File>, stop: CancellationToken) -> Result<Archived, RuntimeError>;

    /// Makes a template of the one in an archive, whole or not at all.
    async fn make_template(
        &self,
        archive: Arc<File>,
        template: ArchivedTemplate,
        stop: CancellationToken,
    ) -> Result<TemplateInfo, RuntimeError>;

    /// Fills an empty layer, on stable storage when this returns, and gives its hash, which is what the archive says.
    async fn fill(
        &self,
        archive: Arc<File>,
        layer: LayerId,
        limits: CaptureLimits,
        stop: CancellationToken,
    ) -> Result<String, RuntimeError>;

    /// The hash of a layer's tree, `b3:<hex>`.
    async fn hash(&self, layer: LayerId, stop: CancellationToken) -> Result<String, RuntimeError>;
}

/// A template that is to be made of an archive's.
#[derive(Debug, Clone)]
pub struct ArchivedTemplate {
    /// What it is called.
    pub name: TemplateName,
    /// Whose it is.
    pub owner: OrgId,
    /// Where it came from; names its contents.
    pub origin: String,
}

/// The archive is damaged, hostile or none.
pub const ARCHIVE_UNFIT: &str = "archive_unfit";
/// The archive holds more than is allowed.
pub const ARCHIVE_TOO_LARGE: &str = "archive_too_large";
