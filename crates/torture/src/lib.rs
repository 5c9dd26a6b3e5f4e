//! Tortures a real server and its vault: random operations, kills at any instant and at every named step, stores
//! that are full, fail and lie, and objects that rot. After each cycle every checkpoint that was answered ready
//! must be there and equal to a model; at the end nothing may be left over.

mod check;
mod endpoint;
pub mod moto;
mod points;
mod program;
mod rot;
mod store;
mod tree;
mod world;

use anyhow::{Context, ensure};
use program::Program;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use rustix::process::{Signal, kill_process};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};
use store::{Kind, Store};
use world::{Op, Outcome, World};

/// A new server with a new store after so many cycles.
const EPISODE: u32 = 25;
/// How long after the first operation the server is killed, at most.
const LATEST_KILL: Duration = Duration::from_millis(600);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `forkpoint` program.
    pub program: PathBuf,
    /// Where the randomness comes from.
    pub seed: u64,
    /// Which cycle is the first, from 0 on: those before it are left out. Rounded down to a new server.
    pub first: u32,
    /// How many cycles.
    pub cycles: u32,
    /// Called with a line about each cycle.
    pub tell: fn(&str),
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    /// Cycles done.
    pub cycles: u32,
    /// Operations that were answered.
    pub operations: u64,
    /// Deaths of a server or a collection, at random instants and at named points.
    pub deaths: u64,
    /// How often each named point was deadly.
    pub points: BTreeMap<&'static str, u32>,
    /// Times in which the store failed.
    pub ailing: u64,
    /// Requests that met a fault of the object store.
    pub faults_met: u64,
    /// Objects that rotted; all were noticed.
    pub rotten: u64,
    /// Restores and forks and the like that were refused while the store failed.
    pub refused: u64,
    /// Checkpoints looked at after cycles; all were there and right.
    pub checkpoints: u64,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unreached: Vec<_> = points::all().filter(|name| !self.points.contains_key(name)).collect();
        writeln!(f, "cycles                         {}", self.cycles)?;
        writeln!(f, "operations                     {}", self.operations)?;
        writeln!(f, "deaths                         {}", self.deaths)?;
        writeln!(f, "named points that were deadly  {} of {}", self.points.len(), points::all().count())?;
        writeln!(f, "times the store failed         {} ({} requests)", self.ailing, self.faults_met)?;
        writeln!(f, "refused meanwhile              {}", self.refused)?;
        writeln!(f, "objects that rotted            {}, all noticed", self.rotten)?;
        writeln!(f, "ready checkpoints looked at    {}, none lost or wrong", self.checkpoints)?;
        write!(f, "seconds                        {:.0}", self.took.as_secs_f64())?;
        if !unreached.is_empty() {
            write!(f, "\npoints that had no turn        {}", unreached.join(", "))?;
        }
        Ok(())
    }
}

/// What happens in a cycle beside random operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The server is killed at some instant.
    Instant,
    /// The server dies at this point.
    At(&'static str),
    /// The store fails for a while, then the server is killed.
    Ailing,
    /// An object rots.
    Rot,
}

/// Runs the cycles; fails with the cycle and how to see it again.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let began = Instant::now();
    let mut report = Report::default();
    let last = options.first + options.cycles;
    let mut cycle = options.first - options.first % EPISODE;
    while cycle < last {
        let end = (cycle + EPISODE).min(last);
        episode(options, cycle, end, &mut report).await.with_context(|| {
            let at = cycle + report.cycles % EPISODE;
            let (seed, count) = (options.seed, end - cycle);
            format!(
                "cycle {at} of seed {seed} failed; again: cargo xtask torture --seed {seed} --first {cycle} --cycles {count}"
            )
        })?;
        cycle = end;
    }
    report.took = began.elapsed();
    Ok(report)
}

/// The plan of each cycle from the seed alone: every point has its turn before one has its second.
fn plan(seed: u64, cycle: u32) -> (Plan, StdRng) {
    let mut random = StdRng::seed_from_u64(seed ^ (u64::from(cycle) << 32));
    let plan = match cycle % 4 {
        0 | 2 => {
            let at = (cycle / 2) as usize;
            let mut points: Vec<&'static str> = points::all().collect();
            let round = at / points.len();
            points.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(round as u64)));
            Plan::At(points[at % points.len()])
        }
        1 => Plan::Instant,
        _ if random.random_range(0..2) == 0 => Plan::Ailing,
        _ => Plan::Rot,
    };
    (plan, random)
}

/// Cycles with one server and one store.
async fn episode(options: &Options, first: u32, end: u32, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("fp-torture-").tempdir().context("make a directory")?;
    let kind = if (first / EPISODE).is_multiple_of(2) { Kind::Local } else { Kind::S3 };
    let store = Store::start(kind, folder.path(), options.seed ^ u64::from(first)).await?;
    let program = Program::new(&options.program, folder.path(), store.settings())?;
    let mut world = World::start(program, store).await?;
    for cycle in first..end {
        let began = Instant::now();
        let (plan, mut random) = plan(options.seed, cycle);
        let done = self::cycle(&mut world, plan, &mut random, report).await;
        if let Err(error) = done {
            let log = world.program.last_lines(40);
            return Err(error.context(format!("{kind:?} store, {plan:?}; the server's log ends:\n{log}\n")));
        }
        report.cycles += 1;
        report.checkpoints += world.saved.len() as u64;
        (options.tell)(&format!(
            "cycle {cycle}, {kind:?}, {plan:?}: {} checkpoints, {} sandboxes, {} ms",
            world.saved.len(),
            world.sandboxes.len(),
            began.elapsed().as_millis()
        ));
    }
    report.faults_met += world.store.faults_met();
    world.end().await.context("at the end of a server's life")
}

