//! `LEAST_REQUEST`: selects the host with the fewest requests under way, among a few random hosts or among all.
//!
//! This applies to hosts of equal weight. With unequal weights, each host's weight is divided by its requests under
//! way, and the hosts take turns by the resulting weights.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::core::v3::RuntimeDouble as RuntimeDoubleMessage;
use outrider_config::api::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest as LeastRequestMessage;
use outrider_config::api::envoy::extensions::load_balancing_policies::least_request::v3::least_request::SelectionMethod;
use outrider_config::unpack;
use outrider_runtime::RuntimeDouble;
use prost_types::Any;

use super::HostPolicy;
use super::LoadBalancer;
use super::PickCx;
use super::config::LocalityBalancing;
use super::config::Policy;
use super::config::PolicyConfig;
use super::slow_start::SlowStart;
use super::weights_are_equal;
use crate::Host;

/// The default of `choice_count`.
const CHOICES: u32 = 2;

/// The policy as configured.
#[derive(Clone, Debug)]
struct LeastRequestPolicy {
    selection: Selection,
    /// `active_request_bias`: how strongly the requests under way reduce the weight.
    bias: Option<RuntimeDouble>,
    slow_start: Option<SlowStart>,
}

/// Which hosts are compared if all have the same weight.
#[derive(Clone, Copy, Debug)]
enum Selection {
    /// This many random hosts, possibly the same one twice.
    Choices(u32),
    /// All hosts. Among equals, the choice is random.
    FullScan,
}

/// Hosts of equal weight.
#[derive(Debug)]
struct Unweighted {
    hosts: Vec<Arc<Host>>,
    selection: Selection,
}

/// Hosts of unequal weights, or with hosts in slow start.
#[derive(Debug)]
struct Weighted {
    hosts: Arc<[Arc<Host>]>,
    bias: Option<RuntimeDouble>,
    slow_start: Option<SlowStart>,
    slot: usize,
}

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    use outrider_config::api::envoy::config::cluster::v3::cluster::LbConfig;
    let config = match &cluster.lb_config {
        Some(LbConfig::LeastRequestLbConfig(config)) => config.clone(),
        _ => Default::default(),
    };
    let path = path
        .field("least_request_lb_config")
        .field("slow_start_config");
    let slow_start = SlowStart::of_cluster(config.slow_start_config.as_ref(), &path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(LeastRequestPolicy {
            selection: Selection::Choices(config.choice_count.unwrap_or(CHOICES)),
            bias: bias(config.active_request_bias.as_ref()),
            slow_start,
        })),
        localities: LocalityBalancing::of_cluster(cluster),
    })
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    config: &Any,
    _cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: LeastRequestMessage = unpack(config, path)?;
    let slow_start_path = path.field("slow_start_config");
    let slow_start = SlowStart::of_policy(message.slow_start_config.as_ref(), &slow_start_path)?;
    Ok(PolicyConfig {
        policy: Policy::Hosts(Arc::new(LeastRequestPolicy {
            selection: match message.selection_method() {
                SelectionMethod::NChoices => {
                    Selection::Choices(message.choice_count.unwrap_or(CHOICES))
                }
                SelectionMethod::FullScan => Selection::FullScan,
            },
            bias: bias(message.active_request_bias.as_ref()),
            slow_start,
        })),
        localities: LocalityBalancing::of_policy(message.locality_lb_config.as_ref()),
    })
}

fn bias(message: Option<&RuntimeDoubleMessage>) -> Option<RuntimeDouble> {
    message.map(RuntimeDouble::of)
}

impl HostPolicy for LeastRequestPolicy {
    fn balance(&self, hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer> {
        let starting = self.slow_start.as_ref();
        let starting = starting.filter(|slow_start| slow_start.concerns(&hosts));
        if weights_are_equal(&hosts) && starting.is_none() {
            let selection = self.selection;
            Box::new(Unweighted { hosts, selection })
        } else {
            Box::new(Weighted {
                hosts: hosts.into(),
                bias: self.bias.clone(),
                slow_start: starting.cloned(),
                slot,
            })
        }
    }
}

impl LoadBalancer for Unweighted {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        match self.selection {
            Selection::FullScan => self.least_of_all(cx),
            Selection::Choices(count) => self.least_of_choices(count, cx),
        }
    }
}

impl Unweighted {
    fn least_of_choices(&self, count: u32, cx: &PickCx<'_>) -> Option<&Arc<Host>> {
        let mut chosen = self.hosts.get(cx.random_below(self.hosts.len())?)?;
        // A single host needs no comparison.
        let others = if self.hosts.len() > 1 { 1..count } else { 0..0 };
        for _ in others {
            let other = self.hosts.get(cx.random_below(self.hosts.len())?)?;
            if active(other) < active(chosen) {
                chosen = other;
            }
        }
        Some(chosen)
    }

    fn least_of_all(&self, cx: &PickCx<'_>) -> Option<&Arc<Host>> {
        let mut hosts = self.hosts.iter();
        let mut chosen = hosts.next()?;
        let mut least = active(chosen);
        let mut equals = 1;
        for host in hosts {
            let active = active(host);
            if active > least {
                continue;
            }
            // The n-th of equal hosts replaces the current one with probability 1/n. In the end, all have had the same
            // probability.
            equals = if active < least { 1 } else { equals + 1 };
            least = active;
            if cx.random_below(equals) == Some(0) {
                chosen = host;
            }
        }
        Some(chosen)
    }
}

impl LoadBalancer for Weighted {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let runtime = cx.worker.runtime();
        let runtime = runtime.as_deref().map(|runtime| &**runtime);
        let bias = self.bias.as_ref().map_or(1.0, |bias| {
            let value = bias.value(runtime);
            // As in Envoy, a bias that is not a positive number counts as 1.
            if value >= 0.0 { value } else { 1.0 }
        });
        cx.next_in_queue(self.slot, &self.hosts, |host| {
            #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
            let active = active(host) as f64;
            let share = self.slow_start.as_ref();
            let share = share.map_or(1.0, |slow_start| slow_start.share(host, runtime));
            share * f64::from(host.weight()) / (active + 1.0).powf(bias)
        })
    }
}

/// The requests under way on a host, from all workers.
fn active(host: &Host) -> i64 {
    host.stats.rq_active.value()
}
