//! One line of the bench: what is measured, what it should reach, and what it came to.

use super::stats::Summary;
use serde::Serialize;

/// Every measurement there is, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "`what` describes each")]
pub(crate) enum Name {
    Floor,
    Create,
    Exec,
    ExecParallel,
    Checkpoint,
    PauseSmall,
    PauseBig,
    CaptureRatio,
    PauseSmallNeighbour,
    PauseBigNeighbour,
    Restore,
    Fork,
    ForksParallel,
    IdleMemory,
    CreateAmongMany,
    PodmanCreate,
    PodmanExec,
    PodmanCheckpoint,
    PodmanFork,
    RunscCreate,
    RunscExec,
}

/// In what a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Times a second; more is better.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Mebibytes.
    #[serde(rename = "MiB")]
    Mebibytes,
    /// A plain ratio.
    #[serde(rename = "x")]
    Ratio,
}

impl Unit {
    /// As it is written behind a figure.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::PerSecond => "1/s",
            Self::Mebibytes => "MiB",
            Self::Ratio => "x",
        }
    }
}

/// Which figure a target is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as in the summary")]
pub(crate) enum Statistic {
    P50,
    P95,
    P99,
}

/// A bound that a figure should keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Target {
    /// Which figure.
    pub(crate) statistic: Statistic,
    /// `true`: at most the bound; `false`: at least.
    pub(crate) at_most: bool,
    /// In the row's unit.
    pub(crate) bound: f64,
}

impl Target {
    /// A figure that may have at most this value.
    pub(crate) const fn most(statistic: Statistic, bound: f64) -> Self {
        Self { statistic, at_most: true, bound }
    }

    /// A figure that must have at least this value.
    pub(crate) const fn least(statistic: Statistic, bound: f64) -> Self {
        Self { statistic, at_most: false, bound }
    }

    /// Whether a series keeps it.
    pub(crate) fn reached(&self, summary: &Summary) -> bool {
        let figure = match self.statistic {
            Statistic::P50 => summary.p50,
            Statistic::P95 => summary.p95,
            Statistic::P99 => summary.p99,
        };
        if self.at_most { figure <= self.bound } else { figure >= self.bound }
    }
}

/// What a measurement gave, before it is judged.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// In the row's unit.
    pub(crate) samples: Vec<f64>,
    /// Targets that are only known now, in place of the fixed ones.
    pub(crate) targets: Option<Vec<Target>>,
    /// What else there is to know.
    pub(crate) note: String,
}

impl From<Vec<f64>> for Measured {
    fn from(samples: Vec<f64>) -> Self {
        Self { samples, ..Self::default() }
    }
}

impl Measured {
    /// Nothing was measured, and why.
    pub(crate) fn nothing(note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::default() }
    }

    /// With something to know.
    pub(crate) fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// Which measurement.
    pub(crate) name: Name,
    /// What it is.
    pub(crate) what: &'static str,
    /// In what it counts.
    pub(crate) unit: Unit,
    /// What it came to; `None` when nothing was measured, the note says why.
    pub(crate) summary: Option<Summary>,
    /// Median over the floor's median, for times.
    pub(crate) floor_ratio: Option<f64>,
    /// What it should reach.
    pub(crate) targets: Vec<Target>,
    /// Whether it reaches all of that; `None` without targets or figures.
    pub(crate) reached: Option<bool>,
    /// Whether measuring it failed.
    pub(crate) failed: bool,
    /// What else there is to know.
    pub(crate) note: String,
}

impl Row {
    /// Judges what was measured.
    pub(crate) fn judge(name: Name, measured: Measured, floor_p50: Option<f64>) -> Self {
        let unit = name.unit();
        let summary = Summary::of(&measured.samples, unit == Unit::PerSecond);
        let targets = measured.targets.unwrap_or_else(|| name.targets());
        let reached = summary
            .filter(|_| !targets.is_empty())
            .map(|summary| targets.iter().all(|target| target.reached(&summary)));
        let floor_ratio = match (unit, summary, floor_p50) {
            (Unit::Millis, Some(summary), Some(floor)) if floor > 0.0 => Some(summary.p50 / floor),
            _ => None,
        };
        Self {
            name,
            what: name.what(),
            unit,
            summary,
            floor_ratio,
            targets,
            reached,
            failed: false,
            note: measured.note,
        }
    }

