//! What sandboxes may take of the host together. Whoever starts some is admitted before anything is done.

use crate::{Error, Result, ports::runtime::Room};
use forkpoint_domain::ids::SandboxId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Less room on disk than this is not enough to begin with, in bytes.
const LEAST_DISK_BYTES: u64 = 128 << 20;

/// The most that sandboxes may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sandboxes that run at a time.
    pub sandboxes: u32,
    /// Bytes that their memory limits may sum up to.
    pub memory_bytes: u64,
    /// Bytes of the host's memory that must be available beside them when one is started.
    pub memory_reserve_bytes: u64,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { sandboxes: 1000, memory_bytes: u64::MAX, memory_reserve_bytes: 0 }
    }
}

/// Who runs or is being started, and what was promised to them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Budget {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    memory: HashMap<SandboxId, u64>,
    total: u64,
}

/// Sandboxes that may be started. They count until this is dropped; once they run (`keep`) until they end.
#[derive(Debug)]
#[must_use]
pub(crate) struct Admission {
    budget: Budget,
    sandboxes: Vec<SandboxId>,
}

impl Budget {
    /// Admits new sandboxes with a memory limit of `memory_bytes` each, all or none.
    pub(crate) fn admit(
        &self,
        capacity: &Capacity,
        room: Room,
        sandboxes: Vec<SandboxId>,
        memory_bytes: u64,
    ) -> Result<Admission> {
        check_room(capacity, room)?;
        let mut held = self.held();
        let count = held.memory.len() as u64;
        let places = u64::from(capacity.sandboxes).saturating_sub(count);
        if sandboxes.len() as u64 > places {
            return Err(Error::Unavailable(format!(
                "this host has room for {places} more running sandboxes, and {} are asked for; \
                 {count} of at most {} run (setting max_sandboxes)",
                sandboxes.len(),
                capacity.sandboxes
            )));
        }
        let free = capacity.memory_bytes.saturating_sub(held.total);
        let wanted = memory_bytes.saturating_mul(sandboxes.len() as u64);
        if wanted > free {
            return Err(Error::Unavailable(format!(
                "this host has {free} bytes of memory left to promise, and {wanted} are asked for; \
                 {} of {} bytes are promised to running sandboxes (settings memory_budget_bytes, memory_overcommit)",
                held.total, capacity.memory_bytes
            )));
        }
        sandboxes.iter().for_each(|id| held.insert(*id, memory_bytes));
        Ok(Admission { budget: self.clone(), sandboxes })
    }

    /// Counts a sandbox that runs already.
    pub(crate) fn hold(&self, sandbox: SandboxId, memory_bytes: u64) {
        self.held().insert(sandbox, memory_bytes);
    }

    /// No longer counts a sandbox; nothing happens if it is not counted.
    pub(crate) fn release(&self, sandbox: SandboxId) {
        self.held().remove(sandbox);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn insert(&mut self, sandbox: SandboxId, memory_bytes: u64) {
        self.remove(sandbox);
        self.memory.insert(sandbox, memory_bytes);
        self.total = self.total.saturating_add(memory_bytes);
    }

    fn remove(&mut self, sandbox: SandboxId) {
        if let Some(bytes) = self.memory.remove(&sandbox) {
            self.total = self.total.saturating_sub(bytes);
        }
    }
}

impl Admission {
    /// They run: they count until they are released.
    pub(crate) fn keep(mut self) {
        self.sandboxes.clear();
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.sandboxes.iter().for_each(|id| self.budget.release(*id));
    }
}

/// Refuses when the host itself is short of what every sandbox needs.
fn check_room(capacity: &Capacity, room: Room) -> Result<()> {
    if room.disk_bytes < LEAST_DISK_BYTES {
        return Err(Error::OutOfSpace(format!(
            "the host has {} bytes of disk space left for sandboxes, and a new one needs {LEAST_DISK_BYTES}; \
             nothing was changed",
            room.disk_bytes
        )));
    }
    if room.memory_bytes < capacity.memory_reserve_bytes {
        return Err(Error::Unavailable(format!(
            "the host has {} bytes of memory available, and {} are kept free (setting host_memory_reserve_bytes); \
             nothing was changed",
            room.memory_bytes, capacity.memory_reserve_bytes
        )));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const CAPACITY: Capacity = Capacity { sandboxes: 3, memory_bytes: 1000, memory_reserve_bytes: 50 };
    const ROOM: Room = Room { memory_bytes: 50, disk_bytes: LEAST_DISK_BYTES, host_bytes: LEAST_DISK_BYTES };

    fn ids(numbers: std::ops::Range<u128>) -> Vec<SandboxId> {
        numbers.map(|number| SandboxId::from_uuid(Uuid::from_u128(number))).collect()
    }

    fn admit(budget: &Budget, numbers: std::ops::Range<u128>, memory: u64) -> Result<Admission> {
        budget.admit(&CAPACITY, ROOM, ids(numbers), memory)
    }

    #[test]
    fn what_is_not_kept_counts_only_until_it_is_dropped() {
        let budget = Budget::default();
        let first = admit(&budget, 0..2, 100).unwrap();
        assert!(admit(&budget, 2..4, 100).is_err());
        drop(first);
        admit(&budget, 2..4, 100).unwrap().keep();
        assert!(admit(&budget, 0..2, 100).is_err());
        ids(2..4).into_iter().for_each(|id| budget.release(id));
        assert!(admit(&budget, 0..3, 100).is_ok());
    }

    #[test]
    fn refusals_say_what_is_free() {
        let budget = Budget::default();
        budget.hold(ids(9..10)[0], 300);
        budget.hold(ids(9..10)[0], 400);
        let refused = |numbers, memory| admit(&budget, numbers, memory).unwrap_err().to_string();
        assert!(refused(0..3, 1).contains("room for 2 more running sandboxes, and 3 are asked for"));
        assert!(refused(0..2, 301).contains("600 bytes of memory left to promise, and 602 are asked for"));
        assert!(admit(&budget, 0..2, 300).is_ok());
        assert!(refused(0..1, u64::MAX).contains("600 bytes"));
        for (room, expected) in [
            (Room { disk_bytes: 7, ..ROOM }, "7 bytes of disk space"),
            (Room { memory_bytes: 49, ..ROOM }, "49 bytes of memory available, and 50 are kept free"),
        ] {
            let error = budget.admit(&CAPACITY, room, ids(0..1), 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
