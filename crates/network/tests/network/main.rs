//! The hub as sandboxes, the host and the outside see it. Every test has a host of its own: a network
//! and a mount namespace that go with the test, however it ends. Needs root.
#![allow(clippy::unwrap_used)]

mod crashes;
mod forwarding;
mod isolation;
mod pool;
mod reach;
mod slots;
mod speed;
mod world;
