//! `forkpoint bench vault`: how layers go into the vault and come back, beside restic on the same files in the same
//! run where that is installed, and the memory of a server that stores a large checkpoint.

mod memory;
mod peer;
mod subject;
mod trees;

use super::{Stop, progress, stats::Summary};
use crate::{
    commands::{Failure, arguments},
    output::{Cell, Output},
};
use clap::ValueEnum;
use peer::Restic;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use subject::Subject;

/// What to measure of the vault, and where to write it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where files, stores and a server's data are made [default: the system's temporary directory]
    #[arg(long = "in", value_name = "DIR")]
    within: Option<PathBuf>,
    /// Rounds; the medians are told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Bytes of the mixed files: 10,000 small ones and 8 large ones
    #[arg(long, default_value = "1Gi", value_parser = arguments::bytes, value_name = "SIZE")]
    bytes: u64,
    /// Files of the layer that is stored unchanged
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    files: u64,
    /// Bytes of the checkpoint during which the server's memory is watched
    #[arg(long, default_value = "5Gi", value_parser = arguments::bytes, value_name = "SIZE")]
    memory_bytes: u64,
    /// Only this part; can be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// End with 1 when a target is not reached
    #[arg(long)]
    strict: bool,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Mixed files: stored, verified, stored again unchanged and changed, restored
    Mixed,
    /// Many unchanged files
    Unchanged,
    /// The stored size of ten related layers
    Related,
    /// A server's memory while it stores a large checkpoint
    Memory,
}

/// Every figure, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    PersistDurable,
    PersistVerified,
    PersistUnchanged,
    PersistChanged,
    PersistChangedBytes,
    Restore,
    ManyUnchanged,
    ManyUnchangedBytes,
    RelatedBytes,
    ServerMemory,
}

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// So many times as fast as restic.
    Faster(f64),
    /// At most so many times restic's bytes.
    Smaller(f64),
    /// At most this, in the figure's unit.
    Most(f64),
    /// Told for its own sake.
    None,
}

impl Name {
    /// What it is, its unit, and what it should reach.
    const fn about(self) -> (&'static str, &'static str, Goal) {
        match self {
            Self::PersistDurable => ("mixed new files until durable", "s", Goal::Faster(2.0)),
            Self::PersistVerified => ("mixed new files until verified", "s", Goal::Faster(1.3)),
            Self::PersistUnchanged => ("the same files again, unchanged", "s", Goal::None),
            Self::PersistChanged => ("the same files, 1 % of them changed", "s", Goal::None),
            Self::PersistChangedBytes => ("bytes sent for a changed byte", "x", Goal::Most(3.0)),
            Self::Restore => ("cold restore of the mixed files, synced", "s", Goal::Faster(2.0)),
            Self::ManyUnchanged => ("a layer of many small files again, unchanged", "ms", Goal::Most(400.0)),
            Self::ManyUnchangedBytes => ("bytes of file data sent for that", "bytes", Goal::Most(0.0)),
            Self::RelatedBytes => ("stored size of ten related layers", "MiB", Goal::Smaller(1.1)),
            Self::ServerMemory => ("memory of a server storing a large checkpoint", "MiB", Goal::Most(300.0)),
        }
    }
}

/// A figure that was measured.
#[derive(Debug, Serialize)]
struct Row {
    name: Name,
    what: &'static str,
    unit: &'static str,
    /// Median, worst and number of the measurements.
    ours: Summary,
    /// The same of restic, where it was measured.
    restic: Option<Summary>,
    /// How many times as fast as restic, or how many times its bytes.
    ratio: Option<f64>,
    target: String,
    reached: Option<bool>,
}

/// All measurements, ours and restic's.
#[derive(Debug, Default)]
struct Figures {
    series: BTreeMap<Name, (Vec<f64>, Vec<f64>)>,
    /// Set when the measurements are to end early.
    stop: Arc<AtomicBool>,
}

impl Figures {
    fn ours(&mut self, name: Name, figure: f64) {
        progress(&format!("{}: {figure:.3} {}", name.about().0, name.about().1));
        self.series.entry(name).or_default().0.push(figure);
    }

    fn restic(&mut self, name: Name, figure: f64) {
        progress(&format!("restic, {}: {figure:.3} {}", name.about().0, name.about().1));
        self.series.entry(name).or_default().1.push(figure);
    }

    fn rows(&self) -> Vec<Row> {
        self.series.iter().filter_map(|(name, (ours, restic))| Row::judge(*name, ours, restic)).collect()
    }

    /// Times some work. What was written before is not to be paid for in the measurement.
    fn settled<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<(Duration, T), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Other("interrupted".to_owned()));
        }
        rustix::fs::sync();
        let began = Instant::now();
        let value = work()?;
        Ok((began.elapsed(), value))
    }
}

