//! Checkpoints as archives, end to end: standard tools read them, another server takes them back with the same hash,
//! broken and hostile ones leave nothing, and what is stored can be proven without a server.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod support;

#[path = "portable/elsewhere.rs"]
mod elsewhere;
#[path = "portable/forge.rs"]
mod forge;
#[path = "portable/hostile.rs"]
mod hostile;
#[path = "portable/kit.rs"]
mod kit;
#[path = "portable/proofs.rs"]
mod proofs;
#[path = "portable/tools.rs"]
mod tools;
