//! How each row is measured.

mod capture;
mod density;
mod lifecycle;

use super::{
    floor,
    peers::Peers,
    row::{Measured, Name},
    world::World,
};
use crate::commands::Failure;
use std::collections::HashMap;

/// More say nothing new about the floor.
const FLOOR_RUNS: usize = 500;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// Measurements a row.
    pub(crate) runs: usize,
    /// Callers of the throughput row.
    pub(crate) callers: usize,
    /// Bytes of the big layer.
    pub(crate) big_bytes: u64,
    /// Files of the big layer.
    pub(crate) big_files: u64,
    /// Sandboxes that are live in the rows about many.
    pub(crate) live: usize,
}

/// A running bench: the server, the sizes, and what rows pass on to later ones.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The server and what is on it.
    pub(crate) world: World,
    /// How much.
    pub(crate) sizes: Sizes,
    /// The peers, if they are wanted.
    pub(crate) peers: Option<Peers>,
    /// Medians of the rows so far.
    pub(crate) medians: HashMap<Name, f64>,
    /// The sandbox with the big layer, once it is made.
    big: Option<String>,
    /// Medians of the capture times: small layer, big layer.
    captures: [Option<f64>; 2],
    /// The many idle sandboxes, once they are made.
    live: Vec<String>,
    /// Memory of one more idle sandbox, in MiB, once it was measured.
    marginal: Option<density::Marginal>,
}

impl Bench {
    /// Nothing measured yet.
    pub(crate) fn new(world: World, sizes: Sizes, peers: Option<Peers>) -> Self {
        Self {
            world,
            sizes,
            peers,
            medians: HashMap::new(),
            big: None,
            captures: [None, None],
            live: Vec::new(),
            marginal: None,
        }
    }

    /// Measures one row.
    pub(crate) async fn measure(&mut self, name: Name) -> Result<Measured, Failure> {
        match name {
            Name::Floor => floor::measure(self.sizes.runs.min(FLOOR_RUNS)).await,
            Name::Create => self.create(self.sizes.runs).await,
            Name::Exec => self.exec().await,
            Name::ExecParallel => self.exec_parallel().await,
            Name::Checkpoint => self.checkpoint().await,
            Name::PauseSmall => self.pause(capture::Size::Small, false).await,
            Name::PauseBig => self.pause(capture::Size::Big, false).await,
            Name::CaptureRatio => Ok(self.capture_ratio()),
            Name::PauseSmallNeighbour => self.pause(capture::Size::Small, true).await,
            Name::PauseBigNeighbour => self.pause(capture::Size::Big, true).await,
            Name::Restore => self.restore().await,
            Name::Fork => self.fork().await,
            Name::ForksParallel => self.forks_parallel().await,
            Name::IdleMemory => self.idle_memory().await,
            Name::CreateAmongMany => self.create_among_many().await,
            peer => match &mut self.peers {
                Some(peers) => peers.measure(peer, self.sizes.runs, &self.medians).await,
                None => Ok(Measured::nothing("not asked for")),
            },
        }
    }

    /// Gives back what is only kept for rows up to this one.
    pub(crate) async fn release(&mut self, after: Name, chosen: &[Name]) -> Result<(), Failure> {
        let later = |names: &[Name]| chosen.iter().any(|name| *name > after && names.contains(name));
        if !later(&[Name::PauseBig, Name::PauseBigNeighbour])
            && let Some(big) = self.big.take()
        {
            self.world.remove_sandbox(&big).await?;
        }
        if !later(&[Name::IdleMemory, Name::CreateAmongMany]) {
            let live = std::mem::take(&mut self.live);
            self.world.remove_sandboxes(live).await?;
        }
        Ok(())
    }

    /// Removes everything that rows have made.
    pub(crate) async fn reset(&mut self) -> Result<(), Failure> {
        self.big = None;
        self.live.clear();
        self.marginal = None;
        self.world.clear().await
    }
}