impl Row {
    fn judge(name: Name, ours: &[f64], restic: &[f64]) -> Option<Self> {
        let (what, unit, goal) = name.about();
        let (ours, restic) = (Summary::of(ours, false)?, Summary::of(restic, false));
        let ratio = restic.map(|restic| match goal {
            Goal::Smaller(_) => ours.p50 / restic.p50,
            _ => restic.p50 / ours.p50,
        });
        let (target, reached) = match goal {
            Goal::Faster(times) => (format!("≥ {times} × restic"), ratio.map(|ratio| ratio >= times)),
            Goal::Smaller(times) => (format!("≤ {times} × restic"), ratio.map(|ratio| ratio <= times)),
            Goal::Most(bound) => (format!("≤ {bound} {unit}"), Some(ours.p50 <= bound)),
            Goal::None => ("-".to_owned(), None),
        };
        Some(Self { name, what, unit, ours, restic, ratio, target, reached })
    }

    fn cells(&self) -> [String; 6] {
        let show = |summary: &Summary| format!("{:.2} {}", summary.p50, self.unit);
        let none = || "-".to_owned();
        [
            self.what.to_owned(),
            show(&self.ours),
            self.restic.as_ref().map_or_else(none, show),
            self.ratio.map_or_else(none, |ratio| format!("{ratio:.2}")),
            self.target.clone(),
            self.reached.map_or_else(none, |reached| if reached { "yes" } else { "no" }.to_owned()),
        ]
    }
}

/// Measures what was asked for, and tells it; what was made is removed.
pub(super) async fn run(args: Args, output: Output, stop: &mut Stop) -> Result<u8, Failure> {
    if let Some(path) = &args.json {
        // A file that cannot be written must show now, not after the measurements.
        std::fs::write(path, "").map_err(Failure::io(format!("write {}", path.display())))?;
    }
    let parent = args.within.clone().unwrap_or_else(std::env::temp_dir);
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let sizes = (args.runs, args.bytes, args.files);
    let parts = [Part::Mixed, Part::Unchanged, Part::Related].map(wanted);
    let folder = parent.clone();
    let mut figures = Figures::default();
    let stopping = figures.stop.clone();
    let mut measuring =
        tokio::task::spawn_blocking(move || measure(&mut figures, &folder, sizes, parts).map(|()| figures));
    let measured = tokio::select! {
        measured = &mut measuring => measured,
        () = stop.wait() => {
            // It ends before its next step, and removes what it made.
            stopping.store(true, Ordering::Relaxed);
            measuring.await
        }
    };
    let mut figures = measured.map_err(|error| Failure::Other(error.to_string()))??;
    if wanted(Part::Memory) {
        figures.ours(Name::ServerMemory, memory::measure(&parent, args.memory_bytes, stop).await?);
    }
    let rows = figures.rows();
    let cells: Vec<Vec<Cell>> = rows.iter().map(|row| row.cells().into_iter().map(Cell::Text).collect()).collect();
    output.table(&["WHAT", "VAULT", "RESTIC", "RATIO", "TARGET", "REACHED"], &cells)?;
    if let Some(path) = &args.json {
        let report = serde_json::json!({
            "forkpoint": env!("CARGO_PKG_VERSION"),
            "restic": Restic::version(),
            "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
            "rows": rows,
        });
        std::fs::write(path, format!("{report:#}\n")).map_err(Failure::io(format!("write {}", path.display())))?;
    }
    Ok(u8::from(args.strict && rows.iter().any(|row| row.reached == Some(false))))
}

fn measure(
    figures: &mut Figures,
    parent: &Path,
    (runs, bytes, files): (u32, u64, u64),
    parts: [bool; 3],
) -> Result<(), Failure> {
    let has_restic = Restic::version().is_some();
    if !has_restic {
        progress("restic is not installed: nothing to compare with");
    }
    for _ in 0..runs {
        let folder = tempfile::Builder::new()
            .prefix("forkpoint-bench-")
            .tempdir_in(parent)
            .map_err(Failure::io(format!("make a directory in {}", parent.display())))?;
        let [mixed_wanted, unchanged_wanted, related_wanted] = parts;
        if mixed_wanted {
            mixed(figures, &folder.path().join("mixed"), bytes, has_restic)?;
        }
        if unchanged_wanted {
            unchanged(figures, &folder.path().join("unchanged"), files)?;
        }
        if related_wanted {
            related(figures, &folder.path().join("related"), bytes / 10, has_restic)?;
        }
    }
    Ok(())
}

