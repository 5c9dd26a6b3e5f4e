//! The vault that is measured: in a directory, as a server has it.

use crate::commands::Failure;
use forkpoint_domain::ids::{CheckpointId, OrgId, SandboxId};
use forkpoint_vault::{Header, MasterKey, PersistJob, Persisted, Progress, SnapshotRef, Vault, VaultOptions};
use jiff::{SignedDuration, Timestamp};
use std::{path::Path, sync::Arc};
use uuid::Uuid;

/// An open vault.
#[derive(Debug)]
pub(super) struct Subject(Vault);

fn failed(action: &'static str) -> impl Fn(forkpoint_vault::VaultError) -> Failure {
    move |error| Failure::Other(format!("{action}: {error}"))
}

fn name(n: u32) -> SnapshotRef {
    SnapshotRef {
        org: OrgId::from_uuid(Uuid::from_u128(1)),
        checkpoint: CheckpointId::from_uuid(Uuid::from_u128(n.into())),
    }
}

impl Subject {
    /// Makes a vault below `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(Failure::io(format!("make {}", folder.display())))?;
        let mut options = VaultOptions::new(folder.join("store").to_string_lossy());
        options.cache = Some(folder.join("cache"));
        let master = MasterKey::open_or_create(&folder.join("key"))
            .map_err(|error| Failure::Other(format!("make a master key: {error}")))?;
        Vault::open(&options, &master).map(Self).map_err(failed("open the vault"))
    }

    /// Stores a tree under a number; `parent` is one that was stored before.
    pub(super) fn persist(&self, tree: &Path, n: u32, parent: Option<u32>) -> Result<Persisted, Failure> {
        let SnapshotRef { org, checkpoint } = name(n);
        let header = Header {
            org,
            checkpoint,
            sandbox: SandboxId::from_uuid(Uuid::from_u128(1)),
            parent: None,
            template_name: "default".into(),
            template_digest: String::new(),
            scope: serde_json::Value::Null,
            metadata: serde_json::Value::Null,
            env: None,
            created_at: Timestamp::now(),
        };
        let job = PersistJob {
            tree: tree.into(),
            header,
            parent: parent.map(name),
            // Nothing changes these files but this program.
            captured_after: Timestamp::now() + SignedDuration::from_secs(5),
            images: Vec::new(),
            progress: Arc::default(),
        };
        self.0.persist(&job).map_err(failed("store"))
    }

    /// Reads a stored tree back and hashes it.
    pub(super) fn verify(&self, n: u32) -> Result<(), Failure> {
        self.0.verify(name(n), None, &Progress::default()).map(drop).map_err(failed("verify"))
    }

    /// Writes a stored tree into a new directory.
    pub(super) fn restore(&self, n: u32, into: &Path) -> Result<(), Failure> {
        std::fs::create_dir(into).map_err(Failure::io(format!("make {}", into.display())))?;
        self.0.materialize(name(n), into, &Progress::default()).map(drop).map_err(failed("restore"))
    }

    /// Bytes of everything in the store.
    pub(super) fn stored(&self) -> Result<u64, Failure> {
        self.0.stats(None).map(|stats| stats.bytes).map_err(failed("count"))
    }
}
