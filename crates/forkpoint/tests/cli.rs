//! The client commands as programs run them: arguments, exit codes and output, against a stub server.

#![allow(clippy::unwrap_used)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/bench_vault.rs"]
mod bench_vault;
#[path = "cli/connection.rs"]
mod connection;
#[path = "cli/copy.rs"]
mod copy;
#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/objects.rs"]
mod objects;
#[path = "cli/stub.rs"]
mod stub;
