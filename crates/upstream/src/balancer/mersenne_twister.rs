//! MT19937, the random numbers with which Envoy shuffles hosts. The same seed must give the same order.

/// The size of the state, in numbers.
const SIZE: usize = 624;
/// The distance between the numbers that are combined into a new one.
const SHIFT: usize = 397;

pub(super) struct MersenneTwister {
    state: [u32; SIZE],
    next: usize,
}

impl MersenneTwister {
    /// Seeded with the lower half of `seed`, as the C++ library does.
    pub(super) fn new(seed: u64) -> MersenneTwister {
        let mut state = [0; SIZE];
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only the lower half is used"
        )]
        let mut last = seed as u32;
        for (place, index) in state.iter_mut().zip(0u32..) {
            if index > 0 {
                last = (last ^ (last >> 30))
                    .wrapping_mul(1_812_433_253)
                    .wrapping_add(index);
            }
            *place = last;
        }
        MersenneTwister { state, next: SIZE }
    }

    /// A number below `count`, which must not be 0.
    pub(super) fn below(&mut self, count: u32) -> u32 {
        let share = (1 << 32) / u64::from(count.max(1));
        loop {
            let number = u64::from(self.number()) / share;
            if let Some(number) = u32::try_from(number).ok().filter(|number| *number < count) {
                return number;
            }
            if count == 0 {
                return 0;
            }
        }
    }

    fn number(&mut self) -> u32 {
        if self.next >= SIZE {
            self.twist();
        }
        let mut number = self.state.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        number ^= number >> 11;
        number ^= (number << 7) & 0x9d2c_5680;
        number ^= (number << 15) & 0xefc6_0000;
        number ^ (number >> 18)
    }

    fn twist(&mut self) {
        for index in 0..SIZE {
            let [high, low, far] =
                [index, index + 1, index + SHIFT].map(|at| self.state[at % SIZE]);
            let mixed = (high & 0x8000_0000) | (low & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = far ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_numbers_of_the_standard() {
        // The C++ standard gives the 10,000th number for the seed 5489.
        let mut random = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| random.number()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn numbers_stay_below_the_bound() {
        let mut random = MersenneTwister::new(7);
        assert!((1..2000).all(|count| random.below(count) < count));
    }
}
