//! Which fields the encoder has sent recently, and which of them are in its table.
//!
//! This is a set-associative cache. A field that was evicted from it is sent as a literal, which only costs bytes. A
//! lookup examines one group of slots, however many fields there are, so that a client that chooses fields with
//! colliding hashes slows nothing down.

/// Slots in a group; a group takes half a cache line.
const WAYS: usize = 4;

/// How many bytes of the dynamic table there are for each group. Entries take 60 bytes and more, so that half of the
/// slots are free for fields that were sent once.
const BYTES_PER_GROUP: usize = 128;

/// The maximum number of groups, which take 32 KiB.
const MAX_GROUPS: usize = 1024;

/// A field that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct SeenField {
    /// The part of the field's hash that does not select the group. Odd, or zero in an empty slot.
    tag: u32,
    /// The sequence number of the field's insertion into the table, or zero.
    number: u32,
}

/// The fields sent recently. The slots are allocated with the first field.
#[derive(Debug, Default)]
pub(super) struct SeenFields {
    groups: Vec<[SeenField; WAYS]>,
    /// A pseudo-random state that selects the slot to evict. With a fixed order, two alternating fields could evict
    /// each other forever.
    random_state: u32,
}

/// The result of [`SeenFields::find`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The field (or another one with its hash) is in the table, inserted this many insertions ago.
    InTable(usize),
    /// The field (or another one with its hash) was sent before.
    SeenBefore(SlotPosition),
    NotSeen,
}

/// A slot's group, and its position in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotPosition {
    group: usize,
    way: usize,
}

/// The insertions into the dynamic table. They are numbered from one, and the newest `kept` of them are still in the
/// table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Insertions {
    pub(super) last: u32,
    pub(super) kept: usize,
}

impl Insertions {
    /// How many insertions ago `number` was, if it is still in the table.
    #[inline]
    fn age(self, number: u32) -> Option<usize> {
        let age = self.last.wrapping_sub(number) as usize;
        (number != 0 && age < self.kept).then_some(age)
    }
}

impl SeenFields {
    /// Looks up the field with this hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, insertions: Insertions) -> Found {
        let group = self.group_of(hash);
        let Some(slots) = self.groups.get(group) else {
            return Found::NotSeen;
        };
        let tag = tag_of(hash);
        let mut ways = slots.iter().enumerate();
        let Some((way, slot)) = ways.find(|(_, slot)| slot.tag == tag) else {
            return Found::NotSeen;
        };
        match insertions.age(slot.number) {
            Some(age) => Found::InTable(age),
            None => Found::SeenBefore(SlotPosition { group, way }),
        }
    }

    /// Records that the field with this hash was sent, in a slot whose field is not in the table.
    #[inline]
    pub(super) fn record(&mut self, hash: u64, insertions: Insertions, table_size: usize) {
        if self.groups.is_empty() {
            self.allocate(table_size);
        }
        let group = self.group_of(hash);
        let Some(slots) = self.groups.get_mut(group) else {
            return;
        };
        self.random_state = self
            .random_state
            .wrapping_mul(0x0019_660d)
            .wrapping_add(0x3c6e_f35f);
        let start = (self.random_state >> 24) as usize;
        for way in 0..WAYS {
            let Some(slot) = slots.get_mut((start + way) % WAYS) else {
                continue;
            };
            if insertions.age(slot.number).is_none() {
                *slot = SeenField {
                    tag: tag_of(hash),
                    number: 0,
                };
                return;
            }
        }
    }

    /// Records that the field at `place` was inserted into the table with this sequence number.
    pub(super) fn inserted(&mut self, place: SlotPosition, number: u32) {
        let slots = self.groups.get_mut(place.group);
        if let Some(slot) = slots.and_then(|slots| slots.get_mut(place.way)) {
            slot.number = number;
        }
    }

    /// Forgets all fields, because the table gets another size.
    pub(super) fn clear(&mut self) {
        self.groups = Vec::new();
    }

    #[cold]
    fn allocate(&mut self, table_size: usize) {
        let groups = (table_size / BYTES_PER_GROUP).next_power_of_two();
        self.groups = vec![[SeenField::default(); WAYS]; groups.min(MAX_GROUPS)];
    }

    /// The group for `hash`. The number of groups is a power of two.
    #[inline]
    fn group_of(&self, hash: u64) -> usize {
        hash as usize & self.groups.len().wrapping_sub(1)
    }
}

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
