//! Load balancers: which host gets the next request.
//!
//! A balancer is built on the main thread for each new set of hosts and shared by all workers; what moves with every
//! pick belongs to the worker and comes in by [`PickCx`]. [`Priorities`] is the balancer of every cluster: it chooses
//! priority and locality, and leaves the rest to a policy of [`FACTORIES`].

mod priorities;
mod round_robin;
mod schedule;

use std::fmt;
use std::sync::Arc;

use outrider_config::api::envoy::config::cluster::v3::cluster::LbPolicy;
use outrider_net::WorkerCx;

use crate::Host;
use crate::stats::ClusterStats;

pub use priorities::BalancerConfig;
pub(crate) use priorities::Priorities;

/// Picks a host. `pick` runs on the workers for every attempt: it may not lock, log, or allocate in steady state.
pub trait LoadBalancer: fmt::Debug + Send + Sync {
    /// The host for the next attempt; none when no host may be used.
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>>;
}

/// The worker's side of a pick.
#[derive(Debug)]
pub struct PickCx<'a> {
    /// Where random numbers come from.
    pub worker: &'a WorkerCx,
    /// Where this worker's rotations stand.
    pub cursors: &'a mut Cursors,
    /// The cluster's `lb_*` counters.
    pub stats: &'a ClusterStats,
}

/// The positions of all rotations of one cluster on one worker. They outlive the sets of hosts, so that an update does
/// not send everything to the first host again.
#[derive(Debug, Default)]
pub struct Cursors(Vec<u64>);

impl PickCx<'_> {
    /// The position of rotation `slot`, which moves on by one. It starts at random, so that the workers of many
    /// proxies do not all begin with the same host.
    pub fn advance(&mut self, slot: usize) -> u64 {
        while self.cursors.0.len() <= slot {
            self.cursors.0.push(self.worker.random() >> 1);
        }
        let cursor = &mut self.cursors.0[slot];
        *cursor = cursor.wrapping_add(1);
        *cursor
    }
}

/// A policy over the hosts of one locality, or of one priority when localities have no weights.
pub(crate) struct Factory {
    /// `Cluster.lb_policy`
    pub(crate) policy: LbPolicy,
    /// The policy's name among `Cluster.load_balancing_policy.policies`.
    pub(crate) name: &'static str,
    /// Makes the balancer over these hosts; `slot` numbers its cursor.
    pub(crate) build: fn(hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer>,
}

/// The policies there are.
pub(crate) const FACTORIES: &[Factory] = &[Factory {
    policy: LbPolicy::RoundRobin,
    name: "envoy.load_balancing_policies.round_robin",
    build: round_robin::build,
}];

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests;
