//! Computes the share of requests that each priority gets.
//!
//! The arithmetic is Envoy's: a priority can take its healthy share times the overprovisioning factor, at most 100 %.
//! The rest goes to the next priority. Below the panic threshold, health is ignored.

use super::BalancerConfig;
use crate::Health;
use crate::Host;
use crate::host_set::PriorityHosts;

/// The shares of all priorities, and which priorities are in panic.
#[derive(Debug)]
pub(super) struct PriorityLoads {
    /// Shares of the requests in percent. They add up to 100 unless there is no host.
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    pub(super) panics: Vec<bool>,
}

/// A priority, and which of its hosts may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChosenPriority {
    pub(super) index: usize,
    pub(super) degraded: bool,
}

impl PriorityLoads {
    /// The shares of these priorities. There must be at least one.
    pub(super) fn new(priorities: &[PriorityHosts], config: &BalancerConfig) -> PriorityLoads {
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
        let (healthy, degraded) = if everywhere {
            (panic_load(priorities), vec![0; priorities.len()])
        } else {
            loads(&availability, total)
        };
        PriorityLoads {
            healthy,
            degraded,
            panics,
        }
    }

    /// Selects the priority for a request by `number`, which is random or the request's hash. It is called only if
    /// needed.
    pub(super) fn choose(&self, number: impl FnOnce() -> u64) -> Option<ChosenPriority> {
        if self.healthy.first() == Some(&100) {
            return Some(ChosenPriority {
                index: 0,
                degraded: false,
            });
        }
        let mut point = number() % 100;
        for (loads, degraded) in [(&self.healthy, false), (&self.degraded, true)] {
            for (index, load) in loads.iter().enumerate() {
                match point.checked_sub(u64::from(*load)) {
                    None => return Some(ChosenPriority { index, degraded }),
                    Some(rest) => point = rest,
                }
            }
        }
        None
    }
}

/// How much of a priority can be used, in percent.
#[derive(Clone, Copy)]
struct Availability {
    /// Healthy hosts, overprovisioned and capped.
    healthy: u32,
    /// Degraded hosts, overprovisioned and capped.
    degraded: u32,
    /// Healthy and degraded hosts, without overprovisioning.
    usable_percent: u32,
}

impl Availability {
    fn of(priority: &PriorityHosts, config: &BalancerConfig) -> Availability {
        let sum = |usable: fn(&Host) -> bool| -> u64 {
            priority
                .iter()
                .filter(|host| usable(host))
                .map(|host| match config.weighted_priority_health {
                    true => u64::from(host.weight()),
                    false => 1,
                })
                .sum()
        };
        // Hosts that the config drains, or that were not checked yet, do not count as unhealthy.
        let total = sum(|host| !host.is_excluded()).max(1);
        let healthy = sum(|host| host.health() == Health::Healthy);
        let degraded = sum(|host| host.health() == Health::Degraded);
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

/// The shares of healthy and of degraded hosts by priority, if at least one priority is not in panic.
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
    // The remainder of rounding goes to the first priority that has a share.
    let mut takers = healthy.iter_mut().chain(&mut degraded);
    if let Some(first) = takers.find(|load| **load > 0) {
        *first += left;
    } else if let Some(first) = healthy.first_mut() {
        // No host may be used and panic is off: the first priority gets all requests and fails them.
        *first = 100;
    }
    (healthy, degraded)
}

/// The shares if every priority is in panic: by the number of hosts.
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
