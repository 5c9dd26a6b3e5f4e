//! Hot copy-on-write layers on this machine: kept, snapshotted, read without mounting, compared
//! and edited.
//!
//! [`LayerStore`] keeps layers, [`Tree`] names a template with a layer over it, and [`changes`],
//! [`measure`], [`compare`] and [`graft`] work on trees, limited to a [`Region`]. Everything here
//! blocks. A *layer* is a directory with `upper` and `work` for an overlay mount; what is in it
//! was written by hostile code.

mod changes;
mod compare;
mod durable;
mod error;
mod files;
mod graft;
mod layer;
mod lineage;
mod look;
mod measure;
mod region;
mod renames;
mod store;
mod sys;
mod tree;
mod view;

pub use changes::{Change, ChangeKind, changes};
pub use compare::compare;
pub use error::{Error, Result};
pub use forkpoint_domain::diff::TreeDiff;
pub use graft::{GraftReport, graft};
pub use layer::{LayerEntry, LayerItem, read_layer};
pub use look::{Found, read_files};
pub use measure::{Measure, MeasureLimits, measure, measure_snapshot};
pub use region::{Everything, Outside, Region, Under};
pub use store::driver::{Driver, Pending};
pub use store::inventory::{Inventory, inventory};
pub use store::probe::{Probe, probe};
pub use store::{DriverChoice, DriverKind, Growth, LayerStore, StoreOptions, Usage, list_layers, purge};
pub use tree::{Basis, FileKind, MAX_ENTRIES, MAX_PATH, Metadata, Source, Timestamp, Tree};
pub use view::{Entry, read_tree};
