//! Zone-aware routing: requests stay in the zone of the proxy, as far as the hosts there can take them.
//!
//! The proxies of the local cluster (`local_cluster_name`) are assumed to send equal loads. If the zone's share of the
//! hosts is at least its share of the proxies, all requests stay in the zone; else as many as the hosts' share allows,
//! and the others go to the zones that have room left. It is done for the first priority only.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_config::api::envoy::config::cluster::v3::cluster::common_lb_config::ZoneAwareLbConfig as LegacyZoneAware;
use outrider_config::api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::ZoneAwareLbConfig;
use outrider_config::api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::zone_aware_lb_config::LocalityBasis;
use outrider_runtime::Snapshot;

use super::HostPolicy;
use super::LoadBalancer;
use super::PickCx;
use super::Slots;
use crate::Health;
use crate::Host;
use crate::Locality;
use crate::host_set::PriorityHosts;
use crate::stats::BalancingStats;

/// The shares of hosts and proxies are counted in parts of this.
const WHOLE: u64 = 10_000;

/// `ZoneAwareLbConfig`
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZoneAware {
    /// `routing_enabled`, percent.
    enabled: u64,
    /// `min_cluster_size`
    min_cluster_size: u64,
    /// `force_local_zone.min_size`; 0 if the local zone is not forced.
    forced_from: u64,
    /// `locality_basis: HEALTHY_HOSTS_WEIGHT`
    by_weight: bool,
}

/// What zone-aware routing needs to know of the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalProxies<'a> {
    /// The locality of this proxy, if it is known.
    pub(crate) locality: Option<&'a Locality>,
    /// The hosts of the local cluster's first priority.
    pub(crate) hosts: &'a PriorityHosts,
    pub(crate) runtime: &'a Snapshot,
    /// Where decisions about new sets of hosts are counted, and how often each.
    pub(crate) stats: &'a BalancingStats,
    pub(crate) threads: u64,
}

/// How the requests of one priority are routed by zone.
#[derive(Debug)]
pub(super) struct ZoneRouting {
    enabled: u64,
    /// Whether too few proxies of the local cluster are healthy to be relied on.
    local_panics: bool,
    /// The zones' hosts; the local zone first, if it has any.
    zones: Vec<ZoneHosts>,
    state: ZoneState,
}

#[derive(Debug)]
struct ZoneHosts {
    healthy: Box<dyn LoadBalancer>,
    degraded: Box<dyn LoadBalancer>,
}

#[derive(Debug, PartialEq, Eq)]
enum ZoneState {
    /// All requests stay in the local zone.
    Direct,
    /// A part does.
    Residual {
        /// How many of [`WHOLE`] stay.
        local: u64,
        /// What each zone can take of the others, added up.
        capacity: Box<[u64]>,
    },
}

/// The result of a choice by zone.
pub(super) enum ZoneChoice<'a> {
    /// The request is not routed by zone.
    NotRouted,
    /// The request fails, because too few proxies of the local cluster are healthy.
    Fails,
    /// The hosts to pick from.
    Hosts(&'a dyn LoadBalancer),
}

impl Default for ZoneAware {
    fn default() -> ZoneAware {
        ZoneAware {
            enabled: 100,
            min_cluster_size: 6,
            forced_from: 0,
            by_weight: false,
        }
    }
}

impl ZoneAware {
    /// Reads `common_lb_config.zone_aware_lb_config`.
    pub(super) fn of_cluster(config: &LegacyZoneAware) -> ZoneAware {
        let default = ZoneAware::default();
        ZoneAware {
            enabled: (config.routing_enabled).map_or(100, |percent| rounded(percent.value)),
            min_cluster_size: config.min_cluster_size.unwrap_or(default.min_cluster_size),
            ..default
        }
    }

    /// Reads the `zone_aware_lb_config` of a policy.
    pub(super) fn of_policy(config: &ZoneAwareLbConfig) -> ZoneAware {
        let default = ZoneAware::default();
        let forced = config.force_local_zone.as_ref();
        let forced = forced.map(|forced| forced.min_size.unwrap_or(1).into());
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let direct = config.force_locality_direct_routing;
        ZoneAware {
            enabled: (config.routing_enabled).map_or(100, |percent| rounded(percent.value)),
            min_cluster_size: config.min_cluster_size.unwrap_or(default.min_cluster_size),
            forced_from: forced.unwrap_or(u64::from(direct)),
            by_weight: config.locality_basis() == LocalityBasis::HealthyHostsWeight,
        }
    }

