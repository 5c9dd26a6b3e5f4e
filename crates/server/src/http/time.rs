//! Times as the API writes them: ISO-8601 in UTC, always with milliseconds and `Z`.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// A time that serialises as e.g. `2026-01-21T12:00:00.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.3}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_exactly_milliseconds() {
        for (given, shown) in [
            ("2026-01-21T12:00:00Z", "2026-01-21T12:00:00.000Z"),
            ("2026-01-21T12:00:00.0015Z", "2026-01-21T12:00:00.001Z"),
            ("2026-01-21T13:00:00.999999+01:00", "2026-01-21T12:00:00.999Z"),
        ] {
            let time = Time(given.parse().unwrap());
            assert_eq!(serde_json::to_string(&time).unwrap(), format!("\"{shown}\""));
        }
    }
}
