//! `ROUND_ROBIN`: the hosts in turn, each as often as its weight says.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin as RoundRobinMessage;
use outrider_config::unpack;
use prost_types::Any;

use super::HostPolicy;
use super::LoadBalancer;
use super::PickCx;
use super::config::LocalityBalancing;
use super::config::Policy;
use super::config::PolicyConfig;
use super::schedule::Schedule;
use crate::Host;

#[derive(Debug)]
struct RoundRobinPolicy;

/// The hosts of one locality, or of one priority.
#[derive(Debug)]
struct RoundRobin {
    hosts: Vec<Arc<Host>>,
    schedule: Schedule,
    slot: usize,
}

/// See [`Factory::of_cluster`](super::Factory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    _path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RoundRobinPolicy)),
        localities: LocalityBalancing::of_cluster(cluster),
    })
}

/// See [`Factory::of_extension`](super::Factory::of_extension).
pub(super) fn of_extension(
    config: &Any,
    _cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: RoundRobinMessage = unpack(config, path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RoundRobinPolicy)),
        localities: LocalityBalancing::of_policy(message.locality_lb_config.as_ref()),
    })
}

impl HostPolicy for RoundRobinPolicy {
    fn balance(&self, hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer> {
        let schedule = Schedule::new(hosts.iter().map(|host| host.weight()));
        Box::new(RoundRobin {
            hosts,
            schedule,
            slot,
        })
    }
}

impl LoadBalancer for RoundRobin {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let index = self.schedule.at(|| cx.advance(self.slot))?;
        self.hosts.get(index)
    }
}
