//! How layers are kept: the port that each way of copying-on-write implements.

use std::fmt::Debug;

use uuid::Uuid;

use super::DriverKind;
use crate::error::Result;

/// One way to keep layers in a directory.
pub trait Driver: Debug + Send + Sync {
    /// Which way it is.
    fn kind(&self) -> DriverKind;

    /// Makes an empty layer: `upper` (0755, owner 0) and `work`. On stable storage at return.
    fn create(&self, id: Uuid) -> Result<()>;

    /// Makes `to` what `from` is at this instant. Never half-made under its name, and on stable
    /// storage at return. The source may be mounted; what is written to it meanwhile may or may
    /// not be in the snapshot, so freeze its writers.
    fn snapshot(&self, from: Uuid, to: Uuid) -> Result<()>;

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
