//! The balancer of every cluster: which priority, then which locality; the policy does the rest.
//!
//! The arithmetic is Envoy's: a priority can take its healthy share times the overprovisioning factor, capped at 100 %;
//! what it cannot take goes to the next. Below the panic threshold, health is ignored.

use std::sync::Arc;

use super::BalancerConfig;
use super::LoadBalancer;
use super::PickCx;
use super::config::LocalityBalancing;
use super::schedule::Schedule;
use crate::HealthStatus;
use crate::Host;
use crate::host_set::LocalityHosts;
use crate::host_set::PriorityHosts;

#[derive(Debug)]
pub(crate) struct Priorities {
    priorities: Vec<PriorityLevel>,
    /// Shares of the requests, percent; they add up to 100 unless there is no host.
    healthy_load: Vec<u32>,
    degraded_load: Vec<u32>,
    fail_on_panic: bool,
}

/// One priority's hosts by what may be asked of them.
#[derive(Debug)]
enum PriorityLevel {
    Normal {
        healthy: Tier,
        degraded: Tier,
    },
    /// Health is ignored.
    Panic {
        all: Tier,
    },
}

/// Some hosts of one priority: by locality if localities have weights, else all in one.
#[derive(Debug)]
struct Tier {
    localities: Vec<Box<dyn LoadBalancer>>,
    schedule: Schedule,
    slot: usize,
}

impl Priorities {
    pub(crate) fn new(priorities: &[PriorityHosts], config: &BalancerConfig) -> Priorities {
        // There always is a first priority, and an empty one is in panic.
        let first = [PriorityHosts::default()];
        let priorities = if priorities.is_empty() {
            &first
        } else {
            priorities
        };
        let availability: Vec<Availability> = priorities
            .iter()
            .map(|priority| Availability::of(priority, config))
            .collect();
        let total = availability
            .iter()
            .map(|a| a.healthy + a.degraded)
            .sum::<u32>()
            .min(100);
        let panics: Vec<bool> = availability
            .iter()
            .map(|a| total < 100 && a.usable_percent < config.panic_threshold)
            .collect();
        let everywhere = panics.iter().all(|panic| *panic);
        let (healthy_load, degraded_load) = if everywhere {
            (panic_load(priorities), vec![0; priorities.len()])
        } else {
            loads(&availability, total)
        };
        let mut slots = Slots(0);
        let priorities = priorities
            .iter()
            .zip(panics)
            .map(|(hosts, panic)| PriorityLevel::new(hosts, panic, config, &mut slots))
            .collect();
        Priorities {
            priorities,
            healthy_load,
            degraded_load,
            fail_on_panic: config.localities.fail_traffic_on_panic,
        }
    }

    /// The priority for a request, and whether its degraded hosts are meant.
    fn choose(&self, cx: &PickCx<'_>) -> Option<(&PriorityLevel, bool)> {
        if self.healthy_load.first() == Some(&100) {
            return self.priorities.first().map(|level| (level, false));
        }
        let mut point = cx.worker.random() % 100;
        for (loads, degraded) in [(&self.healthy_load, false), (&self.degraded_load, true)] {
            for (level, load) in self.priorities.iter().zip(loads) {
                match point.checked_sub(u64::from(*load)) {
                    None => return Some((level, degraded)),
                    Some(rest) => point = rest,
                }
            }
        }
        None
    }
}

impl LoadBalancer for Priorities {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let (level, degraded) = self.choose(cx)?;
        let tier = match level {
            PriorityLevel::Normal { healthy, .. } if !degraded => healthy,
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
    fn new(hosts: &PriorityHosts, panic: bool, config: &BalancerConfig, slots: &mut Slots) -> Self {
        if panic {
            // Nor do the weights of localities count.
            let config = BalancerConfig {
                localities: LocalityBalancing::default(),
                ..config.clone()
            };
            PriorityLevel::Panic {
                all: Tier::new(hosts, |_| true, &config, slots),
            }
        } else {
            let mut tier =
                |usable: fn(HealthStatus) -> bool| Tier::new(hosts, usable, config, slots);
            PriorityLevel::Normal {
                healthy: tier(|health| health == HealthStatus::Healthy),
                degraded: tier(|health| health == HealthStatus::Degraded),
            }
        }
    }
}

impl Tier {
    fn new(
        priority: &PriorityHosts,
        usable: fn(HealthStatus) -> bool,
        config: &BalancerConfig,
        slots: &mut Slots,
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
        // Without any weight, localities play no part, as in Envoy.
        if weights.iter().all(|weight| *weight == 0) {
            groups = vec![priority.localities.iter().flat_map(of).collect()];
            groups.retain(|hosts: &Vec<_>| !hosts.is_empty());
            weights = vec![1; groups.len()];
        }
        Tier {
            localities: groups
                .into_iter()
                .map(|hosts| config.policy.balance(hosts, slots.take()))
                .collect(),
            schedule: Schedule::new(weights.into_iter()),
            slot,
        }
    }

    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let locality = self.schedule.at(|| cx.advance(self.slot))?;
        self.localities.get(locality)?.pick(cx)
    }
}

