//! Which slot numbers are in use, and in which order the others are handed out.

use std::collections::{BTreeSet, VecDeque};

use crate::address::LAST_SLOT;

/// The numbers 1 to 1021, each in exactly one state.
///
/// ```text
/// free ──take──> used ──begin_removal──> leaving ──end_removal──> dirty ──begin_sweep──> leaving ──> free
///                 ^ adopt                   │ failed                                       end_sweep
///                held <─────────────────────┘
/// ```
///
/// The one that was freed last is handed out last, so that nothing of a former tenant is met by chance.
#[derive(Debug)]
pub(crate) struct Numbers {
    free: VecDeque<u16>,
    used: BTreeSet<u16>,
    /// Their link was found at the start, or could not be removed: a sandbox's that will be adopted, or
    /// a dead one's.
    held: BTreeSet<u16>,
    /// Somebody is just removing their slot or forgetting their connections.
    leaving: BTreeSet<u16>,
    /// Their slot is gone; connections may still be remembered.
    dirty: BTreeSet<u16>,
}

impl Numbers {
    /// All numbers are free but those in `held`, which wait to be adopted or removed.
    pub(crate) fn new(held: BTreeSet<u16>) -> Self {
        let free = (1..=LAST_SLOT).filter(|number| !held.contains(number)).collect();
        Self { free, used: BTreeSet::new(), held, leaving: BTreeSet::new(), dirty: BTreeSet::new() }
    }

    /// How many could be handed out.
    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    /// Hands out the number that has been free the longest.
    pub(crate) fn take(&mut self) -> Option<u16> {
        let number = self.free.pop_front()?;
        self.used.insert(number);
        Some(number)
    }

    /// Gives back a number that was taken for nothing. One that is not in use stays as it is.
    pub(crate) fn release(&mut self, number: u16) {
        if self.used.remove(&number) {
            self.free.push_back(number);
        }
    }

    /// Marks a number as used that this process did not hand out. False if it is used already.
    pub(crate) fn adopt(&mut self, number: u16) -> bool {
        (self.held.remove(&number) || self.remove_free(number)) && self.used.insert(number)
    }

    /// Reserves a number for the removal of its slot. False if that is under way already.
    pub(crate) fn begin_removal(&mut self, number: u16) -> bool {
        let is_ours = self.used.remove(&number)
            || self.held.remove(&number)
            || self.dirty.remove(&number)
            || self.remove_free(number);
        is_ours && self.leaving.insert(number)
    }

    /// Ends what [`Numbers::begin_removal`] began.
    pub(crate) fn end_removal(&mut self, number: u16, is_removed: bool) {
        if self.leaving.remove(&number) {
            let next = if is_removed { &mut self.dirty } else { &mut self.held };
            next.insert(number);
        }
    }

    /// Reserves all dirty numbers for a sweep.
    pub(crate) fn begin_sweep(&mut self) -> BTreeSet<u16> {
        let dirty = std::mem::take(&mut self.dirty);
        self.leaving.extend(&dirty);
        dirty
    }

    /// Ends what [`Numbers::begin_sweep`] began.
    pub(crate) fn end_sweep(&mut self, numbers: &BTreeSet<u16>, is_swept: bool) {
        for number in numbers.iter().filter(|number| self.leaving.remove(number)) {
            if is_swept {
                self.free.push_back(*number);
            } else {
                self.dirty.insert(*number);
            }
        }
    }

    fn remove_free(&mut self, number: u16) -> bool {
        let at = self.free.iter().position(|free| *free == number);
        at.and_then(|at| self.free.remove(at)).is_some()
    }

    pub(crate) fn is_used(&self, number: u16) -> bool {
        self.used.contains(&number)
    }

    /// Whether a slot of this number may exist that someone knows of.
    pub(crate) fn is_taken(&self, number: u16) -> bool {
        self.is_used(number) || self.held.contains(&number)
    }

    pub(crate) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// The numbers that wait to be adopted or removed.
    pub(crate) fn held(&self) -> Vec<u16> {
        self.held.iter().copied().collect()
    }

    pub(crate) fn used(&self) -> Vec<u16> {
        self.used.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_last_comes_last() {
        let mut numbers = Numbers::new(BTreeSet::new());
        assert_eq!((numbers.take(), numbers.take()), (Some(1), Some(2)));
        numbers.release(2);
        numbers.release(1);
        numbers.release(1);
        let order: Vec<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(order.len(), 1021);
        assert_eq!(order[0], 3);
        assert_eq!(order[1019..], [2, 1]);
    }

    #[test]
    fn an_adopted_number_is_not_handed_out() {
        let mut numbers = Numbers::new(BTreeSet::new());
        assert!(numbers.adopt(1));
        assert!(!numbers.adopt(1));
        assert!(!numbers.adopt(0) && !numbers.adopt(1022));
        assert_eq!(numbers.take(), Some(2));
        assert_eq!(numbers.used(), [1, 2]);
    }

    #[test]
    fn a_number_found_at_the_start_waits_to_be_adopted_or_released() {
        let mut numbers = Numbers::new([1, 2].into());
        assert_eq!(numbers.take(), Some(3));
        assert!(numbers.adopt(1));
        assert_eq!(numbers.held(), [2]);
        assert!(numbers.begin_removal(2));
        assert!(!numbers.begin_removal(2) && !numbers.adopt(2));
        numbers.end_removal(2, false);
        assert_eq!(numbers.held(), [2]);
        assert!(numbers.begin_removal(2));
        numbers.end_removal(2, true);
        assert_eq!((numbers.available(), numbers.dirty()), (1018, 1));
        for is_swept in [false, true] {
            let swept = numbers.begin_sweep();
            assert_eq!(swept, [2].into());
            assert!(numbers.begin_sweep().is_empty() && !numbers.begin_removal(2));
            numbers.end_sweep(&swept, is_swept);
        }
        assert_eq!((numbers.available(), numbers.dirty()), (1019, 0));
        let order: Vec<_> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(order.last(), Some(&2));
    }
}
