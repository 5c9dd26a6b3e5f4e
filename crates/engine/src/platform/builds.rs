//! Builds of recipes that are in progress, and how much of what they made is kept.

use crate::{Error, Result};
use forkpoint_domain::{
    ids::{BuildId, OrgId},
    template::TemplateName,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// Builds at a time; each holds the files that were sent with its recipe.
const AT_ONCE: usize = 16;
/// How many of them one organisation may have: the others are to find places, too.
const AT_ONCE_OF_ONE: usize = 6;

/// How much of what recipes' steps made is kept for later builds. What was not used longest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildCache {
    /// The most outcomes of steps.
    pub layers: u64,
    /// The most bytes, each outcome counted as a whole: those of one recipe share most of it, so that less is taken.
    pub bytes: u64,
}

impl Default for BuildCache {
    fn default() -> Self {
        Self { layers: 500, bytes: 20 << 30 }
    }
}

/// Builds in progress.
#[derive(Debug, Default, Clone)]
pub(crate) struct Builds {
    state: Arc<Mutex<State>>,
    ending: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<BuildId, OrgId>,
    turns: HashMap<(OrgId, TemplateName), Weak<AsyncMutex<()>>>,
}

/// A build's place among those in progress, given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    builds: Builds,
    id: BuildId,
}

impl Builds {
    /// Takes a place, or refuses when there is none.
    pub(crate) fn begin(&self, org: OrgId, id: BuildId) -> Result<Place> {
        let mut state = self.state();
        if state.live.len() >= AT_ONCE || self.ending.is_cancelled() {
            return Err(Error::Unavailable(format!(
                "{} builds are in progress, and at most {AT_ONCE} may be; nothing was done",
                state.live.len()
            )));
        }
        let own = state.live.values().filter(|owner| **owner == org).count();
        if own >= AT_ONCE_OF_ONE {
            return Err(Error::Unavailable(format!(
                "{own} builds of this organisation are in progress, and at most {AT_ONCE_OF_ONE} may be; nothing was \
                 done"
            )));
        }
        state.live.insert(id, org);
        Ok(Place { builds: self.clone(), id })
    }

    /// Whether a build is in progress.
    pub(crate) fn is_live(&self, id: &str) -> bool {
        id.parse().is_ok_and(|id| self.state().live.contains_key(&id))
    }

    /// Whose turn it is to build a template: two builds of one recipe do not do the same steps twice.
    pub(crate) fn turn(&self, org: OrgId, name: &TemplateName) -> Arc<AsyncMutex<()>> {
        let mut state = self.state();
        state.turns.retain(|_, turn| turn.strong_count() > 0);
        let known = state.turns.get(&(org, name.clone())).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            state.turns.insert((org, name.clone()), Arc::downgrade(&turn));
            turn
        })
    }

    /// Ends all builds, and lets none begin.
    pub(crate) fn end_all(&self) {
        self.ending.cancel();
    }

    /// Resolves when builds are to end.
    pub(crate) async fn ending(&self) {
        self.ending.cancelled().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.builds.state().live.remove(&self.id);
    }
}

/// The right to build, as long as it is held.
pub(crate) type Turn = OwnedMutexGuard<()>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(number: usize) -> BuildId {
        BuildId::from_uuid(Uuid::from_u128(number as u128))
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let builds = Builds::default();
        let org = |number: usize| OrgId::from_uuid(Uuid::from_u128(number as u128));
        let mut places: Vec<_> =
            (0..AT_ONCE).map(|number| builds.begin(org(number / 4), id(number)).unwrap()).collect();
        assert!(builds.begin(org(9), id(99)).unwrap_err().to_string().contains("at most 16"));
        assert!(builds.is_live(&id(3).to_string()) && !builds.is_live("bld-nonsense"));
        places.pop();
        drop(builds.begin(org(9), id(99)).unwrap());
        places.truncate(4);
        places.extend((50..52).map(|number| builds.begin(org(0), id(number)).unwrap()));
        assert!(builds.begin(org(0), id(99)).unwrap_err().to_string().contains("at most 6"));
        drop(builds.begin(org(9), id(99)).unwrap());
        builds.end_all();
        assert!(builds.begin(org(9), id(100)).is_err());
    }

    #[tokio::test]
    async fn one_template_is_built_once_at_a_time_others_meanwhile() {
        let builds = Builds::default();
        let org = OrgId::from_uuid(Uuid::from_u128(1));
        let name = |text: &str| TemplateName::parse(text).unwrap();
        let first = builds.turn(org, &name("a")).lock_owned().await;
        assert!(builds.turn(org, &name("a")).try_lock_owned().is_err());
        assert!(builds.turn(org, &name("b")).try_lock_owned().is_ok());
        drop(first);
        assert!(builds.turn(org, &name("a")).try_lock_owned().is_ok());
    }
}
