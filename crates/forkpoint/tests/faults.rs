//! Faults: the server dies at every named point, the host restarts, disk, memory, slots and descriptors run out.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

#[path = "faults/descriptors.rs"]
mod descriptors;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/host.rs"]
mod host;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/points.rs"]
mod points;
#[path = "faults/reboot.rs"]
mod reboot;
#[path = "faults/tree.rs"]
mod tree;
#[path = "faults/vault.rs"]
mod vault;
#[path = "faults/world.rs"]
mod world;
