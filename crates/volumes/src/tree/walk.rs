//! Walking several trees in step, with bounded memory, stack and descriptors whatever the depth.

use super::place::{Place, PlaceId};
use super::{MAX_ENTRIES, MAX_PATH};
use crate::error::{Error, Result, sandbox_path};

/// How many directories of the way down stay open. Above, they are opened again when needed and
/// must then be the same.
const WINDOW: usize = 48;

/// What the walk did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A directory was entered: look at it, then queue those below it.
    Enter,
    /// Everything below the directory is done.
    Leave,
}

#[derive(Debug)]
struct Frame<const K: usize> {
    places: Option<[Place; K]>,
    ids: [PlaceId; K],
    /// Length of this directory's path.
    path_len: usize,
    children: std::vec::IntoIter<Box<[u8]>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Entered,
    Left,
}

/// A depth-first walk over the same paths of `K` trees.
#[derive(Debug)]
pub(crate) struct Walk<const K: usize> {
    frames: Vec<Frame<K>>,
    path: Vec<u8>,
    looked_at: u64,
}

impl<const K: usize> Walk<K> {
    pub(crate) fn new(roots: [Place; K]) -> Self {
        let mut walk = Self { frames: Vec::new(), path: Vec::new(), looked_at: 0 };
        walk.push(roots);
        walk
    }

    /// Goes on to the next directory; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Step>> {
        if self.frames.last().is_some_and(|f| f.state == State::Left) {
            self.frames.pop();
            let len = self.frames.last().map_or(0, |f| f.path_len);
            self.path.truncate(len);
        }
        let Some(frame) = self.frames.last_mut() else {
            return Ok(None);
        };
        if frame.state == State::New {
            frame.state = State::Entered;
            return Ok(Some(Step::Enter));
        }
        let Some(name) = frame.children.next() else {
            frame.state = State::Left;
            return Ok(Some(Step::Leave));
        };
        let top = self.frames.len() - 1;
        self.path.push(b'/');
        self.path.extend_from_slice(&name);
        if self.path.len() > MAX_PATH {
            return Err(Error::TooDeep { path: sandbox_path(&self.path[..200]), limit: MAX_PATH });
        }
        self.open(top)?;
        let places = self.below(top, self.path.len())?;
        self.push(places);
        self.frames[top + 1].state = State::Entered;
        Ok(Some(Step::Enter))
    }

    /// The directories below the current one to visit, in this order.
    pub(crate) fn queue(&mut self, children: Vec<Box<[u8]>>) {
        if let Some(frame) = self.frames.last_mut() {
            frame.children = children.into_iter();
        }
    }

    /// Counts entries that are being looked at against the limit of one walk.
    pub(crate) fn count(&mut self, entries: usize) -> Result<()> {
        self.looked_at += entries as u64;
        if self.looked_at > MAX_ENTRIES {
            return Err(Error::TooManyEntries { path: sandbox_path(&self.path), limit: MAX_ENTRIES });
        }
        Ok(())
    }

    /// Path of the current directory; empty for the root.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Path of the directory at this depth; empty for the root.
    pub(crate) fn path_at(&self, depth: usize) -> &[u8] {
        &self.path[..self.frames[depth].path_len]
    }

    /// Depth of the current directory; the root has 0.
    pub(crate) fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    /// The current directory in each tree.
    pub(crate) fn places(&mut self) -> Result<&mut [Place; K]> {
        self.places_at(self.depth())
    }

    /// A directory on the way to the current one in each tree.
    pub(crate) fn places_at(&mut self, depth: usize) -> Result<&mut [Place; K]> {
        self.open(depth)?;
        let closed = || Error::Changed { path: sandbox_path(&self.path) };
        self.frames[depth].places.as_mut().ok_or_else(closed)
    }

    /// Takes note that a directory on the way was changed by the walker itself.
    pub(crate) fn settle_at(&mut self, depth: usize) {
        let frame = &mut self.frames[depth];
        if let Some(places) = &frame.places {
            frame.ids = std::array::from_fn(|k| places[k].id());
        }
    }

    fn push(&mut self, places: [Place; K]) {
        let ids = std::array::from_fn(|k| places[k].id());
        let path_len = self.path.len();
        let children = Vec::new().into_iter();
        self.frames.push(Frame { places: Some(places), ids, path_len, children, state: State::New });
        self.close_outside(self.frames.len() - 1);
    }

    /// Keeps the root and the window above `depth` open, and nothing else.
    fn close_outside(&mut self, depth: usize) {
        if let Some(last) = depth.checked_sub(WINDOW) {
            for frame in self.frames[..=last].iter_mut().skip(1).rev() {
                if frame.places.take().is_none() {
                    break;
                }
            }
        }
    }

    /// Opens the directory at this depth again if it was closed.
    fn open(&mut self, depth: usize) -> Result<()> {
        if self.frames[depth].places.is_some() {
            return Ok(());
        }
        let nearest = (0..depth).rev().find(|d| self.frames[*d].places.is_some()).unwrap_or(0);
        for d in nearest + 1..=depth {
            let places = self.below(d - 1, self.frames[d].path_len)?;
            let ids: [PlaceId; K] = std::array::from_fn(|k| places[k].id());
            if ids != self.frames[d].ids {
                return Err(self.changed(d));
            }
            self.frames[d].places = Some(places);
            if d > nearest + WINDOW {
                self.frames[d - WINDOW].places = None;
            }
        }
        Ok(())
    }

    /// The places one component below `depth`, on the current path up to `path_len`.
    fn below(&self, depth: usize, path_len: usize) -> Result<[Place; K]> {
        let frame = &self.frames[depth];
        let path = &self.path[..path_len];
        let name = &path[frame.path_len + 1..];
        let Some(parents) = &frame.places else {
            return Err(self.changed(depth));
        };
        let made = parents.iter().map(|parent| parent.child(name, path)).collect::<Result<Vec<_>>>()?;
        made.try_into().map_err(|_| self.changed(depth))
    }

    fn changed(&self, depth: usize) -> Error {
        Error::Changed { path: sandbox_path(self.path_at(depth)) }
    }
}