    /// A measurement that failed.
    pub(crate) fn failure(name: Name, why: String) -> Self {
        Self { failed: true, ..Self::judge(name, Measured::nothing(format!("failed: {why}")), None) }
    }
}

impl Name {
    /// Whether it measures something else than this server.
    pub(crate) fn is_peer(self) -> bool {
        self >= Self::PodmanCreate
    }

    /// The name as on the command line.
    pub(crate) fn as_str(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What is measured.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Floor => {
                "the kernel's floor: clone of five namespaces, overlay and bind mounts, pivot_root, exec of true, exit"
            }
            Self::Create => "create until a command answers",
            Self::Exec => "exec of true, one caller",
            Self::ExecParallel => "exec of true, several callers, each in a sandbox of its own",
            Self::Checkpoint => "checkpoint answered, 1,000 changed files",
            Self::PauseSmall => "pause of the source at capture, small layer",
            Self::PauseBig => "pause of the source at capture, big layer",
            Self::CaptureRatio => "capture time of the big layer over that of the small one, medians",
            Self::PauseSmallNeighbour => "pause, small layer, a neighbour writing hard",
            Self::PauseBigNeighbour => "pause, big layer, a neighbour writing hard",
            Self::Restore => "restore in place until a command answers",
            Self::Fork => "fork until a command answers",
            Self::ForksParallel => "100 forks of one checkpoint by 10 callers, each answering",
            Self::IdleMemory => "memory of one more idle sandbox, with many live",
            Self::CreateAmongMany => "create until a command answers, with many live",
            Self::PodmanCreate => "podman: run of true until it has ended",
            Self::PodmanExec => "podman: exec of true",
            Self::PodmanCheckpoint => "podman: commit, 1,000 changed files",
            Self::PodmanFork => "podman: run of true from that commit",
            Self::RunscCreate => "runsc: run of true until it has ended",
            Self::RunscExec => "runsc: exec of true",
        }
    }

    /// In what it counts.
    pub(crate) const fn unit(self) -> Unit {
        match self {
            Self::ExecParallel => Unit::PerSecond,
            Self::IdleMemory => Unit::Mebibytes,
            Self::CaptureRatio => Unit::Ratio,
            _ => Unit::Millis,
        }
    }

    fn targets(self) -> Vec<Target> {
        use Statistic::{P50, P95, P99};
        match self {
            Self::Create => vec![Target::most(P50, 15.0), Target::most(P99, 60.0)],
            Self::Exec => vec![Target::most(P50, 2.5)],
            Self::ExecParallel => vec![Target::least(P50, 700.0)],
            Self::Checkpoint => vec![Target::most(P50, 15.0)],
            Self::PauseSmall | Self::PauseBig => vec![Target::most(P50, 6.0), Target::most(P95, 10.0)],
            Self::CaptureRatio => vec![Target::most(P50, 2.5)],
            Self::PauseSmallNeighbour | Self::PauseBigNeighbour => vec![Target::most(P95, 50.0)],
            Self::Restore => vec![Target::most(P50, 25.0)],
            Self::Fork => vec![Target::most(P50, 18.0)],
            Self::ForksParallel => vec![Target::most(P50, 1500.0)],
            Self::IdleMemory => vec![Target::most(P50, 4.0)],
            _ => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_by_all_their_targets() {
        let judge = |name, samples: &[f64]| Row::judge(name, samples.to_vec().into(), Some(2.0));
        let row = judge(Name::Create, &[10.0, 12.0, 14.0]);
        assert_eq!((row.reached, row.floor_ratio), (Some(true), Some(6.0)));
        assert_eq!(judge(Name::Create, &[10.0, 12.0, 70.0]).reached, Some(false));
        let rate = judge(Name::ExecParallel, &[600.0, 800.0, 900.0]);
        assert_eq!((rate.reached, rate.floor_ratio), (Some(true), None));
        assert_eq!(judge(Name::ExecParallel, &[600.0, 650.0, 900.0]).reached, Some(false));
        assert_eq!(judge(Name::Create, &[]).reached, None);
        assert_eq!(judge(Name::Floor, &[1.0]).reached, None);
        assert!(Row::failure(Name::Fork, "x".into()).failed);
    }
}
