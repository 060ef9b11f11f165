//! How many connections may be open at once.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A limit that all workers share.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: u64,
    active: AtomicU64,
}

/// One connection's share of a limit; given back when dropped.
#[derive(Debug)]
pub(super) struct Share(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// At most `max` at once.
    #[must_use]
    pub fn new(max: u64) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit {
            max,
            active: AtomicU64::new(0),
        })
    }

    /// How many there are now.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes a share, or `None` when the limit is reached.
    pub(super) fn enter(self: &Arc<ConnectionLimit>) -> Option<Share> {
        let share = Share(self.clone());
        let before = self.active.fetch_add(1, Ordering::Relaxed);
        (before < self.max).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The limits on one listener's connections.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// On this listener's (runtime key `envoy.resource_limits.listener.<name>.connection_limit`).
    pub listener: Option<Arc<ConnectionLimit>>,
    /// On all listeners' together, or on all of those that ignore that limit.
    pub global: Option<Arc<ConnectionLimit>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_given_back_can_be_taken_again() {
        let limit = ConnectionLimit::new(1);
        let first = limit.enter().unwrap();
        assert!(limit.enter().is_none());
        drop(first);
        assert!(limit.enter().is_some());
        assert!(ConnectionLimit::new(0).enter().is_none());
    }
}
