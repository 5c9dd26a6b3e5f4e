//! Where the time comes from.

use jiff::Timestamp;
use std::fmt;

/// Gives the time.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Now, to the microsecond (what records keep).
    fn now(&self) -> Timestamp;
}

/// The host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }
}
