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
    pub(crate) size: u64,
    pub(crate) stream: Stream,
    pub(crate) stretches: Vec<Stretch>,
    /// It is to go: nothing new may rely on it.
    pub(crate) condemned: bool,
    /// How many writers at work in this process rely on it.
    pub(crate) pins: usize,
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
    /// Takes a pack in. Chunks that a pack in good standing has already stay there.
    pub(crate) fn add(&mut self, pack: PackId, size: u64, contents: Contents, condemned: bool) {
        let Contents { stream, stretches } = contents;
        if self.packs.contains_key(&pack) {
            return;
        }
        let slot = self.slots.len() as u32;
        self.slots.push(pack);
        let known = &self.packs;
        let slots = &self.slots;
        for (number, stretch) in stretches.iter().enumerate() {
            let mut add = |id, part| {
                let spot = Spot { slot, stretch: number as u32, part };
                match self.spots.entry(id) {
                    hash_map::Entry::Vacant(vacant) => {
                        vacant.insert(spot);
                    }
                    hash_map::Entry::Occupied(mut there) => {
                        let old = slots.get(there.get().slot as usize).and_then(|pack| known.get(pack));
                        if !condemned && old.is_none_or(|old| old.condemned) {
                            there.insert(spot);
                        }
                    }
                }
            };
            match &stretch.parts {
                None => add(stretch.id, (0, 0)),
                Some(parts) => {
                    let mut at = 0;
                    for (id, len) in parts {
                        add(*id, (at, *len));
                        at += len;
                    }
                }
            }
        }
        self.packs.insert(pack, PackInfo { size, stream, stretches, condemned, pins: 0 });
    }

    /// Forgets packs that are gone, and finds other places for what was in them.
    pub(crate) fn remove(&mut self, gone: &HashSet<PackId>) {
        if !gone.iter().any(|pack| self.packs.contains_key(pack)) {
            return;
        }
        let mut old = std::mem::take(self);
        old.packs.retain(|pack, _| !gone.contains(pack));
        for (pack, info) in old.packs {
            let pins = info.pins;
            let contents = Contents { stream: info.stream, stretches: info.stretches };
            self.add(pack, info.size, contents, info.condemned);
            if let Some(info) = self.packs.get_mut(&pack) {
                info.pins = pins;
            }
        }
    }

    /// Marks packs as to go, or not; chunks prefer packs in good standing.
    pub(crate) fn condemn(&mut self, condemned: &HashSet<PackId>) {
        let changed = self.packs.iter_mut().fold(false, |changed, (pack, info)| {
            let now = condemned.contains(pack);
            let differs = info.condemned != now;
            info.condemned = now;
            changed || differs
        });
        if !changed {
            return;
        }
        let slots = &self.slots;
        let packs = &self.packs;
        let bad: HashSet<u32> = (0u32..)
            .zip(slots)
            .filter(|(_, pack)| packs.get(pack).is_none_or(|info| info.condemned))
            .map(|(slot, _)| slot)
            .collect();
        for (slot, pack) in (0u32..).zip(slots) {
            let Some(info) = packs.get(pack).filter(|info| !info.condemned) else { continue };
            for (number, stretch) in (0u32..).zip(&info.stretches) {
                let mut prefer = |id: &ChunkId, part| match self.spots.get_mut(id) {
                    Some(spot) if bad.contains(&spot.slot) => *spot = Spot { slot, stretch: number, part },
                    _ => {}
                };
                match &stretch.parts {
                    None => prefer(&stretch.id, (0, 0)),
                    Some(parts) => {
                        let mut at = 0;
                        for (id, len) in parts {
                            prefer(id, (at, *len));
                            at += len;
                        }
                    }
                }
            }
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

    /// Like [`Index::find`], but only where a writer may rely on it; from then on the pack is pinned for `held`.
    pub(crate) fn rely_on(&mut self, id: &ChunkId, held: &mut HashSet<PackId>) -> Option<Place> {
        let place = self.find(id)?;
        let info = self.packs.get_mut(&place.pack).filter(|info| !info.condemned)?;
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
        index.add(one, 500, contents(vec![stretch(7, None)]), false);
        index.add(
            two,
            500,
            contents(vec![stretch(8, Some(vec![(ChunkId([7; 32]), 4), (ChunkId([9; 32]), 6)]))]),
            false,
        );
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
}
