//! Where every chunk of one organisation lies, in memory; read from the packs' own indexes.

use crate::{
    crypto::ChunkId,
    object_keys::PackId,
    pack::{Contents, Stream, Stretch},
};
use std::collections::{BTreeMap, HashMap, HashSet, hash_map};

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: PackId,
    /// The sealed stretch it is in, or is.
    pub(crate) id: ChunkId,
    pub(crate) offset: u32,
    pub(crate) stored: u32,
    pub(crate) len: u32,
    /// For a part: where it begins in the opened bundle, and its length.
    pub(crate) part: Option<(u32, u32)>,
}

impl Place {
    /// Length of the chunk itself in clear.
    pub(crate) fn chunk_len(&self) -> u32 {
        self.part.map_or(self.len, |(_, len)| len)
    }
}

/// What is known of one pack.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackInfo {
    pub(crate) stream: Stream,
    pub(crate) stretches: Vec<Stretch>,
    /// It is to go: nothing new may rely on it.
    pub(crate) condemned: bool,
    /// It gave wrong bytes once: nothing new may rely on it, and what is elsewhere too is read there.
    pub(crate) suspect: bool,
    /// How many writers at work in this process rely on it.
    pub(crate) pins: usize,
}

impl PackInfo {
    /// How gladly chunks are taken from it: what is to go is whole, what is suspect may not be.
    fn standing(&self) -> Standing {
        match (self.suspect, self.condemned) {
            (false, false) => Standing::Good,
            (false, true) => Standing::Condemned,
            (true, _) => Standing::Suspect,
        }
    }
}

/// Better before worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Good,
    Condemned,
    Suspect,
    /// It is not there any more.
    Gone,
}

/// A chunk's place in few bytes: pack slot, stretch, and part.
#[derive(Debug, Clone, Copy)]
struct Spot {
    slot: u32,
    stretch: u32,
    /// Offset and length in the opened bundle; a length of 0: the stretch itself.
    part: (u32, u32),
}

/// All packs of an organisation.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<PackId>,
    pub(crate) packs: BTreeMap<PackId, PackInfo>,
    spots: HashMap<ChunkId, Spot>,
}

impl Index {
    /// Takes a new pack in, in good standing. Chunks that a pack in good standing has already stay there.
    pub(crate) fn add(&mut self, pack: PackId, contents: Contents) {
        let Contents { stream, stretches } = contents;
        self.take_in(pack, PackInfo { stream, stretches, ..PackInfo::default() });
    }

    fn take_in(&mut self, pack: PackId, info: PackInfo) {
        if self.packs.contains_key(&pack) {
            return;
        }
        let slot = self.slots.len() as u32;
        self.slots.push(pack);
        self.packs.insert(pack, info);
        self.offer(slot, true);
    }

    /// Lets chunks of a pack move there from packs in worse standing; `new`: also those that are nowhere yet.
    fn offer(&mut self, slot: u32, new: bool) {
        let Self { slots, packs, spots } = self;
        let standing = |slot: u32| {
            let pack = slots.get(slot as usize).and_then(|pack| packs.get(pack));
            pack.map_or(Standing::Gone, PackInfo::standing)
        };
        let Some(info) = slots.get(slot as usize).and_then(|pack| packs.get(pack)) else { return };
        let own = info.standing();
        for (number, stretch) in (0u32..).zip(&info.stretches) {
            let mut offer = |id: &ChunkId, part| {
                let spot = Spot { slot, stretch: number, part };
                match spots.entry(*id) {
                    hash_map::Entry::Vacant(vacant) if new => drop(vacant.insert(spot)),
                    hash_map::Entry::Occupied(mut there) if own < standing(there.get().slot) => {
                        there.insert(spot);
                    }
                    _ => {}
                }
            };
            match &stretch.parts {
                None => offer(&stretch.id, (0, 0)),
                Some(parts) => {
                    let mut at = 0;
                    for (id, len) in parts {
                        offer(id, (at, *len));
                        at += len;
                    }
                }
            }
        }
    }

    /// Forgets packs that are gone, and finds other places for what was in them.
    pub(crate) fn remove(&mut self, gone: &HashSet<PackId>) {
        if !gone.iter().any(|pack| self.packs.contains_key(pack)) {
            return;
        }
        let mut old = std::mem::take(self);
        old.packs.retain(|pack, _| !gone.contains(pack));
        for (pack, info) in old.packs {
            self.take_in(pack, info);
        }
    }

    /// Marks packs as to go, or not.
    pub(crate) fn condemn(&mut self, condemned: &HashSet<PackId>) {
        self.mark(|pack, info| info.condemned = condemned.contains(pack));
    }

    /// Marks packs as suspect, or not.
    pub(crate) fn suspect(&mut self, suspects: &HashSet<PackId>) {
        self.mark(|pack, info| info.suspect = suspects.contains(pack));
    }

