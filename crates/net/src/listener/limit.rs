//! Limits on the number of open connections.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use outrider_runtime::Runtime;
use outrider_stats::SharedCounter;

/// A limit that all workers share.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: Max,
    active: AtomicU64,
    refused: Option<Arc<RefusedStats>>,
}

outrider_stats::group! {
    /// `overload.envoy.resource_monitors.global_downstream_max_connections.*`
    pub struct RefusedStats { failed_updates: SharedCounter }
}

#[derive(Debug)]
enum Max {
    Fixed(u64),
    /// No limit while the key is not set.
    Runtime(Arc<Runtime>, Box<str>),
}

/// One connection's permit from a limit. Dropping it returns it.
#[derive(Debug)]
struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Allows at most `max` connections at once.
    #[must_use]
    pub fn new(max: u64) -> Arc<ConnectionLimit> {
        ConnectionLimit::with(Max::Fixed(max))
    }

    /// Allows the number that this runtime key has at the moment; no limit while it is not set.
    #[must_use]
    pub fn of_runtime(runtime: Arc<Runtime>, key: &str) -> Arc<ConnectionLimit> {
        ConnectionLimit::with(Max::Runtime(runtime, key.into()))
    }

    /// Allows at most `max` connections at once, and counts in `stats` those that it refuses.
    #[must_use]
    pub fn counting_refused(max: u64, stats: Arc<RefusedStats>) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit {
            max: Max::Fixed(max),
            active: AtomicU64::new(0),
            refused: Some(stats),
        })
    }

    fn with(max: Max) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit {
            max,
            active: AtomicU64::new(0),
            refused: None,
        })
    }

    /// The number of connections now as a share of the limit.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers of connections are far below 2^53"
    )]
    pub fn pressure(&self) -> f64 {
        self.active() as f64 / self.max().max(1) as f64
    }

    fn max(&self) -> u64 {
        match &self.max {
            Max::Fixed(max) => *max,
            Max::Runtime(runtime, key) => runtime.snapshot().number(key).unwrap_or(u64::MAX),
        }
    }

    /// The number of connections now.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes a permit; `None` if the limit is reached.
    fn enter(self: &Arc<ConnectionLimit>) -> Option<ConnectionPermit> {
        let (permit, before) = self.count();
        if before < self.max() {
            return Some(permit);
        }
        if let Some(stats) = &self.refused {
            stats.failed_updates.inc();
        }
        None
    }

    /// Takes a permit regardless of the limit. Also returns the number of connections before.
    fn count(self: &Arc<ConnectionLimit>) -> (ConnectionPermit, u64) {
        let before = self.active.fetch_add(1, Ordering::Relaxed);
        (ConnectionPermit(self.clone()), before)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which limit a connection exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The listener's own.
    Listener,
    /// The limit on all listeners together.
    Global,
}

/// One connection's permits from the limits that apply to it. Dropping them returns them.
#[derive(Debug)]
pub struct ConnectionPermits {
    _held: [Option<ConnectionPermit>; 3],
}

/// The limits on one listener's connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimits {
    /// On this listener's connections (runtime key `envoy.resource_limits.listener.<name>.connection_limit`).
    pub listener: Option<Arc<ConnectionLimit>>,
    /// On the connections of all listeners together.
    pub global: Option<Arc<ConnectionLimit>>,
    /// This listener's connections count for `global`, but are never refused by it (`ignore_global_conn_limit`).
    pub ignores_global: bool,
    /// The overload manager's limit on the connections of all listeners. As in Envoy, a listener that ignores the global
    /// limit does not count for this one.
    pub overload: Option<Arc<ConnectionLimit>>,
}

impl ConnectionLimits {
    /// Takes a permit from each limit for a new connection.
    ///
    /// # Errors
    /// The first limit that is reached. The connection must be closed.
    pub fn enter(&self) -> Result<ConnectionPermits, LimitReached> {
        let global = match &self.global {
            Some(limit) if self.ignores_global => Some(limit.count().0),
            Some(limit) => Some(limit.enter().ok_or(LimitReached::Global)?),
            None => None,
        };
        let overload = match &self.overload {
            Some(limit) => Some(limit.enter().ok_or(LimitReached::Global)?),
            None => None,
        };
        let listener = match &self.listener {
            Some(limit) => Some(limit.enter().ok_or(LimitReached::Listener)?),
            None => None,
        };
        Ok(ConnectionPermits {
            _held: [listener, global, overload],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_that_is_given_back_can_be_taken_again() {
        let limit = ConnectionLimit::new(1);
        let first = limit.enter().unwrap();
        assert!(limit.enter().is_none());
        drop(first);
        assert!(limit.enter().is_some());
        assert!(ConnectionLimit::new(0).enter().is_none());
    }

    #[test]
    fn a_listener_that_ignores_the_global_limit_counts_for_it() {
        let global = ConnectionLimit::new(1);
        let ignoring = ConnectionLimits {
            global: Some(global.clone()),
            ignores_global: true,
            ..ConnectionLimits::default()
        };
        let obeying = ConnectionLimits {
            listener: Some(ConnectionLimit::new(0)),
            global: Some(global),
            ..ConnectionLimits::default()
        };
        assert_eq!(obeying.enter().unwrap_err(), LimitReached::Listener);
        let _first = ignoring.enter().unwrap();
        assert_eq!(obeying.enter().unwrap_err(), LimitReached::Global);
        assert!(ignoring.enter().is_ok());
    }
}
