//! What the platform does, in terms of ports: no SQL, no HTTP, no kernel.

pub mod error;
pub mod failpoint;
pub mod operations;
pub mod platform;
pub mod ports;
pub mod rebuild;
pub mod reconcilers;

pub use error::{Error, Result};
pub use platform::{BuildCache, Caller, Capacity, Pace, Platform, Settings};
