//! The vault through its public face, on real files and real stores.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod browse;
mod check;
mod collect;
mod collecting;
mod crash;
mod faults;
mod hostile;
mod incremental;
mod model;
mod proofs;
mod repair;
mod roundtrip;
mod s3;
mod suite;
mod support;
mod suspects;
