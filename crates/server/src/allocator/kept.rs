//! Freed blocks that a worker keeps at hand, the last one on top.
//!
//! mimalloc hands out the blocks of a page in turns, so that each is cold when it comes round again; a request takes some
//! twenty. The block that was freed last is still in the processor's cache, and costs a few instructions. Pointers are only
//! put away and taken out here, never followed.

use std::cell::Cell;
use std::ptr::null_mut;

/// Blocks of one class are of one size, a multiple of so many bytes: mimalloc's smallest sizes are the same.
const STEP: usize = 16;
const CLASSES: usize = 128;
/// How many blocks of one class are kept: what a turn's requests need at once.
const MOST: u8 = 16;

/// A size of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(usize);

impl Class {
    /// The class whose blocks are for `size` bytes; none if such blocks are not kept: those that are large, and those that
    /// are too small to be rounded up.
    #[inline]
    pub(super) fn of(size: usize) -> Option<Class> {
        let class = size.wrapping_sub(1) / STEP;
        (class < CLASSES && size > STEP / 2).then_some(Class(class))
    }

    /// The size of its blocks, bytes.
    #[inline]
    pub(super) fn size(self) -> usize {
        (self.0 + 1) * STEP
    }
}

struct Kept {
    /// How many blocks of one class this thread keeps: none, unless it is a worker.
    most: Cell<u8>,
    counts: [Cell<u8>; CLASSES],
    blocks: [[Cell<*mut u8>; MOST as usize]; CLASSES],
}

thread_local! {
    static KEPT: Kept = const {
        Kept {
            most: Cell::new(0),
            counts: [const { Cell::new(0) }; CLASSES],
            blocks: [const { [const { Cell::new(null_mut()) }; MOST as usize] }; CLASSES],
        }
    };
}

/// From now on this thread keeps blocks. It must not end before the process does: what it keeps is not given back then.
pub(super) fn start() {
    KEPT.with(|kept| kept.most.set(MOST));
}

/// Takes out the block of this class that was put away last.
#[inline]
pub(super) fn take(class: Class) -> Option<*mut u8> {
    KEPT.with(|kept| {
        let count = kept.counts.get(class.0)?;
        let top = count.get().checked_sub(1)?;
        let block = kept.blocks.get(class.0)?.get(usize::from(top))?;
        count.set(top);
        Some(block.get())
    })
}

/// Puts a block away; false if there is no room for it.
#[inline]
pub(super) fn keep(class: Class, block: *mut u8) -> bool {
    KEPT.with(|kept| {
        let (Some(count), Some(blocks)) = (kept.counts.get(class.0), kept.blocks.get(class.0))
        else {
            return false;
        };
        let top = count.get();
        match blocks.get(usize::from(top)) {
            Some(place) if top < kept.most.get() => {
                place.set(block);
                count.set(top + 1);
                true
            }
            _ => false,
        }
    })
}

/// Takes out all blocks that this thread keeps.
pub(super) fn take_all() -> impl Iterator<Item = *mut u8> {
    (0..CLASSES).flat_map(|class| std::iter::from_fn(move || take(Class(class))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_room_for_what_is_asked_of_it() {
        for size in 0..5000 {
            match Class::of(size) {
                Some(class) => {
                    assert!((size..size + STEP).contains(&class.size()), "{size}");
                    assert_eq!(Class::of(class.size()), Some(class));
                }
                None => assert!(size <= 8 || size > STEP * CLASSES, "{size}"),
            }
        }
    }

    #[test]
    fn the_last_block_comes_first_and_only_so_many_are_kept() {
        let (class, other) = (Class::of(100).unwrap(), Class::of(200).unwrap());
        let mut bytes = [0_u8; 2 * MOST as usize];
        let blocks: Vec<*mut u8> = bytes.iter_mut().map(|byte| &raw mut *byte).collect();
        assert!(!keep(class, blocks[0]), "before it has started");
        start();
        let kept: Vec<_> = blocks.iter().filter(|block| keep(class, **block)).collect();
        assert_eq!(kept.len(), usize::from(MOST));
        assert_eq!(take(other), None);
        for block in kept.into_iter().rev() {
            assert_eq!(take(class), Some(*block));
        }
        assert_eq!(take(class), None);
        assert!(keep(class, blocks[0]) && keep(other, blocks[1]));
        assert_eq!(take_all().collect::<Vec<_>>(), [blocks[0], blocks[1]]);
        assert_eq!(take_all().count(), 0);
    }
}
