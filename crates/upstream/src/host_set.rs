//! The hosts of a cluster at one moment, by priority and locality, with the balancer built for them.
//!
//! A set never changes. Discovery publishes a new one, and workers replace theirs as a whole.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::Host;
use crate::balancer::LoadBalancer;

/// All hosts of one priority (`LocalityLbEndpoints` of equal `priority`).
#[derive(Clone, Debug, Default)]
pub struct PriorityHosts {
    /// In the order of the config.
    pub localities: Vec<LocalityHosts>,
}

/// The hosts of one locality.
#[derive(Clone, Debug, Default)]
pub struct LocalityHosts {
    /// `LocalityLbEndpoints.load_balancing_weight`; 0 if it is not set.
    pub weight: u32,
    /// Its hosts.
    pub hosts: Vec<Arc<Host>>,
}

impl PriorityHosts {
    /// Whether `other` has the same hosts in localities of the same weights, in any order within a locality.
    pub(crate) fn is_same(&self, other: &PriorityHosts) -> bool {
        let same = |(one, other): (&LocalityHosts, &LocalityHosts)| {
            let hosts: HashSet<_> = one.hosts.iter().map(Arc::as_ptr).collect();
            one.weight == other.weight
                && one.hosts.len() == other.hosts.len()
                && (other.hosts.iter()).all(|host| hosts.contains(&Arc::as_ptr(host)))
        };
        self.localities.len() == other.localities.len()
            && self.localities.iter().zip(&other.localities).all(same)
    }

    /// Adds a host that discovery no longer names to its locality, or to a new one if that has gone.
    pub(crate) fn keep(&mut self, host: Arc<Host>) {
        let mut localities = self.localities.iter_mut();
        let same = |locality: &&mut LocalityHosts| {
            let first = locality.hosts.first();
            first.is_some_and(|first| first.locality() == host.locality())
        };
        match localities.find(same) {
            Some(locality) => locality.hosts.push(host),
            None => self.localities.push(LocalityHosts {
                weight: 0,
                hosts: vec![host],
            }),
        }
    }

    /// All hosts of the priority.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.localities.iter().flat_map(|locality| &locality.hosts)
    }
}

/// A cluster's hosts, and the balancer for them.
pub struct HostSet {
    /// Sets that differ in the health of hosts only share it.
    priorities: Arc<[PriorityHosts]>,
    balancer: Box<dyn LoadBalancer>,
}

impl HostSet {
    pub(crate) fn new(
        priorities: Arc<[PriorityHosts]>,
        balancer: Box<dyn LoadBalancer>,
    ) -> HostSet {
        HostSet {
            priorities,
            balancer,
        }
    }

    /// The priorities; priority 0 is the first.
    #[must_use]
    pub fn priorities(&self) -> &[PriorityHosts] {
        &self.priorities
    }

    /// All hosts, of all priorities.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flat_map(PriorityHosts::iter)
    }

    /// Whether both sets have the same hosts.
    pub(crate) fn has_hosts_of(&self, other: &HostSet) -> bool {
        Arc::ptr_eq(&self.priorities, &other.priorities)
    }

    pub(crate) fn balancer(&self) -> &dyn LoadBalancer {
        &*self.balancer
    }
}

impl fmt::Debug for HostSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|host| host.address().to_string()))
            .finish()
    }
}
