//! The Runtime and Guest ports: sandboxes on this machine, and the client of their agents.

pub mod agent_client;
pub mod local;
