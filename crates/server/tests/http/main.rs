//! The HTTP side over a platform in memory: shapes, refusals, streams, limits, connections.

#![allow(clippy::unwrap_used)]

mod accounts;
mod auth;
mod builds;
mod checkpoints;
mod connections;
mod execute;
mod files;
mod harness;
mod operation;
mod robustness;
mod routes;
mod sandboxes;
mod templates;
mod terminals;
