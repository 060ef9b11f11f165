//! Counts each worker's connections with a request under way, so that the process can end without cutting a request
//! off.
//!
//! Only the worker writes these counts, with plain stores. Other threads read them.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;
use std::time::Instant;

use crate::clock;

/// One worker's request activity, as other threads read it.
#[derive(Debug)]
pub struct ActivityCounts {
    /// Connections with a request under way.
    busy: AtomicUsize,
    /// When a request last ended or a connection was last accepted, in nanoseconds after `since`; 0 for never.
    last: AtomicU64,
    since: Instant,
}

/// One worker's request activity, as the worker itself updates it.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    counts: Arc<ActivityCounts>,
    /// Stays on its worker.
    _local: PhantomData<Rc<()>>,
}

/// Whether one connection has a request under way. Dropping it counts the connection as idle.
#[derive(Debug)]
pub struct ConnectionActivity {
    worker: Activity,
    busy: Cell<bool>,
}

impl Default for ActivityCounts {
    fn default() -> ActivityCounts {
        ActivityCounts {
            busy: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            since: Instant::now(),
        }
    }
}

impl ActivityCounts {
    /// How many connections have a request under way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.busy.load(Acquire)
    }

    /// How long all connections have been without a request and none was accepted; `None` while a request is under way.
    #[must_use]
    pub fn idle_for(&self) -> Option<Duration> {
        if self.busy() > 0 {
            return None;
        }
        let last = match self.last.load(Acquire) {
            0 => return Some(Duration::MAX),
            last => Duration::from_nanos(last),
        };
        Some(self.since.elapsed().saturating_sub(last))
    }
}

impl Activity {
    /// An activity that writes to `counts`, which no other worker may use.
    #[must_use]
    pub fn new(counts: Arc<ActivityCounts>) -> Activity {
        Activity {
            counts,
            _local: PhantomData,
        }
    }

    /// A connection of this worker, without a request.
    #[must_use]
    pub fn connection(&self) -> ConnectionActivity {
        ConnectionActivity {
            worker: self.clone(),
            busy: Cell::new(false),
        }
    }

    /// Restarts the idle time: a request has ended, or a connection was accepted whose first request will follow.
    pub fn touch(&self) {
        let now = clock::now().into_std();
        let since = now.saturating_duration_since(self.counts.since).as_nanos();
        let last = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        self.counts.last.store(last, Release);
    }

    /// Only the worker writes, so the load and the store need not be one atomic operation.
    fn add(&self, busy: bool) {
        let before = self.counts.busy.load(Acquire);
        if !busy {
            self.touch();
        }
        let after = if busy {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        self.counts.busy.store(after, Release);
    }
}

impl ConnectionActivity {
    /// Sets whether the connection has a request under way.
    pub fn set(&self, busy: bool) {
        if self.busy.replace(busy) != busy {
            self.worker.add(busy);
        }
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_while_they_are_busy() {
        let counts = Arc::new(ActivityCounts::default());
        assert_eq!(counts.idle_for(), Some(Duration::MAX));
        let activity = Activity::new(counts.clone());
        let connections = [activity.connection(), activity.connection()];
        for connection in &connections {
            connection.set(true);
            connection.set(true);
        }
        assert_eq!((counts.busy(), counts.idle_for()), (2, None));
        connections[0].set(false);
        connections[0].set(false);
        assert_eq!(counts.busy(), 1);
        drop(connections);
        assert_eq!(counts.busy(), 0);
        let idle = counts.idle_for();
        assert!(idle.is_some_and(|idle| idle < Duration::from_secs(60)));
    }
}
