//! `RANDOM`: a random host, regardless of weights.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::extensions::load_balancing_policies::random::v3::Random as RandomMessage;
use outrider_config::unpack;
use prost_types::Any;

use super::HostPolicy;
use super::LoadBalancer;
use super::PickCx;
use super::config::LocalityBalancing;
use super::config::Policy;
use super::config::PolicyConfig;
use crate::Host;

#[derive(Debug)]
struct RandomPolicy;

/// The hosts of one locality, or of one priority.
#[derive(Debug)]
struct Random {
    hosts: Vec<Arc<Host>>,
}

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    _path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RandomPolicy)),
        localities: LocalityBalancing::of_cluster(cluster),
    })
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    config: &Any,
    _cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: RandomMessage = unpack(config, path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RandomPolicy)),
        localities: LocalityBalancing::of_policy(message.locality_lb_config.as_ref()),
    })
}

impl HostPolicy for RandomPolicy {
    fn balance(&self, hosts: Vec<Arc<Host>>, _slot: usize) -> Box<dyn LoadBalancer> {
        Box::new(Random { hosts })
    }
}

impl LoadBalancer for Random {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        self.hosts.get(cx.random_below(self.hosts.len())?)
    }
}
