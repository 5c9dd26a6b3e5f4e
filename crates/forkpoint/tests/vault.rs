//! What becomes of checkpoints beyond their making: compared, kept, evicted, repaired, recovered. With real servers.
#![allow(clippy::unwrap_used)]

#[path = "vault/compare.rs"]
mod compare;
#[path = "vault/hot_layers.rs"]
mod hot_layers;
#[path = "vault/kit.rs"]
mod kit;
#[path = "vault/mending.rs"]
mod mending;
#[path = "vault/recovery.rs"]
mod recovery;
#[path = "vault/repair.rs"]
mod repair;
#[path = "vault/retention.rs"]
mod retention;
mod support;
