//! A clock that goes when told to.

use forkpoint_engine::ports::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Mutex, PoisonError};

/// Stands still but for a step: each reading is a microsecond after the one before, so that nothing happens at once.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
}

impl ManualClock {
    /// Moves the time.
    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(Timestamp::MAX);
    }
}

impl Default for ManualClock {
    /// Starts at the host's present, so that lifetimes fit what the host's clock says elsewhere.
    fn default() -> Self {
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or_default();
        Self { now: Mutex::new(now) }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.advance(SignedDuration::from_micros(1));
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
