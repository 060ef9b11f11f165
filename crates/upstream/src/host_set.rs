//! The hosts of a cluster at one moment, by priority and locality, with the balancer built for them.
//!
//! A set never changes. Discovery publishes a new one, and workers replace theirs as a whole.

use std::fmt;
use std::sync::Arc;

use crate::HealthStatus;
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
    /// All hosts of the priority.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.localities.iter().flat_map(|locality| &locality.hosts)
    }
}

/// A cluster's hosts, and the balancer for them.
pub struct HostSet {
    priorities: Vec<PriorityHosts>,
    balancer: Box<dyn LoadBalancer>,
}

impl HostSet {
    pub(crate) fn new(priorities: Vec<PriorityHosts>, balancer: Box<dyn LoadBalancer>) -> HostSet {
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

    /// The number of hosts with this health.
    #[must_use]
    pub fn count(&self, health: HealthStatus) -> usize {
        self.iter().filter(|host| host.health() == health).count()
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
