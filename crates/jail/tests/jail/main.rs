//! Real sandboxes around a small program that reports what it sees. Needs root, as the jail does.
#![allow(clippy::unwrap_used)]

mod isolation;
mod lifecycle;
mod limits;
mod programs;
mod sandbox;
mod tree;
