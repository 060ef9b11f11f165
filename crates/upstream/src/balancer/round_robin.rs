//! `ROUND_ROBIN`: the hosts in turn, in proportion to their weights.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbConfig;
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
use super::slow_start::SlowStart;
use crate::Host;

#[derive(Debug)]
struct RoundRobinPolicy {
    slow_start: Option<SlowStart>,
}

/// The hosts of one locality, or of one priority.
#[derive(Debug)]
struct RoundRobin {
    hosts: Vec<Arc<Host>>,
    schedule: Schedule,
    slot: usize,
}

/// The same, while some hosts are in slow start.
#[derive(Debug)]
struct SlowStartRoundRobin {
    hosts: Arc<[Arc<Host>]>,
    slow_start: SlowStart,
    slot: usize,
}

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let config = match &cluster.lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.as_ref(),
        _ => None,
    };
    let path = path
        .field("round_robin_lb_config")
        .field("slow_start_config");
    let slow_start = SlowStart::of_cluster(config, &path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RoundRobinPolicy { slow_start })),
        localities: LocalityBalancing::of_cluster(cluster),
    })
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    config: &Any,
    _cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: RoundRobinMessage = unpack(config, path)?;
    let slow_start_path = path.field("slow_start_config");
    let slow_start = SlowStart::of_policy(message.slow_start_config.as_ref(), &slow_start_path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(RoundRobinPolicy { slow_start })),
        localities: LocalityBalancing::of_policy(message.locality_lb_config.as_ref()),
    })
}

impl HostPolicy for RoundRobinPolicy {
    fn balance(&self, hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer> {
        if let Some(slow_start) = &self.slow_start
            && slow_start.concerns(&hosts)
        {
            return Box::new(SlowStartRoundRobin {
                hosts: hosts.into(),
                slow_start: slow_start.clone(),
                slot,
            });
        }
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

impl LoadBalancer for SlowStartRoundRobin {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let runtime = cx.worker.runtime();
        let runtime = runtime.as_deref().map(|runtime| &**runtime);
        cx.next_in_queue(self.slot, &self.hosts, |host| {
            f64::from(host.weight()) * self.slow_start.share(host, runtime)
        })
    }
}
