//! The waits between the attempts at something that fails.

use std::time::Duration;

/// Random waits below a bound that doubles with each, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    base: Duration,
    max: Duration,
    bound: Duration,
}

impl BackOff {
    /// The first wait is below `base`, and none is above `max`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> BackOff {
        BackOff {
            base,
            max,
            bound: base,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(fastrand::f64())
    }

    /// Starts again with short waits, after a success.
    pub fn reset(&mut self) {
        self.bound = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_maximum_and_falls_back() {
        let mut back_off = BackOff::new(Duration::from_secs(1), Duration::from_secs(3));
        let fresh = back_off;
        let mut bounds = Vec::new();
        for _ in 0..4 {
            bounds.push(back_off.bound.as_secs());
            let bound = back_off.bound;
            assert!(back_off.next_wait() <= bound);
        }
        assert_eq!(bounds, [1, 2, 3, 3]);
        back_off.reset();
        assert_eq!(back_off, fresh);
    }
}
