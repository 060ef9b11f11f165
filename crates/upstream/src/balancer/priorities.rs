//! Balances clusters whose policy does not use hashes: selects the priority, then the locality, then lets the policy
//! pick.

use std::sync::Arc;

use super::BalancerConfig;
use super::BalancerCx;
use super::HostPolicy;
use super::LoadBalancer;
use super::PickCx;
use super::Slots;
use super::config::LocalityBalancing;
use super::loads::PriorityLoads;
use super::schedule::Schedule;
use super::zones::ZoneChoice;
use super::zones::ZoneRouting;
use crate::Health;
use crate::Host;
use crate::host_set::LocalityHosts;
use crate::host_set::PriorityHosts;

#[derive(Debug)]
pub(crate) struct Priorities {
    priorities: Vec<PriorityLevel>,
    loads: PriorityLoads,
    fail_on_panic: bool,
}

/// The hosts of one priority, by health.
#[derive(Debug)]
enum PriorityLevel {
    Normal {
        healthy: Tier,
        degraded: Tier,
        /// For the first priority, if it is routed by zone.
        zones: Option<ZoneRouting>,
    },
    /// In panic: health is ignored.
    Panic { all: Tier },
}

/// Hosts of one priority and health: by locality if localities are weighted, otherwise all together.
#[derive(Debug)]
struct Tier {
    localities: Vec<Box<dyn LoadBalancer>>,
    schedule: Schedule,
    slot: usize,
    /// Whether the localities are chosen by their weights.
    is_weighted: bool,
}

impl Priorities {
    /// A balancer for these priorities. There must be at least one.
    pub(crate) fn new(
        priorities: &[PriorityHosts],
        config: &BalancerConfig,
        (policy, cx): (&dyn HostPolicy, &mut BalancerCx<'_>),
    ) -> Priorities {
        let loads = PriorityLoads::new(priorities, config);
        let slots = &mut cx.slots;
        let mut level = |(hosts, panic): (&PriorityHosts, &bool)| {
            PriorityLevel::new(hosts, *panic, config, (policy, &mut *slots))
        };
        let built = priorities.iter().zip(&loads.panics).map(&mut level);
        let mut levels: Vec<PriorityLevel> = built.collect();
        // Last, so that the slots of the others are the same with and without it.
        if let (Some(local), Some(hosts)) = (&cx.local, priorities.first()) {
            let (aware, threshold) = (&config.localities.zones, config.panic_threshold);
            let routing = aware.routing(hosts, local, threshold, (policy, slots));
            if let Some(PriorityLevel::Normal { healthy, zones, .. }) = levels.first_mut()
                && !healthy.is_weighted
            {
                *zones = routing;
            }
        }
        Priorities {
            priorities: levels,
            loads,
            fail_on_panic: config.localities.fail_traffic_on_panic,
        }
    }
}

impl LoadBalancer for Priorities {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let chosen = self.loads.choose(|| cx.worker.random())?;
        let level = self.priorities.get(chosen.index)?;
        if let PriorityLevel::Normal {
            zones: Some(zones), ..
        } = level
        {
            match zones.choose(chosen.degraded, self.fail_on_panic, cx) {
                ZoneChoice::NotRouted => {}
                ZoneChoice::Fails => return None,
                ZoneChoice::Hosts(hosts) => return hosts.pick(cx),
            }
        }
        let tier = match level {
            PriorityLevel::Normal { healthy, .. } if !chosen.degraded => healthy,
            PriorityLevel::Normal { degraded, .. } => degraded,
            PriorityLevel::Panic { all } => {
                cx.stats.lb_healthy_panic.inc();
                if self.fail_on_panic {
                    return None;
                }
                all
            }
        };
        tier.pick(cx)
    }
}

impl PriorityLevel {
    fn new(
        hosts: &PriorityHosts,
        panic: bool,
        config: &BalancerConfig,
        (policy, slots): (&dyn HostPolicy, &mut Slots),
    ) -> Self {
        if panic {
            // The weights of localities are ignored, too.
            let config = BalancerConfig {
                localities: LocalityBalancing::default(),
                ..config.clone()
            };
            PriorityLevel::Panic {
                all: Tier::new(hosts, |_| true, &config, (policy, slots)),
            }
        } else {
            let mut tier =
                |usable: fn(Health) -> bool| Tier::new(hosts, usable, config, (policy, slots));
            PriorityLevel::Normal {
                healthy: tier(|health| health == Health::Healthy),
                degraded: tier(|health| health == Health::Degraded),
                zones: None,
            }
        }
    }
}

impl Tier {
    fn new(
        priority: &PriorityHosts,
        usable: fn(Health) -> bool,
        config: &BalancerConfig,
        (policy, slots): (&dyn HostPolicy, &mut Slots),
    ) -> Tier {
        let slot = slots.take();
        let of = |locality: &LocalityHosts| -> Vec<Arc<Host>> {
            let hosts = locality.hosts.iter();
            hosts.filter(|h| usable(h.health())).cloned().collect()
        };
        let mut weights = Vec::new();
        let mut groups: Vec<Vec<Arc<Host>>> = Vec::new();
        if config.localities.weighted {
            for locality in &priority.localities {
                let hosts = of(locality);
                weights.push(locality_weight(locality, hosts.len(), config));
                groups.push(hosts);
            }
        }
        // As in Envoy, localities are not used if none has a weight.
        let is_weighted = weights.iter().any(|weight| *weight > 0);
        if !is_weighted {
            groups = vec![priority.localities.iter().flat_map(of).collect()];
            groups.retain(|hosts: &Vec<_>| !hosts.is_empty());
            weights = vec![1; groups.len()];
        }
        Tier {
            localities: groups
                .into_iter()
                .map(|hosts| policy.balance(hosts, slots.take()))
                .collect(),
            schedule: Schedule::new(weights.into_iter()),
            slot,
            is_weighted,
        }
    }

    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let locality = self.schedule.at(|| cx.advance(self.slot))?;
        self.localities.get(locality)?.pick(cx)
    }
}

/// `LocalityLbEndpoints.load_balancing_weight`, reduced by the share that unusable hosts cannot take.
fn locality_weight(locality: &LocalityHosts, usable: usize, config: &BalancerConfig) -> u32 {
    if locality.hosts.is_empty() {
        return 0;
    }
    let factor = u64::from(config.overprovisioning_factor);
    let available = (factor * usable as u64 / locality.hosts.len() as u64).min(100);
    u32::try_from(u64::from(locality.weight) * available).unwrap_or(u32::MAX)
}
