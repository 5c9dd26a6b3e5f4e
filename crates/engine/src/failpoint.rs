//! Named points at which a fault test lets the server die, to show that whatever it leaves is finished or undone.
//!
//! `FORKPOINT_FAILPOINT` of a server's environment arms one of them: `create.rows` kills the server when it first
//! comes to that point, `create.rows:3` when it comes there for the third time, and `@/some/file` whenever that file
//! names the point just reached. Unarmed, as always outside of tests, a point costs one relaxed load.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A step after which the server may be lost.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// Operation and step, as the environment names them.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// The rows of new sandboxes are written.
    CreateRows = "create.rows",
    /// The layer of a new sandbox is made.
    CreateLayer = "create.layer",
    /// A new sandbox runs.
    CreateLaunched = "create.launched",
    /// The rows of new sandboxes say that they run.
    CreateRunning = "create.running",
    /// The processes of a creation that failed are ended.
    UndoEnded = "undo.ended",
    /// The layer of a creation that failed is removed.
    UndoLayer = "undo.layer",
    /// The row of a creation that failed is removed.
    UndoRow = "undo.row",
    /// A sandbox that is being started has a network slot.
    LaunchSlot = "launch.slot",
    /// It has a control group.
    LaunchGroup = "launch.group",
    /// Its processes run, and nothing remembers them.
    LaunchJail = "launch.jail",
    /// It is remembered on disk.
    LaunchRemembered = "launch.remembered",
    /// Its first process is watched.
    LaunchWatched = "launch.watched",
    /// A sandbox that is being ended is no longer remembered; its processes run.
    EndForgotten = "end.forgotten",
    /// Its processes are ended.
    EndKilled = "end.killed",
    /// Its control group is removed.
    EndGroup = "end.group",
    /// Its network slot is cut off.
    EndSlot = "end.slot",
    /// A layer is made, and holds nothing but what it was made from.
    LayerMade = "layer.made",
    /// What else belongs into the layer is put there.
    LayerGrafted = "layer.grafted",
    /// What was dirty in a layer that is being captured is written out.
    CaptureFlushed = "capture.flushed",
    /// Its sandbox stands still.
    CaptureFrozen = "capture.frozen",
    /// Its snapshot is made, and the sandbox still stands still.
    CaptureSnapshot = "capture.snapshot",
    /// The sandbox goes on.
    CaptureThawed = "capture.thawed",
    /// A checkpoint's layer is captured.
    CheckpointCaptured = "checkpoint.captured",
    /// The checkpoint is counted.
    CheckpointMeasured = "checkpoint.measured",
    /// The checkpoint's row is written.
    CheckpointRow = "checkpoint.row",
    /// A layer beside holds what an archive has.
    ImportFilled = "import.filled",
    /// The layer of a checkpoint that is being imported is made.
    ImportLayer = "import.layer",
    /// Its row is written.
    ImportRow = "import.row",
    /// The processes of a sandbox are ended since its tree is read for the restore.
    RestoreStill = "restore.still",
    /// The layer that is restored is made.
    RestoreLayer = "restore.layer",
    /// The processes on the old layer are ended.
    RestoreEnded = "restore.ended",
    /// The sandbox runs on the new layer.
    RestoreLaunched = "restore.launched",
    /// The row names the new layer.
    RestoreRow = "restore.row",
    /// A sandbox that goes back to the layer its row names has no processes.
    BackEnded = "back.ended",
    /// It runs on that layer again.
    BackLaunched = "back.launched",
    /// The checkpoint between a sandbox and its forks is made.
    ForkCheckpoint = "fork.checkpoint",
    /// The forks are made.
    ForkMade = "fork.made",
    /// A stopped sandbox runs again, and its row says that it is stopped.
    StartLaunched = "start.launched",
    /// Its row says that it runs.
    StartRow = "start.row",
    /// The processes of a sandbox that is being stopped are ended, and its row says that it runs.
    StopEnded = "stop.ended",
    /// Its row says that it is stopped.
    StopRow = "stop.row",
    /// The row of a sandbox is deleted; it runs.
    DeleteRow = "delete.row",
    /// The processes of a deleted sandbox are ended.
    DeleteEnded = "delete.ended",
    /// The row of a checkpoint is deleted; its layer is there.
    CheckpointDeleteRow = "checkpoint_delete.row",
    /// A writer has told the vault of itself, and has written nothing.
    VaultLeased = "vault.leased",
    /// A pack is in the vault, and no record needs it.
    VaultPacked = "vault.packed",
    /// The record of a checkpoint is in the vault; the row says that it is captured.
    VaultRecorded = "vault.recorded",
    /// The row says that the checkpoint is durable.
    DurableRow = "durable.row",
    /// All of it was read back; the row says that it is durable.
    VerifiedRead = "verified.read",
    /// The row says that it is verified.
    VerifiedRow = "verified.row",
    /// The record of a deleted checkpoint is removed from the vault.
    ForgetRecord = "forget.record",
    /// The layer of a verified checkpoint is removed from this machine.
    EvictDropped = "evict.dropped",
    /// A layer is read back from the vault, beside the place where it belongs.
    ColdFetched = "cold.fetched",
    /// It is where it belongs.
    ColdPlaced = "cold.placed",
    /// What is needed of packs that are to go is written into new ones.
    VaultRewritten = "vault.rewritten",
    /// A pack is marked to go.
    VaultCondemned = "vault.condemned",
    /// A pack that was marked is removed.
    VaultSwept = "vault.swept",
    /// A layer was found to be needed by nothing.
    CollectChosen = "collect.chosen",
    /// That layer is removed.
    CollectDropped = "collect.dropped",
    /// A sandbox was found to have lived its time.
    ExpiryDue = "expiry.due",
    /// A sandbox of an earlier server is taken over.
    AdoptTaken = "adopt.taken",
    /// What an earlier server left half-made is ended.
    AdoptEnded = "adopt.ended",
    /// The processes of a half-made sandbox are ended, its row is there.
    RecoverEnded = "recover.ended",
    /// Its row is removed.
    RecoverRow = "recover.row",
    /// The sandbox of a recipe's step runs.
    BuildSandbox = "build.sandbox",
    /// What a recipe's step did is captured; its sandbox runs.
    BuildStep = "build.step",
    /// The template that a recipe describes is there; nobody was told.
    BuildPublished = "build.published",
    /// The row of a sandbox that ended by itself says so; what it held is not freed.
    LostRecorded = "lost.recorded",
}

