//! Load balancers, which select the host for each request.
//!
//! A balancer is built on the main thread for each new set of hosts, and all workers share it. State that changes with
//! each pick belongs to the worker and is passed in [`PickCx`]. [`Priorities`] selects the priority and the locality
//! and then uses a policy of [`FACTORIES`]. [`Hashing`] finds the host by the hash of the request.

mod bounded_load;
mod by_name;
mod cluster_provided;
mod config;
mod hashing;
mod least_request;
mod loads;
mod maglev;
mod mersenne_twister;
mod murmur;
mod priorities;
mod queue;
mod random;
mod ring_hash;
mod round_robin;
mod schedule;
mod slow_start;
mod subset;
mod zones;

use std::fmt;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbPolicy;
use outrider_config::api::envoy::extensions::load_balancing_policies::cluster_provided::v3::ClusterProvided;
use outrider_config::api::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use outrider_config::api::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use outrider_config::api::envoy::extensions::load_balancing_policies::random::v3::Random;
use outrider_config::api::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use outrider_config::api::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use outrider_config::api::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use outrider_net::WorkerCx;
use prost::Name;
use prost_types::Any;

use crate::Breakers;
use crate::Host;
use crate::MembershipStats;
use crate::MetadataMatchCriteria;
use crate::PriorityHosts;
use crate::stats::ClusterStats;

use by_name::ByName;
pub use config::BalancerConfig;
use config::Policy;
use config::PolicyConfig;
use hashing::Hashing;
use priorities::Priorities;
use queue::DeadlineQueue;
pub use subset::Subsets;
pub(crate) use zones::LocalProxies;

/// Picks a host. Workers call `pick` for every attempt: it must not lock, log, or (after warm-up) allocate.
pub trait LoadBalancer: fmt::Debug + Send + Sync {
    /// The host for the next attempt; `None` if no host may be used.
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>>;

    /// The subsets that it divides the hosts into, if it does.
    fn subsets(&self) -> Option<&Subsets> {
        None
    }
}

/// A policy that picks among hosts that it treats alike: those of one locality, or of one priority if localities are
/// not used.
pub(crate) trait HostPolicy: fmt::Debug + Send + Sync {
    /// Builds the balancer for these hosts. `slot` is the index of its [cursor](Cursors).
    fn balance(&self, hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer>;
}

/// What a balancer is built with, apart from its hosts and settings.
#[derive(Debug)]
pub(crate) struct BalancerCx<'a> {
    /// Where the sizes of tables are set.
    pub(crate) stats: &'a MembershipStats,
    /// For routing by zone, if there is a local cluster.
    pub(crate) local: Option<LocalProxies<'a>>,
    slots: Slots,
}

impl<'a> BalancerCx<'a> {
    pub(crate) fn new(stats: &'a MembershipStats, local: Option<LocalProxies<'a>>) -> Self {
        BalancerCx {
            stats,
            local,
            slots: Slots::default(),
        }
    }
}

/// Builds the balancer for these hosts.
pub(crate) fn build(
    priorities: &[PriorityHosts],
    config: &BalancerConfig,
    mut cx: BalancerCx<'_>,
) -> Box<dyn LoadBalancer> {
    // There is always a first priority. An empty one is in panic.
    let first = [PriorityHosts::default()];
    let priorities = if priorities.is_empty() {
        &first
    } else {
        priorities
    };
    balance(priorities, config, &config.policy, &mut cx)
}

/// Builds the balancer of `policy` for these hosts. There must be at least one priority.
fn balance(
    priorities: &[PriorityHosts],
    config: &BalancerConfig,
    policy: &Policy,
    cx: &mut BalancerCx<'_>,
) -> Box<dyn LoadBalancer> {
    match policy {
        Policy::Hosts(policy) => Box::new(Priorities::new(priorities, config, (&**policy, cx))),
        Policy::Hashing(hashing) => Box::new(Hashing::new(priorities, config, hashing, cx.stats)),
        Policy::Subsets(policy) => Box::new(Subsets::new(priorities, config, policy, cx)),
        Policy::ByName => Box::new(ByName::new(priorities)),
    }
}

/// Assigns indexes to cursors. A rotation keeps its index in the next set of hosts as long as the list of localities and
/// subsets stays the same.
#[derive(Debug, Default)]
struct Slots(usize);

impl Slots {
    fn take(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }
}

/// The properties of a request that select its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// The metadata that the host must have. Needed only if [`BalancerConfig::uses_metadata`].
    pub metadata_match: Option<&'a MetadataMatchCriteria>,
    /// The name of the host. Needed only if requests name the hosts ([`ClusterInfo::dynamic_hosts`](crate::ClusterInfo)).
    pub dynamic_host: Option<&'a str>,
    /// The hash from the route's `hash_policy`. Needed only if [`BalancerConfig::uses_hash`].
    pub hash: Option<u64>,
    /// How many hosts were picked for the same attempt and rejected (`retry_host_predicate`).
    pub rejected: u32,
}

