//! A weighted rotation whose weights may change: one worker's queue of deadlines.
//!
//! As in Envoy's scheduler (earliest deadline first), a picked host is due again after 1/weight, by its weight at that
//! moment. The queue belongs to a worker, so it needs no lock. Each new set of hosts gets a new queue.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::Weak;

use outrider_net::WorkerCx;

use crate::Host;

/// The hosts, ordered by deadline.
#[derive(Debug)]
pub(super) struct DeadlineQueue {
    /// The hosts of this queue. Holding the list ensures that no other list gets its address.
    hosts: Weak<[Arc<Host>]>,
    entries: BinaryHeap<Reverse<QueuedHost>>,
    turns: u64,
}

#[derive(Clone, Copy, Debug)]
struct QueuedHost {
    at: f64,
    /// Breaks ties between equal deadlines: the host that was queued first comes first.
    since: u64,
    host: usize,
}

impl DeadlineQueue {
    /// A queue of `hosts` at a random position in the rotation, so that the workers of many proxies do not begin with
    /// the same host.
    pub(super) fn new(
        hosts: &Arc<[Arc<Host>]>,
        worker: &WorkerCx,
        weight: impl Fn(&Host) -> f64,
    ) -> DeadlineQueue {
        let entries = hosts.iter().enumerate().map(|(index, host)| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a share of the interval needs no precision"
            )]
            let share = worker.random() as f64 / u64::MAX as f64;
            Reverse(QueuedHost {
                at: interval(weight(host)) * share,
                since: 0,
                host: index,
            })
        });
        DeadlineQueue {
            entries: entries.collect(),
            hosts: Arc::downgrade(hosts),
            turns: 0,
        }
    }

    /// Whether this is the queue of this list of hosts.
    pub(super) fn is_of(&self, hosts: &Arc<[Arc<Host>]>) -> bool {
        std::ptr::addr_eq(self.hosts.as_ptr(), Arc::as_ptr(hosts))
    }

    /// Returns the host with the earliest deadline and queues it again.
    pub(super) fn next<'h>(
        &mut self,
        hosts: &'h [Arc<Host>],
        weight: impl Fn(&Host) -> f64,
    ) -> Option<&'h Arc<Host>> {
        let mut first = self.entries.peek_mut()?;
        let host = hosts.get(first.0.host)?;
        self.turns += 1;
        first.0.at += interval(weight(host));
        first.0.since = self.turns;
        Some(host)
    }
}

/// The time until a host of this weight is due again.
fn interval(weight: f64) -> f64 {
    1.0 / weight.max(f64::MIN_POSITIVE)
}

impl PartialEq for QueuedHost {
    fn eq(&self, other: &QueuedHost) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for QueuedHost {}

impl Ord for QueuedHost {
    fn cmp(&self, other: &QueuedHost) -> Ordering {
        self.at
            .total_cmp(&other.at)
            .then(self.since.cmp(&other.since))
            .then(self.host.cmp(&other.host))
    }
}

impl PartialOrd for QueuedHost {
    fn partial_cmp(&self, other: &QueuedHost) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