/// No point is armed.
const NONE: u8 = 0;
/// A file names the point.
const BY_FILE: u8 = u8::MAX;

/// `NONE`, `BY_FILE`, or the armed point's place in `Point::ALL` plus 1.
static ARMED: AtomicU8 = AtomicU8::new(NONE);
/// How often the armed point has still to be passed; the last time is deadly.
static LEFT: AtomicU32 = AtomicU32::new(0);
static DEATH: OnceLock<Death> = OnceLock::new();

struct Death {
    die: fn() -> !,
    file: PathBuf,
}

/// What was to be armed makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotArm {
    /// There is no such point.
    #[error("there is no fail point '{name}'; there are {}", Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// As it was given.
        name: String,
    },
    /// It is not said sensibly when to fail.
    #[error("the fail point '{0}' must be followed by nothing or by ':' and a number from 1 on")]
    Count(String),
    /// A process is armed once.
    #[error("a fail point is armed already")]
    Armed,
}

/// Arms what `text` says (see the module); `die` ends the process at once, without any tidying up.
pub fn arm(text: &str, die: fn() -> !) -> Result<(), CannotArm> {
    let (armed, left, file) = match text.strip_prefix('@') {
        Some(file) => (BY_FILE, 0, PathBuf::from(file)),
        None => {
            let (at, times) = parse(text)?;
            (at, times, PathBuf::new())
        }
    };
    DEATH.set(Death { die, file }).map_err(|_| CannotArm::Armed)?;
    LEFT.store(left, Ordering::Relaxed);
    ARMED.store(armed, Ordering::Release);
    Ok(())
}

/// The point's place plus 1, and how often it has to be passed.
fn parse(text: &str) -> Result<(u8, u32), CannotArm> {
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, times.parse().ok().filter(|times| *times > 0)),
        None => (text, Some(1)),
    };
    let at = Point::ALL.iter().find(|point| point.name() == name).map(|point| *point as u8 + 1);
    let at = at.ok_or_else(|| CannotArm::Unknown { name: name.to_owned() })?;
    Ok((at, times.ok_or_else(|| CannotArm::Count(name.to_owned()))?))
}

/// Says that a step is done. Does not return if that is where the server is to die.
#[inline]
pub fn pass(point: Point) {
    let armed = ARMED.load(Ordering::Relaxed);
    if armed != NONE {
        pass_armed(point, armed);
    }
}

#[cold]
fn pass_armed(point: Point, armed: u8) {
    let Some(death) = DEATH.get() else { return };
    let due = if armed == BY_FILE {
        std::fs::read_to_string(&death.file).is_ok_and(|text| text.trim() == point.name())
    } else {
        armed == point as u8 + 1 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1
    };
    if due {
        (death.die)();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(Point::ALL.len() < usize::from(BY_FILE));
    }

    #[test]
    fn unknown_points_and_senseless_counts_are_refused() {
        assert_eq!(parse("create.rows"), Ok((1, 1)));
        assert_eq!(parse("create.layer:3"), Ok((2, 3)));
        assert_eq!(parse("create.rows:0"), Err(CannotArm::Count("create.rows".into())));
        assert_eq!(parse("create.rows:x"), Err(CannotArm::Count("create.rows".into())));
        let unknown = parse("create.row").unwrap_err().to_string();
        assert!(unknown.contains("'create.row'") && unknown.contains("create.rows, create.layer"), "{unknown}");
    }
}
