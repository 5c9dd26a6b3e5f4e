//! Layers and trees on real file systems: btrfs on a loop device, overlay mounts. Needs root.
#![allow(clippy::unwrap_used)]

mod hostile;
mod model;
mod play;
mod store;
mod support;
