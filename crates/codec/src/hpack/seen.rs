//! Which fields the encoder has met lately, and where its table has them.
//!
//! A cache that may forget: a field that it lost is spelled out, which costs bytes only. So a search looks at one group of
//! slots, however many fields there are, and whoever picks fields for their hashes to collide slows nobody down.

/// Slots of a group: together they are half of a cache line.
const WAYS: usize = 4;

/// Bytes of the dynamic table for each group. Fields are 60 bytes and more, so that half of the slots are free for fields
/// met once.
const BYTES_PER_GROUP: usize = 128;

/// Groups for the largest table, 32 KiB.
const MOST_GROUPS: usize = 1024;

/// A field met.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// What of the field's hash did not choose the group; odd, or zero in an empty slot.
    tag: u32,
    /// The number of the field's insertion into the table, or zero.
    number: u32,
}

/// The slots, none of them before the first field.
#[derive(Debug, Default)]
pub(super) struct Seen {
    groups: Vec<[Slot; WAYS]>,
    /// Chooses what to forget. Without chance, two fields that come in turns could push out each other for ever.
    chance: u32,
}

/// What [`Seen::find`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The field, if not another with its hash, is the table's, this many insertions ago.
    InTable(usize),
    /// The field, if not another with its hash, has been met.
    Before(Place),
    Never,
}

/// A slot's group, and where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    group: usize,
    way: usize,
}

/// The dynamic table's insertions: numbered from one, of which only the newest are still there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Insertions {
    pub(super) last: u32,
    pub(super) kept: usize,
}

impl Insertions {
    /// How many insertions ago `number` was, if it is still there.
    #[inline]
    fn age(self, number: u32) -> Option<usize> {
        let age = self.last.wrapping_sub(number) as usize;
        (number != 0 && age < self.kept).then_some(age)
    }
}

impl Seen {
    /// Looks for the field of `hash`.
    #[inline]
    pub(super) fn find(&self, hash: u64, insertions: Insertions) -> Found {
        let group = self.group_of(hash);
        let Some(slots) = self.groups.get(group) else {
            return Found::Never;
        };
        let tag = tag_of(hash);
        let Some(way) = slots.iter().position(|slot| slot.tag == tag) else {
            return Found::Never;
        };
        match insertions.age(slots[way].number) {
            Some(age) => Found::InTable(age),
            None => Found::Before(Place { group, way }),
        }
    }

    /// Remembers the field of `hash` as met, in the place of one that is not in the table.
    #[inline]
    pub(super) fn record(&mut self, hash: u64, insertions: Insertions, table_size: usize) {
        if self.groups.is_empty() {
            self.allocate(table_size);
        }
        let group = self.group_of(hash);
        let Some(slots) = self.groups.get_mut(group) else {
            return;
        };
        self.chance = self
            .chance
            .wrapping_mul(0x0019_660d)
            .wrapping_add(0x3c6e_f35f);
        let start = (self.chance >> 24) as usize;
        for way in 0..WAYS {
            let slot = &mut slots[(start + way) % WAYS];
            if insertions.age(slot.number).is_none() {
                *slot = Slot {
                    tag: tag_of(hash),
                    number: 0,
                };
                return;
            }
        }
    }

    /// Remembers that the field of `place` is the table's, by the number of its insertion.
    pub(super) fn inserted(&mut self, place: Place, number: u32) {
        let slots = self.groups.get_mut(place.group);
        if let Some(slot) = slots.and_then(|slots| slots.get_mut(place.way)) {
            slot.number = number;
        }
    }

    /// Forgets everything, because the table is to have another size.
    pub(super) fn clear(&mut self) {
        self.groups = Vec::new();
    }

    #[cold]
    fn allocate(&mut self, table_size: usize) {
        let groups = (table_size / BYTES_PER_GROUP).next_power_of_two();
        self.groups = vec![[Slot::default(); WAYS]; groups.min(MOST_GROUPS)];
    }

    /// The group of `hash`; there is always a power of two of them.
    #[inline]
    fn group_of(&self, hash: u64) -> usize {
        hash as usize & self.groups.len().wrapping_sub(1)
    }
}

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
