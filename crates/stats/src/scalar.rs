//! Single values: counters, gauges and text readouts.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A count of events since the start. Only one thread may write it, so that counting needs no atomic read-modify-write:
/// a request counts about twenty events. Use [`SharedCounter`] for several threads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Set in a counter that is shown by `usedonly` even if it is 0. No counter reaches this value by counting.
const USED: u64 = 1 << 63;

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Makes `usedonly` show the counter even while it is 0, for counters that Envoy touches at the start.
    pub fn mark_used(&self) {
        self.0.store(self.0.load(Relaxed) | USED, Relaxed);
    }

    /// The events counted so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !USED
    }

    pub(crate) fn is_used(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

/// A counter that several threads write.
#[derive(Debug, Default)]
pub struct SharedCounter(pub(crate) Counter);

impl SharedCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.0.fetch_add(amount, Relaxed);
    }

    /// The events counted so far.
    pub fn value(&self) -> u64 {
        self.0.value()
    }
}

/// A counter that a family of counters can consist of.
pub trait CounterLike: Default {
    /// Adds one.
    fn inc(&self);

    /// The counter, to be read.
    fn counter(&self) -> &Counter;
}

impl CounterLike for Counter {
    fn inc(&self) {
        self.add(1);
    }

    fn counter(&self) -> &Counter {
        self
    }
}

impl CounterLike for SharedCounter {
    fn inc(&self) {
        self.add(1);
    }

    fn counter(&self) -> &Counter {
        &self.0
    }
}

/// A level that goes up and down. Only one thread may write it; use [`SharedGauge`] for several threads.
///
/// A copy may be negative if another thread's copy counted the matching increment; the sum is correct.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

/// The value of a gauge that was never written. `usedonly` shows a gauge that has returned to 0, as in Envoy.
const UNUSED: i64 = i64::MIN;

impl Default for Gauge {
    fn default() -> Self {
        Self(AtomicI64::new(UNUSED))
    }
}

impl Gauge {
    /// Adds one. Prefer `hold`, which also subtracts it again.
    pub fn inc(&self) {
        self.shift(1);
    }

    /// Subtracts one.
    pub fn dec(&self) {
        self.shift(-1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.shift(amount.cast_signed());
    }

    /// Subtracts `amount`.
    pub fn sub(&self, amount: u64) {
        self.shift(amount.cast_signed().wrapping_neg());
    }

    /// Sets the level.
    pub fn set(&self, value: u64) {
        self.0.store(value.cast_signed(), Relaxed);
    }

    /// Makes `usedonly` show the gauge even if it stays 0: Envoy sets some gauges to 0.
    pub fn mark_used(&self) {
        self.shift(0);
    }

    /// The level of this copy.
    pub fn value(&self) -> i64 {
        match self.0.load(Relaxed) {
            UNUSED => 0,
            value => value,
        }
    }

    pub(crate) fn is_used(&self) -> bool {
        self.0.load(Relaxed) != UNUSED
    }

    fn shift(&self, by: i64) {
        self.0.store(self.value().wrapping_add(by), Relaxed);
    }
}

/// A gauge that several threads write.
#[derive(Debug, Default)]
pub struct SharedGauge(pub(crate) Gauge);

impl SharedGauge {
    /// Adds one.
    pub fn inc(&self) {
        self.shift(1);
    }

    /// Subtracts one.
    pub fn dec(&self) {
        self.shift(-1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.shift(amount.cast_signed());
    }

    /// Subtracts `amount`.
    pub fn sub(&self, amount: u64) {
        self.shift(amount.cast_signed().wrapping_neg());
    }

    /// Sets the level. Call this only before the gauge is shared.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// The level.
    pub fn value(&self) -> i64 {
        self.0.value()
    }

    /// Makes `usedonly` show the gauge even if it stays 0. Only the first call writes.
    pub fn mark_used(&self) {
        let level = &self.0.0;
        if level.load(Relaxed) == UNUSED {
            // If this fails, another thread has just done the same.
            let _lost = level.compare_exchange(UNUSED, 0, Relaxed, Relaxed);
        }
    }

    fn shift(&self, by: i64) {
        self.mark_used();
        self.0.0.fetch_add(by, Relaxed);
    }
}

/// A text, such as a version. Not for the request path, because it locks.
#[derive(Debug, Default)]
pub struct TextReadout(Mutex<Option<Box<str>>>);

impl TextReadout {
    /// Sets the text.
    pub fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }

    /// The text, if one was ever set.
    pub fn value(&self) -> Option<Box<str>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_stats_lose_nothing() {
        let (counter, gauge) = (SharedCounter::default(), SharedGauge::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.inc();
                        gauge.add(2);
                        gauge.dec();
                    }
                });
            }
        });
        assert_eq!((counter.value(), gauge.value()), (40_000, 40_000));
    }

    #[test]
    fn marked_stats_are_used_at_0() {
        let (counter, gauge, shared) =
            (Counter::default(), Gauge::default(), SharedGauge::default());
        counter.mark_used();
        gauge.mark_used();
        shared.mark_used();
        assert!(counter.is_used() && gauge.is_used() && shared.0.is_used());
        assert_eq!((counter.value(), gauge.value(), shared.value()), (0, 0, 0));
        counter.add(2);
        assert_eq!(counter.value(), 2);
    }

    #[test]
    fn a_gauge_is_used_from_its_first_change_on() {
        let gauge = Gauge::default();
        assert!(!gauge.is_used());
        assert_eq!(gauge.value(), 0);
        gauge.inc();
        gauge.dec();
        assert!(gauge.is_used());
        assert_eq!(gauge.value(), 0);
        gauge.sub(2);
        assert_eq!(gauge.value(), -2);
    }
}
