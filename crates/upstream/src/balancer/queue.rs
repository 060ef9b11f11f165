//! A weighted rotation whose weights change as it goes: one worker's queue of deadlines.
//!
//! As Envoy's scheduler has it (earliest deadline first), a host that was picked is due again after 1/weight, by its weight
//! of that moment. The queue belongs to a worker, so that nothing is locked. Each new set of hosts gets a new queue.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::Weak;

use outrider_net::WorkerCx;

use crate::Host;

/// The hosts by when they are due.
#[derive(Debug)]
pub(super) struct Queue {
    /// Whose queue this is. While it is held, no other list has its address.
    hosts: Weak<[Arc<Host>]>,
    entries: BinaryHeap<Reverse<Due>>,
    turns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    at: f64,
    /// Of two that are due together, the one that waits longer goes first.
    since: u64,
    host: usize,
}

impl Queue {
    /// A queue of `hosts`, somewhere in the midst of the rotation: the workers of many proxies are not to begin with the same
    /// host.
    pub(super) fn new(
        hosts: &Arc<[Arc<Host>]>,
        worker: &WorkerCx,
        weight: impl Fn(&Host) -> f64,
    ) -> Queue {
        let entries = hosts.iter().enumerate().map(|(index, host)| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a share of the interval needs no precision"
            )]
            let share = worker.random() as f64 / u64::MAX as f64;
            Reverse(Due {
                at: interval(weight(host)) * share,
                since: 0,
                host: index,
            })
        });
        Queue {
            entries: entries.collect(),
            hosts: Arc::downgrade(hosts),
            turns: 0,
        }
    }

    /// Whether this is the queue of these hosts.
    pub(super) fn is_of(&self, hosts: &Arc<[Arc<Host>]>) -> bool {
        std::ptr::addr_eq(self.hosts.as_ptr(), Arc::as_ptr(hosts))
    }

    /// The host that is due first, which joins the queue again.
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

/// After how long a host of this weight is due again.
fn interval(weight: f64) -> f64 {
    1.0 / weight.max(f64::MIN_POSITIVE)
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        self.at
            .total_cmp(&other.at)
            .then(self.since.cmp(&other.since))
            .then(self.host.cmp(&other.host))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