    /// How the requests of these hosts are routed by zone; `None` if they are not.
    pub(super) fn routing(
        &self,
        hosts: &PriorityHosts,
        local: &LocalProxies<'_>,
        panic_threshold: u32,
        (policy, slots): (&dyn HostPolicy, &mut Slots),
    ) -> Option<ZoneRouting> {
        local
            .stats
            .lb_recalculate_zone_structures
            .add(local.threads);
        let zones = by_zone(hosts, local.locality);
        let proxies = by_zone(local.hosts, local.locality);
        let forced_from = local.number("upstream.zone_routing.force_local_zone.min_size");
        let forced_from = forced_from.unwrap_or(self.forced_from);
        if zones.len() < 2 || (proxies.len() < 2 && forced_from == 0) {
            return None;
        }
        if !proxies.first().is_some_and(|zone| zone.is_local) {
            local.stats.lb_local_cluster_not_ok.add(local.threads);
            return None;
        }
        let least = local.number("upstream.zone_routing.min_cluster_size");
        let healthy: usize = zones.iter().map(|zone| zone.healthy.len()).sum();
        if (healthy as u64) < least.unwrap_or(self.min_cluster_size) {
            local.stats.lb_zone_cluster_too_small.add(local.threads);
            return None;
        }
        let enabled = local.number("upstream.zone_routing.enabled");
        let state = self.state(&zones, &proxies, forced_from);
        let mut balance = |hosts| policy.balance(hosts, slots.take());
        Some(ZoneRouting {
            enabled: enabled.unwrap_or(self.enabled),
            local_panics: panics(local.hosts, panic_threshold),
            zones: zones
                .into_iter()
                .map(|zone| ZoneHosts {
                    healthy: balance(zone.healthy),
                    degraded: balance(zone.degraded),
                })
                .collect(),
            state,
        })
    }

    fn state(&self, zones: &[Zone], proxies: &[Zone], forced_from: u64) -> ZoneState {
        let size = |zone: &Zone| -> u64 {
            match self.by_weight {
                true => zone
                    .healthy
                    .iter()
                    .map(|host| u64::from(host.weight()))
                    .sum(),
                false => zone.healthy.len() as u64,
            }
        };
        let sum = |zones: &[Zone]| zones.iter().map(size).sum::<u64>();
        let (all_hosts, all_proxies) = (sum(zones), sum(proxies));
        let share = |part: u64, whole: u64| (WHOLE * part).checked_div(whole).unwrap_or(0);
        // The zone's share of the proxies, and of the hosts.
        let shares = zones.iter().map(|zone| {
            if zone.healthy.is_empty() {
                return (0, 0);
            }
            let there = proxies.iter().find(|other| other.locality == zone.locality);
            let proxies = there.map_or(0, size);
            (share(proxies, all_proxies), share(size(zone), all_hosts))
        });
        let shares: Vec<(u64, u64)> = shares.collect();
        let has_local = zones.first().is_some_and(|zone| zone.is_local);
        let first = shares.first().copied().filter(|_| has_local);
        if let Some((proxies, hosts)) = first {
            let healthy = zones.first().map_or(0, |zone| zone.healthy.len() as u64);
            let is_forced = forced_from > 0 && healthy >= forced_from;
            if (hosts > 0 && hosts >= proxies) || is_forced {
                return ZoneState::Direct;
            }
        }
        let mut sum = 0;
        let capacity = shares.iter().enumerate().map(|(index, (proxies, hosts))| {
            if index > 0 || !has_local {
                sum += hosts.saturating_sub(*proxies);
            }
            sum
        });
        ZoneState::Residual {
            capacity: capacity.collect(),
            local: first.map_or(0, |(proxies, hosts)| share(hosts, proxies)),
        }
    }
}

impl LocalProxies<'_> {
    fn number(&self, key: &str) -> Option<u64> {
        self.runtime.number(key)
    }
}

impl ZoneRouting {
    /// The hosts for a request.
    pub(super) fn choose(
        &self,
        degraded: bool,
        fails_on_panic: bool,
        cx: &PickCx<'_>,
    ) -> ZoneChoice<'_> {
        if self.enabled < 100 && cx.worker.random() % 100 >= self.enabled {
            return ZoneChoice::NotRouted;
        }
        if self.local_panics {
            cx.stats.lb_local_cluster_not_ok.inc();
            return match fails_on_panic {
                true => ZoneChoice::Fails,
                false => ZoneChoice::NotRouted,
            };
        }
        match self.zones.get(self.zone(cx)) {
            Some(zone) if degraded => ZoneChoice::Hosts(&*zone.degraded),
            Some(zone) => ZoneChoice::Hosts(&*zone.healthy),
            None => ZoneChoice::NotRouted,
        }
    }

    /// The index of the zone for a request.
    fn zone(&self, cx: &PickCx<'_>) -> usize {
        let (local, capacity) = match &self.state {
            ZoneState::Direct => {
                cx.stats.lb_zone_routing_all_directly.inc();
                return 0;
            }
            ZoneState::Residual { local, capacity } => (*local, capacity),
        };
        if cx.worker.random() % WHOLE < local {
            cx.stats.lb_zone_routing_sampled.inc();
            return 0;
        }
        cx.stats.lb_zone_routing_cross_zone.inc();
        let whole = capacity.last().copied().unwrap_or(0);
        let Some(point) = cx.worker.random().checked_rem(whole) else {
            cx.stats.lb_zone_no_capacity_left.inc();
            return cx.random_below(self.zones.len()).unwrap_or(0);
        };
        capacity.partition_point(|up_to| *up_to <= point)
    }
}