    /// Changes marks; chunks move to packs in better standing.
    pub(crate) fn mark(&mut self, change: impl Fn(&PackId, &mut PackInfo)) {
        let mut changed = false;
        for (pack, info) in &mut self.packs {
            let before = info.standing();
            change(pack, info);
            changed |= info.standing() != before;
        }
        if changed {
            (0..self.slots.len() as u32).for_each(|slot| self.offer(slot, false));
        }
    }

    /// Where a chunk lies.
    pub(crate) fn find(&self, id: &ChunkId) -> Option<Place> {
        let spot = self.spots.get(id)?;
        let pack = *self.slots.get(spot.slot as usize)?;
        let stretch = self.packs.get(&pack)?.stretches.get(spot.stretch as usize)?;
        let part = (spot.part.1 > 0).then_some(spot.part);
        Some(Place { pack, id: stretch.id, offset: stretch.offset, stored: stretch.stored, len: stretch.len, part })
    }

    /// Whether a pack is known to have given wrong bytes.
    pub(crate) fn is_suspect(&self, pack: &PackId) -> bool {
        self.packs.get(pack).is_some_and(|info| info.suspect)
    }

    /// Whether a chunk is in a pack that is not suspect.
    pub(crate) fn is_safe(&self, id: &ChunkId) -> bool {
        self.find(id).is_some_and(|place| !self.is_suspect(&place.pack))
    }

    /// Like [`Index::find`], but only where a writer may rely on it; from then on the pack is pinned for `held`.
    pub(crate) fn rely_on(&mut self, id: &ChunkId, held: &mut HashSet<PackId>) -> Option<Place> {
        let place = self.find(id)?;
        let info = self.packs.get_mut(&place.pack).filter(|info| info.standing() == Standing::Good)?;
        if held.insert(place.pack) {
            info.pins += 1;
        }
        Some(place)
    }

    /// Pins a pack that its writer has just made.
    pub(crate) fn hold(&mut self, pack: PackId, held: &mut HashSet<PackId>) {
        if let Some(info) = self.packs.get_mut(&pack)
            && held.insert(pack)
        {
            info.pins += 1;
        }
    }

    /// Gives back all pins of a writer.
    pub(crate) fn release(&mut self, held: &HashSet<PackId>) {
        for pack in held {
            if let Some(info) = self.packs.get_mut(pack) {
                info.pins = info.pins.saturating_sub(1);
            }
        }
    }

    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> usize {
        self.spots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(id: u8, parts: Option<Vec<(ChunkId, u32)>>) -> Stretch {
        Stretch { id: ChunkId([id; 32]), offset: 8, stored: 100, len: 10, parts }
    }

    fn contents(stretches: Vec<Stretch>) -> Contents {
        Contents { stream: Stream::Data, stretches }
    }

    #[test]
    fn chunks_prefer_packs_in_good_standing_and_outlive_the_others() {
        let (one, two) = (PackId([1; 16]), PackId([2; 16]));
        let mut index = Index::default();
        index.add(one, contents(vec![stretch(7, None)]));
        index.add(two, contents(vec![stretch(8, Some(vec![(ChunkId([7; 32]), 4), (ChunkId([9; 32]), 6)]))]));
        assert_eq!(index.find(&ChunkId([7; 32])).unwrap().pack, one);
        index.condemn(&HashSet::from([one]));
        let place = index.find(&ChunkId([7; 32])).unwrap();
        assert_eq!((place.pack, place.part), (two, Some((0, 4))));
        assert_eq!(index.find(&ChunkId([9; 32])).unwrap().part, Some((4, 6)));
        index.remove(&HashSet::from([two]));
        assert_eq!(index.find(&ChunkId([7; 32])).unwrap().pack, one);
        assert!(index.find(&ChunkId([9; 32])).is_none());
        assert!(index.rely_on(&ChunkId([7; 32]), &mut HashSet::new()).is_none(), "a condemned pack is not relied on");
    }

    #[test]
    fn what_is_suspect_is_read_last_and_never_relied_on() {
        let (one, two, three) = (PackId([1; 16]), PackId([2; 16]), PackId([3; 16]));
        let chunk = ChunkId([7; 32]);
        let mut index = Index::default();
        index.add(one, contents(vec![stretch(7, None)]));
        index.add(two, contents(vec![stretch(7, None)]));
        index.suspect(&HashSet::from([one]));
        assert_eq!(index.find(&chunk).unwrap().pack, two);
        // What is to go is whole: better than what may be damaged.
        index.condemn(&HashSet::from([two]));
        assert_eq!(index.find(&chunk).unwrap().pack, two);
        assert!(index.rely_on(&chunk, &mut HashSet::new()).is_none());
        index.add(three, contents(vec![stretch(7, None)]));
        assert_eq!(index.find(&chunk).unwrap().pack, three);
        index.remove(&HashSet::from([two, three]));
        assert_eq!(index.find(&chunk).unwrap().pack, one, "nowhere else");
        assert!(index.rely_on(&chunk, &mut HashSet::new()).is_none());
        index.suspect(&HashSet::new());
        assert!(index.rely_on(&chunk, &mut HashSet::new()).is_some(), "it was whole after all");
    }
}
