//! How layers are kept: the port that each way of copying-on-write implements.

use std::fmt::Debug;

use uuid::Uuid;

use super::DriverKind;
use crate::durable::Temporary;
use crate::error::Result;

/// A snapshot that is taken and not yet a layer. Left behind, it is removed when the store is next opened.
#[derive(Debug)]
#[must_use = "a snapshot is a layer only when it is finished"]
pub struct Pending {
    /// The layer it becomes.
    pub(crate) to: Uuid,
    /// What it is called until then; `None`: it is a layer already.
    pub(crate) temporary: Option<Temporary>,
}

/// One way to keep layers in a directory.
pub trait Driver: Debug + Send + Sync {
    /// Which way it is.
    fn kind(&self) -> DriverKind;

    /// Makes an empty layer: `upper` (0755, owner 0) and `work`. On stable storage at return.
    fn create(&self, id: Uuid) -> Result<()>;

    /// Copies what `from` is at this instant. The source may be mounted; what is written to it
    /// meanwhile may or may not be in the snapshot, so freeze its writers. It is a layer, on stable
    /// storage, when [`finish_snapshot`](Self::finish_snapshot) returns, which writers need not wait for.
    fn begin_snapshot(&self, from: Uuid, to: Uuid) -> Result<Pending>;

    /// Makes `to` a layer. Never half-made under its name.
    fn finish_snapshot(&self, pending: Pending) -> Result<()>;

    /// Writes out what is dirty in a layer, so that a snapshot soon after has little to wait for.
    fn flush(&self, id: Uuid) -> Result<()>;

    /// Removes a layer; no error if there is none.
    fn delete(&self, id: Uuid) -> Result<()>;

    /// Limits what may be written into a layer from now on, in bytes; `false` if this way of keeping layers
    /// cannot. What it shares with the layer it is a snapshot of does not count.
    fn limit(&self, id: Uuid, bytes: u64) -> Result<bool>;

    /// Waits until all removed layers' and all written data is settled on stable storage.
    fn sync(&self) -> Result<()>;
}