/// The hosts of one zone that may get requests.
#[derive(Debug)]
struct Zone {
    locality: Arc<Locality>,
    is_local: bool,
    healthy: Vec<Arc<Host>>,
    degraded: Vec<Arc<Host>>,
}

/// The hosts by locality: the proxy's own first, then in the order of their names.
fn by_zone(hosts: &PriorityHosts, local: Option<&Locality>) -> Vec<Zone> {
    let mut zones: BTreeMap<_, Zone> = BTreeMap::new();
    for host in hosts.iter() {
        let locality = host.locality();
        let is_local = local == Some(&**locality);
        let names = (&locality.region, &locality.zone, &locality.sub_zone);
        let zone = zones.entry((!is_local, names)).or_insert_with(|| Zone {
            locality: locality.clone(),
            is_local,
            healthy: Vec::new(),
            degraded: Vec::new(),
        });
        match host.health() {
            Health::Healthy => zone.healthy.push(host.clone()),
            Health::Degraded => zone.degraded.push(host.clone()),
            Health::Unhealthy => {}
        }
    }
    zones.into_values().collect()
}

/// Whether fewer of the hosts may get requests than the threshold says, percent.
fn panics(hosts: &PriorityHosts, threshold: u32) -> bool {
    let count = hosts.iter().filter(|host| !host.is_excluded()).count();
    let usable = hosts
        .iter()
        .filter(|host| host.health() != Health::Unhealthy);
    let usable = usable.count();
    count == 0 && threshold > 0 || usable * 100 < threshold as usize * count
}

/// A percentage as Envoy rounds it here.
fn rounded(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=100"
    )]
    let whole = value.clamp(0.0, 100.0).round() as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zones with so many healthy hosts each; the first is the local one.
    fn zones(counts: &[usize]) -> Vec<Zone> {
        let zone = |(index, count): (usize, &usize)| Zone {
            locality: Arc::new(Locality {
                zone: index.to_string(),
                ..Locality::default()
            }),
            is_local: index == 0,
            healthy: vec![host(); *count],
            degraded: Vec::new(),
        };
        counts.iter().enumerate().map(zone).collect()
    }

    fn host() -> Arc<Host> {
        let address = outrider_net::Address::Ip(([127, 0, 0, 1], 1).into());
        Host::new(vec![address], Arc::default(), Arc::default())
    }

    fn state(hosts: &[usize], proxies: &[usize], forced_from: u64) -> ZoneState {
        ZoneAware::default().state(&zones(hosts), &zones(proxies), forced_from)
    }

    #[test]
    fn requests_stay_where_the_hosts_suffice() {
        assert_eq!(state(&[2, 2], &[1, 1], 0), ZoneState::Direct);
        assert_eq!(state(&[1, 3], &[1, 1], 1), ZoneState::Direct);
        assert_ne!(state(&[1, 3], &[1, 1], 2), ZoneState::Direct);
    }

    #[test]
    fn the_rest_goes_where_there_is_room() {
        let residual = |local, capacity: [u64; 3]| ZoneState::Residual {
            local,
            capacity: capacity.into(),
        };
        // A quarter of the hosts for 40 % of the proxies: 62.5 % of the requests stay.
        let state = state(&[1, 2, 1], &[2, 2, 1], 0);
        assert_eq!(state, residual(6250, [0, 1000, 1500]));
    }

    #[test]
    fn without_proxies_elsewhere_all_room_counts() {
        for _ in 0..200 {
            let hosts: Vec<usize> = (0..4).map(|_| fastrand::usize(..6)).collect();
            let proxies: Vec<usize> = (0..4).map(|_| fastrand::usize(..6)).collect();
            if let ZoneState::Residual { local, capacity } = state(&hosts, &proxies, 0) {
                assert!(local <= WHOLE, "{hosts:?} {proxies:?}");
                assert!(capacity.is_sorted(), "{hosts:?} {proxies:?}");
                for (index, pair) in capacity.windows(2).enumerate() {
                    // Only zones with hosts take requests.
                    assert!(pair[0] == pair[1] || hosts[index + 1] > 0);
                }
            }
        }
    }
}
