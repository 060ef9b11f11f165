//! The single values: counters, gauges and text readouts.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A count of events since the start, or since `/reset_counters`.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Set by a reset, so that a counter which was used stays so (`usedonly`) at 0.
const WAS_RESET: u64 = 1 << 63;

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// The events counted so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !WAS_RESET
    }

    pub(crate) fn is_used(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Back to 0. An increment in the same instant counts on one side or the other, never on both.
    pub(crate) fn reset(&self) {
        if self.is_used() {
            self.0.store(WAS_RESET, Relaxed);
        }
    }
}

/// A level that goes up and down.
///
/// One copy may go below zero when another thread's copy took the matching increment; the sum is what counts.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

/// What a gauge holds until it is first touched: Envoy's `usedonly` shows one that came back to 0.
const UNUSED: i64 = i64::MIN;

impl Default for Gauge {
    fn default() -> Self {
        Self(AtomicI64::new(UNUSED))
    }
}

impl Gauge {
    /// Adds one. Prefer `hold`, which also takes it back.
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

    /// Replaces the level. Only for a gauge that one thread alone writes.
    pub fn set(&self, value: u64) {
        self.0.store(value.cast_signed(), Relaxed);
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
        if self.0.load(Relaxed) == UNUSED {
            // Losing this race means that another thread has just done the same.
            let _lost = self.0.compare_exchange(UNUSED, 0, Relaxed, Relaxed);
        }
        self.0.fetch_add(by, Relaxed);
    }
}

/// A text, such as a version. Not for the request path: it locks.
#[derive(Debug, Default)]
pub struct TextReadout(Mutex<Option<Box<str>>>);

impl TextReadout {
    /// Replaces the text.
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
    fn a_counter_stays_used_when_reset() {
        let counter = Counter::default();
        counter.reset();
        assert!(!counter.is_used());
        counter.add(3);
        counter.reset();
        assert!(counter.is_used());
        assert_eq!(counter.value(), 0);
        counter.inc();
        assert_eq!(counter.value(), 1);
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