/// Numbers the cursors: the same number for the same place in the next set of hosts, as long as the localities stay.
struct Slots(usize);

impl Slots {
    fn take(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }
}

/// What part of a priority may be used, percent.
#[derive(Clone, Copy)]
struct Availability {
    /// Overprovisioned and capped.
    healthy: u32,
    /// Overprovisioned and capped.
    degraded: u32,
    /// Healthy and degraded, as it is.
    usable_percent: u32,
}

impl Availability {
    fn of(priority: &PriorityHosts, config: &BalancerConfig) -> Availability {
        let sum = |usable: fn(HealthStatus) -> bool| -> u64 {
            priority
                .iter()
                .filter(|host| usable(host.health()))
                .map(|host| match config.weighted_priority_health {
                    true => u64::from(host.weight()),
                    false => 1,
                })
                .sum()
        };
        // Hosts that are told to drain are no sign of trouble.
        let total = sum(|health| health != HealthStatus::Draining).max(1);
        let healthy = sum(|health| health == HealthStatus::Healthy);
        let degraded = sum(|health| health == HealthStatus::Degraded);
        let factor = u64::from(config.overprovisioning_factor);
        Availability {
            healthy: percent(factor * healthy / total),
            degraded: percent(factor * degraded / total),
            usable_percent: percent(100 * (healthy + degraded) / total),
        }
    }
}

fn percent(value: u64) -> u32 {
    u32::try_from(value.min(100)).unwrap_or(100)
}

/// The shares of healthy and of degraded hosts, by priority, when some priority is not in panic.
fn loads(availability: &[Availability], total: u32) -> (Vec<u32>, Vec<u32>) {
    let mut left = 100;
    let mut share = |part: fn(&Availability) -> u32| -> Vec<u32> {
        availability
            .iter()
            .map(|a| {
                let load = (part(a) * 100).checked_div(total).unwrap_or(0).min(left);
                left -= load;
                load
            })
            .collect()
    };
    let mut healthy = share(|a| a.healthy);
    let mut degraded = share(|a| a.degraded);
    // What rounding left over goes to the first that takes anything.
    let mut takers = healthy.iter_mut().chain(&mut degraded);
    if let Some(first) = takers.find(|load| **load > 0) {
        *first += left;
    } else if let Some(first) = healthy.first_mut() {
        // No host may be used and panic is off: the first priority will say so.
        *first = 100;
    }
    (healthy, degraded)
}

/// The shares when every priority is in panic: by number of hosts.
fn panic_load(priorities: &[PriorityHosts]) -> Vec<u32> {
    let counts: Vec<usize> = priorities.iter().map(|p| p.iter().count()).collect();
    let total: usize = counts.iter().sum();
    let mut loads: Vec<u32> = counts
        .iter()
        .map(|count| percent((count * 100).checked_div(total).unwrap_or(0) as u64))
        .collect();
    let left = 100 - loads.iter().sum::<u32>();
    if let Some(first) = (0..loads.len()).find(|p| counts[*p] > 0).or(Some(0)) {
        loads[first] += left;
    }
    loads
}

/// `LocalityLbEndpoints.load_balancing_weight`, less what its unusable hosts cannot carry.
fn locality_weight(locality: &LocalityHosts, usable: usize, config: &BalancerConfig) -> u32 {
    if locality.hosts.is_empty() {
        return 0;
    }
    let factor = u64::from(config.overprovisioning_factor);
    let available = (factor * usable as u64 / locality.hosts.len() as u64).min(100);
    u32::try_from(u64::from(locality.weight) * available).unwrap_or(u32::MAX)
}
