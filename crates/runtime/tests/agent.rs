//! The real agent, driven by the real client over loopback. Needs root, since commands change users,
//! and the agent's program beside the tests' (`cargo build -p forkpoint-agent`).
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, missing_debug_implementations)]

#[path = "agent/exec.rs"]
mod exec;
#[path = "agent/files.rs"]
mod files;
#[path = "agent/first.rs"]
mod first;
#[path = "agent/harness.rs"]
mod harness;
#[path = "agent/hostile.rs"]
mod hostile;
#[path = "agent/sessions.rs"]
mod sessions;
#[path = "agent/streams.rs"]
mod streams;
