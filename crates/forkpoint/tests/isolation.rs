//! Ways out of a sandbox, tried by its user and by its root, on a real server; and that neighbours do not notice.
//!
//! What is tried inside is written in Python (`isolation/*.py`), which the default template has. A server serves many
//! attempts, and each test reports all that went wrong, not the first only. `docs/security.md` names these tests.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod support;

#[path = "isolation/exhaustion.rs"]
mod exhaustion;
#[path = "isolation/inside.rs"]
mod inside;
#[path = "isolation/kit.rs"]
mod kit;
#[path = "isolation/reach.rs"]
mod reach;
#[path = "isolation/routes.rs"]
mod routes;
#[path = "isolation/tenants.rs"]
mod tenants;
#[path = "isolation/trees.rs"]
mod trees;
