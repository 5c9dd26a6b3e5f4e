//! The durable side of checkpoints: layers cut into deduplicated, sealed chunks in an object store, described by
//! hash trees; and what else must not lie in clear on disk.
//!
//! [`Vault`] is the whole of it. Everything here blocks: call it from threads that may. The stored form is
//! written down in `docs/vault-format.md`.

pub mod master_key;
pub mod sealer;
pub mod store;

mod browse;
mod check;
mod collect;
mod crypto;
mod cut;
mod error;
mod fetch;
mod files;
mod format;
mod hash_tree;
mod hints;
mod index;
mod leases;
mod materialize;
mod object_keys;
mod org;
mod pack;
#[doc(hidden)]
pub mod parsers;
mod persist;
mod port;
mod prove;
mod quarantine;
mod reading;
mod recall;
mod record;
mod repair;
mod scan;
mod session;
mod sink;
mod suspects;
mod tree;
mod usage;
mod vault;
#[cfg(test)]
mod vectors;
mod verify;
mod walk;
mod wire;

pub use browse::Browser;
pub use check::{CheckReport, Problem};
pub use collect::{CollectOptions, Collected};
pub use error::{Result, VaultError};
pub use hash_tree::{hash_file, hash_tree};
pub use master_key::{MasterKey, MasterKeyError};
pub use materialize::Materialized;
pub use object_keys::SnapshotRef;
pub use persist::{PersistJob, Persisted};
pub use prove::{InclusionProof, Proven};
pub use quarantine::Quarantined;
pub use record::{Header, Stored};
pub use repair::{Broken, Repair, Repaired};
pub use sealer::MasterKeySealer;
pub use session::Progress;
pub use store::{Store, StoreError};
pub use tree::RootHash;
pub use usage::{Stats, Usage};
pub use vault::{Vault, VaultOptions};
pub use verify::Verified;