async fn cycle(world: &mut World, plan: Plan, random: &mut StdRng, report: &mut Report) -> anyhow::Result<()> {
    match plan {
        Plan::Instant => {
            let killer = kill_within(world, LATEST_KILL, random)?;
            let pending = operate(world, random, 60, report).await?;
            killer.await.context("the killer")?;
            come_back(world, pending, report).await?;
        }
        Plan::At(point) => {
            operate(world, random, 3, report).await?;
            if let Some(cut) = world.die_at(point, random).await? {
                world.program.arm(None)?;
                world.program.launch().await?;
                match cut.pending {
                    Some((op, key)) if cut.is_doomed => doomed(world, &op, &key).await?,
                    pending => finish(world, pending, report).await?,
                }
            }
            report.deaths += 1;
            *report.points.entry(point).or_default() += 1;
        }
        Plan::Ailing => {
            operate(world, random, 2, report).await?;
            let (sandbox, cold) = world.depend_on_store(random).await?;
            world.set_ailing(true);
            let what = world.store.fail(random)?;
            report.ailing += 1;
            let needs_store = [
                Op::Restore { sandbox: world.probe.id.clone(), checkpoint: cold },
                Op::Collect,
                Op::Checkpoint { sandbox, wait: true },
            ];
            // Storing is tried for longer than anybody wants to watch.
            let killer = kill_within(world, Duration::from_secs(4), random)?;
            let pending = in_turn(world, &needs_store, report).await;
            killer.await.context("the killer")?;
            world.program.kill()?;
            world.store.heal()?;
            let pending = pending.with_context(|| what.to_owned())?;
            come_back(world, pending, report).await?;
            // Only now: a request that is sent again must not be refused any more.
            world.set_ailing(false);
        }
        Plan::Rot => {
            operate(world, random, 4, report).await?;
            report.rotten += u64::from(world.rot(random).await?.is_some());
        }
    }
    world.check().await
}

/// Random operations, until so many are done or the server is lost; then what was not answered.
async fn operate(
    world: &mut World,
    random: &mut StdRng,
    count: u32,
    report: &mut Report,
) -> anyhow::Result<Option<(Op, String)>> {
    for _ in 0..count {
        let Some(op) = world.think(random) else { continue };
        let broken = in_turn(world, &[op], report).await?;
        if broken.is_some() {
            return Ok(broken);
        }
    }
    Ok(None)
}

/// These operations, until the server is lost; then what was not answered.
async fn in_turn(world: &mut World, ops: &[Op], report: &mut Report) -> anyhow::Result<Option<(Op, String)>> {
    for op in ops {
        let key = world.new_key();
        match world.perform(op, &key, false).await? {
            Outcome::Broken => return Ok(Some((op.clone(), key))),
            Outcome::Refused => report.refused += 1,
            Outcome::Done => report.operations += 1,
        }
    }
    Ok(None)
}

/// Kills the server at some instant before then. It is our child and is not waited for before this has ended.
fn kill_within(world: &World, longest: Duration, random: &mut StdRng) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let pid = world.program.pid().context("no server runs")?;
    let after = longest.mul_f64(random.random());
    Ok(tokio::spawn(async move {
        tokio::time::sleep(after).await;
        // It may have died by itself.
        let _ = kill_process(pid, Signal::KILL);
    }))
}

/// Starts a server again that was killed, and settles what it did not answer.
async fn come_back(world: &mut World, pending: Option<(Op, String)>, report: &mut Report) -> anyhow::Result<()> {
    ensure!(world.program.dies(Duration::from_secs(10)).await?, "no answer came to {pending:?}, and the server lives");
    report.deaths += 1;
    world.program.launch().await?;
    finish(world, pending, report).await
}

async fn finish(world: &mut World, pending: Option<(Op, String)>, report: &mut Report) -> anyhow::Result<()> {
    let Some((op, key)) = pending else { return Ok(()) };
    report.operations += 1;
    if let Op::Write { sandbox, .. } = op {
        // Nobody knows how far the command came.
        let key = world.new_key();
        world.perform(&Op::DeleteSandbox { sandbox }, &key, true).await?;
        return Ok(());
    }
    let outcome = world.perform(&op, &key, true).await.with_context(|| format!("sent again: {op:?}"))?;
    ensure!(outcome != Outcome::Broken, "the server was lost again at {op:?}");
    Ok(())
}

/// A request that could never succeed still fails in the right way.
async fn doomed(world: &mut World, op: &Op, key: &str) -> anyhow::Result<()> {
    let Op::Aside { path, body, .. } = op else { return Ok(()) };
    let answer = world.send(reqwest::Method::POST, path, body, key).await?;
    ensure!(points::is_refused(&answer.body), "{answer:?}");
    Ok(())
}

/// Points that have no turn in so many cycles; empty from twice as many cycles as there are points on.
pub fn points_without_turn(seed: u64, cycles: u32) -> BTreeSet<&'static str> {
    let turns: BTreeSet<&str> = (0..cycles)
        .filter_map(|cycle| match plan(seed, cycle).0 {
            Plan::At(point) => Some(point),
            _ => None,
        })
        .collect();
    points::all().filter(|name| !turns.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_turn_before_one_has_its_second() {
        assert_eq!(points_without_turn(5, 2 * points::all().count() as u32), BTreeSet::new());
        assert_eq!(points_without_turn(5, points::all().count() as u32).len(), points::all().count() / 2);
    }
}
