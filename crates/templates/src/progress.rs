//! How far the making of a template is, and the means to stop it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// One step on the way to a ready template, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Another process on this host is making the same template.
    Waiting,
    /// Package lists are being fetched.
    Updating,
    /// Packages are being downloaded.
    Downloading,
    /// The essential packages are being unpacked.
    Extracting,
    /// Packages are being unpacked and configured.
    Installing,
    /// Files are taken out of an archive, a directory or a sandbox's tree.
    Unpacking,
    /// Settings are written, leftovers removed.
    Finishing,
    /// The tree's digest is computed.
    Measuring,
    /// Files are placed in the data directory.
    Placing,
    /// The template can be used.
    Ready,
}

impl Stage {
    /// A short phrase for people and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another builder",
            Self::Updating => "fetching package lists",
            Self::Downloading => "downloading packages",
            Self::Extracting => "extracting essential packages",
            Self::Installing => "installing packages",
            Self::Unpacking => "unpacking files",
            Self::Finishing => "finishing",
            Self::Measuring => "computing the digest",
            Self::Placing => "placing files",
            Self::Ready => "ready",
        }
    }
}

/// A report of progress, given at each change of stage and otherwise about once a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How far the whole is, 0 to 100; an estimate that never goes back within one call.
    pub percent: u8,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} %)", self.stage.as_str(), self.percent)
    }
}

/// A handle that ends a running [`ensure_default`](crate::TemplateStore::ensure_default) from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the call to stop; it answers [`Error::Cancelled`] within about a quarter of a second.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Thins reports to one a second and keeps the percentage from going back.
pub(crate) struct Reporter<'a> {
    sink: &'a mut dyn FnMut(Progress),
    cancel: Cancel,
    last: Option<(Progress, Instant)>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(sink: &'a mut dyn FnMut(Progress), cancel: Cancel) -> Self {
        Self { sink, cancel, last: None }
    }

    /// Notes progress; fails if the call was cancelled.
    pub(crate) fn report(&mut self, stage: Stage, percent: u8) -> Result<()> {
        self.cancel.check()?;
        let floor = self.last.map_or(0, |(last, _)| last.percent);
        let now = Progress { stage, percent: percent.clamp(floor, 100) };
        let due = self.last.is_none_or(|(last, at)| last.stage != stage || at.elapsed() >= Duration::from_secs(1));
        if due {
            (self.sink)(now);
            self.last = Some((now, Instant::now()));
        }
        Ok(())
    }

    /// Reports `done` of `total` as a share of the percentages `from..to`.
    pub(crate) fn share(&mut self, stage: Stage, from: u8, to: u8, done: u64, total: u64) -> Result<()> {
        let width = u64::from(to.saturating_sub(from));
        let part = width * done.min(total) / total.max(1);
        self.report(stage, from + u8::try_from(part).unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_at_stage_changes_and_never_go_back() {
        let mut seen = Vec::new();
        let mut sink = |p| seen.push(p);
        let mut reporter = Reporter::new(&mut sink, Cancel::default());
        reporter.report(Stage::Updating, 3).unwrap();
        for done in 0..100 {
            reporter.share(Stage::Downloading, 5, 25, done, 100).unwrap();
        }
        reporter.report(Stage::Extracting, 1).unwrap();
        let percents: Vec<_> = seen.iter().map(|p: &Progress| (p.stage, p.percent)).collect();
        assert_eq!(percents, [(Stage::Updating, 3), (Stage::Downloading, 5), (Stage::Extracting, 5)]);
    }

    #[test]
    fn a_cancelled_call_fails_at_its_next_report() {
        let cancel = Cancel::default();
        let mut sink = |_| {};
        let mut reporter = Reporter::new(&mut sink, cancel.clone());
        reporter.report(Stage::Updating, 0).unwrap();
        cancel.cancel();
        assert!(matches!(reporter.report(Stage::Updating, 0), Err(Error::Cancelled)));
    }
}