fn mixed(figures: &mut Figures, folder: &Path, bytes: u64, has_restic: bool) -> Result<(), Failure> {
    let tree = folder.join("tree");
    trees::mixed(&tree, bytes)?;
    let subject = Subject::open(folder)?;
    let (durable, _) = figures.settled(|| subject.persist(&tree, 1, None))?;
    // The user waits for both, one after the other.
    let began = Instant::now();
    subject.verify(1)?;
    let verified = durable + began.elapsed();
    let restic = has_restic.then(|| Restic::new(folder)).transpose()?;
    let backup =
        restic.as_ref().map(|restic| figures.settled(|| restic.backup(&tree))).transpose()?.map(|(took, ())| took);
    figures.ours(Name::PersistDurable, durable.as_secs_f64());
    figures.ours(Name::PersistVerified, verified.as_secs_f64());
    let (again, _) = figures.settled(|| subject.persist(&tree, 2, Some(1)))?;
    figures.ours(Name::PersistUnchanged, again.as_secs_f64());
    if let (Some(restic), Some(backup)) = (&restic, backup) {
        figures.restic(Name::PersistDurable, backup.as_secs_f64());
        figures.restic(Name::PersistVerified, backup.as_secs_f64());
        figures.restic(Name::PersistUnchanged, figures.settled(|| restic.backup(&tree))?.0.as_secs_f64());
    }
    let changed = trees::change(&tree)?;
    let (took, sent) = figures.settled(|| subject.persist(&tree, 3, Some(2)))?;
    figures.ours(Name::PersistChanged, took.as_secs_f64());
    figures.ours(Name::PersistChangedBytes, sent.bytes_sent as f64 / changed.max(1) as f64);
    if let Some(restic) = &restic {
        figures.restic(Name::PersistChanged, figures.settled(|| restic.backup(&tree))?.0.as_secs_f64());
    }
    let restored = folder.join("restored");
    figures.ours(Name::Restore, figures.settled(|| subject.restore(3, &restored))?.0.as_secs_f64());
    trees::same(&tree, &restored)?;
    trees::remove(&restored)?;
    if let Some(restic) = &restic {
        let restored = folder.join("restored by restic");
        figures.restic(Name::Restore, figures.settled(|| restic.restore(&restored))?.0.as_secs_f64());
    }
    trees::remove(folder)
}

fn unchanged(figures: &mut Figures, folder: &Path, files: u64) -> Result<(), Failure> {
    let tree = folder.join("tree");
    trees::many(&tree, files)?;
    let subject = Subject::open(folder)?;
    subject.persist(&tree, 1, None)?;
    let (took, sent) = figures.settled(|| subject.persist(&tree, 2, Some(1)))?;
    figures.ours(Name::ManyUnchanged, took.as_secs_f64() * 1000.0);
    figures.ours(Name::ManyUnchangedBytes, sent.bytes_sent as f64);
    trees::remove(folder)
}

fn related(figures: &mut Figures, folder: &Path, bytes: u64, has_restic: bool) -> Result<(), Failure> {
    const MIB: f64 = 1_048_576.0;
    let tree = folder.join("tree");
    let subject = Subject::open(folder)?;
    let restic = has_restic.then(|| Restic::new(folder)).transpose()?;
    trees::project(&tree, bytes)?;
    for n in 1..=10 {
        subject.persist(&tree, n, n.checked_sub(1).filter(|before| *before > 0))?;
        if let Some(restic) = &restic {
            restic.backup(&tree)?;
        }
        trees::work_on(&tree, n)?;
    }
    figures.ours(Name::RelatedBytes, subject.stored()? as f64 / MIB);
    if let Some(restic) = &restic {
        figures.restic(Name::RelatedBytes, restic.stored()? as f64 / MIB);
    }
    trees::remove(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_judged_beside_restic_or_alone() {
        let judged = |name, ours: &[f64], restic: &[f64]| {
            let row = Row::judge(name, ours, restic).unwrap();
            (row.ratio, row.reached)
        };
        assert_eq!(judged(Name::PersistDurable, &[2.0, 9.0, 1.0], &[4.0]), (Some(2.0), Some(true)));
        assert_eq!(judged(Name::PersistVerified, &[2.0], &[2.0]), (Some(1.0), Some(false)));
        assert_eq!(judged(Name::PersistVerified, &[2.0], &[]), (None, None));
        assert_eq!(judged(Name::RelatedBytes, &[11.0], &[10.0]), (Some(1.1), Some(true)));
        assert_eq!(judged(Name::ManyUnchanged, &[401.0], &[]), (None, Some(false)));
        assert!(Row::judge(Name::Restore, &[], &[]).is_none());
    }
}
