//! Encryption of what must not lie in clear on disk.

use std::fmt;

/// Bytes that only the server's master key opens. Format is the sealer's own.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// The bytes were not sealed with this key, or not for this place, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed data does not open with this server's master key")]
pub struct CannotOpen;

/// Seals and opens small secrets (environments).
pub trait Sealer: Send + Sync + fmt::Debug + 'static {
    /// Encrypts `clear`, bound to `context` (e.g. the id of the row it belongs to).
    fn seal(&self, context: &str, clear: &[u8]) -> Sealed;

    /// Decrypts what was sealed for the same `context`.
    fn open(&self, context: &str, sealed: &Sealed) -> Result<Vec<u8>, CannotOpen>;
}