/// The worker's state that a pick uses.
#[derive(Debug)]
pub struct PickCx<'a> {
    /// The properties of the request.
    pub request: PickRequest<'a>,
    /// The source of random numbers and runtime values.
    pub worker: &'a WorkerCx,
    /// The positions of this worker's rotations.
    pub cursors: &'a mut Cursors,
    /// The cluster's `lb_*` counters.
    pub stats: &'a ClusterStats,
    /// The cluster's circuit breakers, which count the requests under way.
    pub breakers: &'a Breakers,
}

/// The positions of all rotations of one cluster on one worker. They outlive the sets of hosts, so that after an update
/// the rotation does not start at the first host again.
#[derive(Debug, Default)]
pub struct Cursors {
    list: Vec<Cursor>,
    scratch: Vec<usize>,
}

#[derive(Debug)]
struct Cursor {
    position: u64,
    /// For rotations that a precomputed table cannot represent.
    queue: Option<Box<DeadlineQueue>>,
}

impl Cursors {
    /// Scratch space for a list of hosts, so that picks do not allocate.
    fn scratch(&mut self) -> &mut Vec<usize> {
        &mut self.scratch
    }
}

impl PickCx<'_> {
    /// Returns the position of rotation `slot` and advances it by one. It starts at random, so that the workers of many
    /// proxies do not all begin with the same host.
    pub fn advance(&mut self, slot: usize) -> u64 {
        let cursor = self.cursor(slot);
        cursor.position = cursor.position.wrapping_add(1);
        cursor.position
    }

    /// The next of `hosts` in this worker's rotation `slot`. `weight` is called for a host each time it is scheduled.
    fn next_in_queue<'h>(
        &mut self,
        slot: usize,
        hosts: &'h Arc<[Arc<Host>]>,
        weight: impl Fn(&Host) -> f64,
    ) -> Option<&'h Arc<Host>> {
        let worker = self.worker;
        let queue = &mut self.cursor(slot).queue;
        match queue {
            Some(queue) if queue.is_of(hosts) => queue.next(hosts, weight),
            _ => queue
                .insert(Box::new(DeadlineQueue::new(hosts, worker, &weight)))
                .next(hosts, weight),
        }
    }

    /// A random number below `count`; `None` if `count` is 0.
    fn random_below(&self, count: usize) -> Option<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the remainder of a division by a length fits"
        )]
        (self.worker.random())
            .checked_rem(count as u64)
            .map(|number| number as usize)
    }

    fn cursor(&mut self, slot: usize) -> &mut Cursor {
        let cursors = &mut self.cursors.list;
        while cursors.len() <= slot {
            cursors.push(Cursor {
                position: self.worker.random() >> 1,
                queue: None,
            });
        }
        &mut cursors[slot]
    }
}

/// Builds a policy from the fields of a cluster.
type OfCluster = fn(&Cluster, &FieldPath) -> Result<PolicyConfig, ConfigErrors>;

/// A policy that can be configured.
pub(crate) struct LoadBalancerFactory {
    /// `Cluster.lb_policy`, and what builds the policy from the fields of a cluster that has it.
    lb_policy: Option<(LbPolicy, OfCluster)>,
    /// The message of the policy among `Cluster.load_balancing_policy.policies`.
    type_name: fn() -> String,
    /// Builds the policy from its message, for a cluster.
    of_extension: fn(&Any, &Cluster, &FieldPath) -> Result<PolicyConfig, ConfigErrors>,
}

/// All supported policies.
#[rustfmt::skip]
pub(crate) const FACTORIES: &[LoadBalancerFactory] = &[
    LoadBalancerFactory { lb_policy: Some((LbPolicy::RoundRobin, round_robin::of_cluster)), type_name: RoundRobin::full_name, of_extension: round_robin::of_extension },
    LoadBalancerFactory { lb_policy: Some((LbPolicy::LeastRequest, least_request::of_cluster)), type_name: LeastRequest::full_name, of_extension: least_request::of_extension },
    LoadBalancerFactory { lb_policy: Some((LbPolicy::Random, random::of_cluster)), type_name: Random::full_name, of_extension: random::of_extension },
    LoadBalancerFactory { lb_policy: Some((LbPolicy::RingHash, ring_hash::of_cluster)), type_name: RingHash::full_name, of_extension: ring_hash::of_extension },
    LoadBalancerFactory { lb_policy: Some((LbPolicy::Maglev, maglev::of_cluster)), type_name: Maglev::full_name, of_extension: maglev::of_extension },
    LoadBalancerFactory { lb_policy: Some((LbPolicy::ClusterProvided, cluster_provided::of_cluster)), type_name: ClusterProvided::full_name, of_extension: cluster_provided::of_extension },
    LoadBalancerFactory { lb_policy: None, type_name: Subset::full_name, of_extension: subset::of_extension },
];

fn weights_are_equal(hosts: &[Arc<Host>]) -> bool {
    hosts
        .windows(2)
        .all(|pair| matches!(pair, [one, next] if one.weight() == next.weight()))
}

#[cfg(test)]
mod tests;
