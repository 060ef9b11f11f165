//! A precomputed weighted rotation.
//!
//! Envoy keeps a queue of deadlines on each worker (earliest deadline first): entry `i` is due at 1/wᵢ, 2/wᵢ, … . With
//! integer weights, this order repeats after as many turns as the sum of the weights. So one table serves all workers,
//! and a pick is an index into it.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The maximum length of the table. Weights with a greater sum are scaled down, but never to zero.
const MAX_PERIOD: u64 = 1 << 16;

/// The order in which entries take turns.
#[derive(Debug)]
pub(super) enum Schedule {
    /// All weights are equal: this many entries in turn.
    Equal(usize),
    /// The turns of one period.
    Weighted(Box<[u32]>),
}

impl Schedule {
    /// The rotation of entries with these weights. An entry with weight 0 never has a turn.
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Schedule {
        let weights: Vec<u64> = weights.map(u64::from).collect();
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
        if weights.iter().all(|weight| *weight == divisor) {
            return Schedule::Equal(if divisor == 0 { 0 } else { weights.len() });
        }
        let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
        let scaled = |weight: &u64| match weight / divisor {
            weight if weight == 0 || sum <= MAX_PERIOD => weight,
            weight => (weight * MAX_PERIOD / sum).max(1),
        };
        Schedule::Weighted(period(&weights.iter().map(scaled).collect::<Vec<_>>()))
    }

    /// The entry at a position of the endless rotation; `None` if no entry has a turn. `position` is called only if
    /// needed.
    pub(super) fn at(&self, position: impl FnOnce() -> u64) -> Option<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the remainder of a division by a length fits"
        )]
        match self {
            Schedule::Equal(0) => None,
            Schedule::Equal(1) => Some(0),
            Schedule::Equal(entries) => Some((position() % *entries as u64) as usize),
            Schedule::Weighted(period) => {
                let turn = position() % period.len().max(1) as u64;
                period.get(turn as usize).map(|entry| *entry as usize)
            }
        }
    }
}

/// An entry's next turn, which is due at `turn / weight`.
#[derive(PartialEq, Eq)]
struct NextTurn {
    turn: u64,
    weight: u64,
    /// Breaks ties between equal deadlines: the entry that has waited longer comes first.
    since: usize,
    entry: u32,
}

impl Ord for NextTurn {
    fn cmp(&self, other: &NextTurn) -> Ordering {
        (self.turn * other.weight)
            .cmp(&(other.turn * self.weight))
            .then(self.since.cmp(&other.since))
    }
}

impl PartialOrd for NextTurn {
    fn partial_cmp(&self, other: &NextTurn) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The turns of one period. Each entry has as many as its weight. The sum of the weights is about [`MAX_PERIOD`] at
/// most.
fn period(weights: &[u64]) -> Box<[u32]> {
    let mut queue: BinaryHeap<Reverse<NextTurn>> = (0..)
        .zip(weights)
        .filter(|(_, weight)| **weight > 0)
        .map(|(entry, weight)| {
            Reverse(NextTurn {
                turn: 1,
                weight: *weight,
                since: entry as usize,
                entry,
            })
        })
        .collect();
    let mut turns = Vec::new();
    while let Some(Reverse(due)) = queue.pop() {
        turns.push(due.entry);
        if due.turn < due.weight {
            queue.push(Reverse(NextTurn {
                turn: due.turn + 1,
                since: weights.len() + turns.len(),
                ..due
            }));
        }
    }
    turns.into_boxed_slice()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32], count: u64) -> Vec<usize> {
        let schedule = Schedule::new(weights.iter().copied());
        (0..count).filter_map(|n| schedule.at(|| n)).collect()
    }

    #[test]
    fn weights_are_respected_in_every_period() {
        for _ in 0..200 {
            let weights: Vec<u32> = (0..fastrand::usize(1..8))
                .map(|_| fastrand::u32(0..20))
                .collect();
            let sum: u32 = weights.iter().sum();
            let turns = turns(&weights, u64::from(sum) * 3);
            for (entry, weight) in weights.iter().enumerate() {
                let had = turns.iter().filter(|turn| **turn == entry).count();
                let want = if sum == 0 { 0 } else { *weight as usize * 3 };
                assert_eq!(had, want, "{weights:?}");
            }
        }
    }

    #[test]
    fn heavy_entries_are_spread_out() {
        // Due at 1/3, 2/3, 1 and 1: of the two that are due at 1, the second entry has waited longer.
        assert_eq!(turns(&[3, 1], 8), [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn huge_weights_make_no_huge_table() {
        let schedule = Schedule::new([u32::MAX, 1, u32::MAX - 1].into_iter());
        let Schedule::Weighted(period) = &schedule else {
            panic!("{schedule:?}");
        };
        assert!(period.len() <= MAX_PERIOD as usize + 3);
        assert_eq!(period.iter().filter(|entry| **entry == 1).count(), 1);
    }

    #[test]
    fn without_weights_no_entry_has_a_turn() {
        assert!(turns(&[], 3).is_empty());
        assert!(turns(&[0, 0], 3).is_empty());
        assert_eq!(turns(&[0, 5], 2), [1, 1]);
    }
}
