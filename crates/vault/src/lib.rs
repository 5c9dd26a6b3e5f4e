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
mod materialize;
mod object_keys;
mod org;
mod pack;
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

/// Entry points for tests that feed parsers with hostile bytes; no promise is made about them.
#[doc(hidden)]
pub mod parsers {
    /// Reads a stored directory; says whether it was accepted and wrote back as the same bytes.
    pub fn directory(bytes: &[u8]) -> Option<bool> {
        let node = crate::tree::codec::decode(bytes).ok()?;
        Some(crate::tree::codec::encode(&node) == bytes)
    }

    /// Reads a pack's index in clear and a pack's footer.
    pub fn pack(bytes: &[u8], size: u64) -> bool {
        crate::pack::decode_index(bytes, size).is_ok() | crate::pack::read_footer("fuzz", bytes, size).is_ok()
    }

    /// Reads a hint file.
    pub fn hints(bytes: &[u8]) -> bool {
        crate::hints::Hints::decode(bytes).is_some()
    }

    /// Reads an object's key.
    pub fn object_key(key: &str) -> bool {
        crate::object_keys::ObjectKey::parse(key).is_some()
    }
}
