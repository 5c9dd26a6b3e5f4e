//! Order statistics of measurements.

use serde::Serialize;

/// What a series of measurements comes to. `p95` is the value that 95 of 100 were at least as good as.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many measurements.
    pub(crate) runs: usize,
    /// The median.
    pub(crate) p50: f64,
    /// Of 100 measurements, 95 are as good or better.
    pub(crate) p95: f64,
    /// Of 100 measurements, 99 are as good or better.
    pub(crate) p99: f64,
    /// The worst.
    pub(crate) max: f64,
}

impl Summary {
    /// Summarises; `None` if there is nothing to. Ranks are nearest ranks: every figure was measured.
    pub(crate) fn of(samples: &[f64], more_is_better: bool) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        if more_is_better {
            sorted.reverse();
        }
        let max = *sorted.last()?;
        let rank = |share: usize| sorted[(sorted.len() * share).div_ceil(100).max(1) - 1];
        Some(Self { runs: sorted.len(), p50: rank(50), p95: rank(95), p99: rank(99), max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_measured_values() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            Summary::of(&samples, false),
            Some(Summary { runs: 200, p50: 100.0, p95: 190.0, p99: 198.0, max: 200.0 })
        );
        assert_eq!(Summary::of(&[7.0], false), Some(Summary { runs: 1, p50: 7.0, p95: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Summary::of(&[], false), None);
    }

    #[test]
    fn of_rates_the_low_ones_are_the_bad_ones() {
        let rates: Vec<f64> = (1..=100).map(f64::from).collect();
        let summary = Summary::of(&rates, true).unwrap();
        assert_eq!((summary.p50, summary.p95, summary.max), (51.0, 6.0, 1.0));
    }
}
