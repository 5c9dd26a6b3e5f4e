//! One file per table: how its rows are written and read back.

pub(crate) mod api_keys;
pub(crate) mod checkpoints;
pub(crate) mod events;
pub(crate) mod idempotency;
pub(crate) mod organizations;
#[cfg(test)]
mod plans;
pub(crate) mod sandboxes;
pub(crate) mod servers;
