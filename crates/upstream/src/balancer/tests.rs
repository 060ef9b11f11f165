use std::collections::HashMap;

use outrider_config::api::envoy::config::cluster::v3::cluster::CommonLbConfig;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbConfig;
use outrider_config::api::envoy::config::cluster::v3::cluster::LeastRequestLbConfig;
use outrider_config::api::envoy::config::cluster::v3::cluster::common_lb_config::ConsistentHashingLbConfig;
use outrider_net::Address;
use outrider_stats::Store;

use super::config::LocalityBalancing;
use super::*;
use crate::HealthStatus;
use crate::HealthStatus::Degraded;
use crate::HealthStatus::Healthy;
use crate::HealthStatus::Unhealthy;
use crate::Thresholds;
use crate::host::HostDescription;
use crate::host_set::LocalityHosts;
use crate::host_set::PriorityHosts;

/// Hosts with these weights and health states. Their ports count up from `first`.
fn locality(first: u16, weight: u32, hosts: &[(u32, HealthStatus)]) -> LocalityHosts {
    let host = |(port, (weight, health)): (u16, &(u32, HealthStatus))| {
        let description = HostDescription {
            weight: *weight,
            health: *health,
            ..HostDescription::default()
        };
        Host::new(
            vec![Address::Ip(([127, 0, 0, 1], port).into())],
            Arc::new(description),
            Arc::default(),
        )
    };
    LocalityHosts {
        weight,
        hosts: (first..).zip(hosts).map(host).collect(),
    }
}

fn priority(localities: Vec<LocalityHosts>) -> PriorityHosts {
    PriorityHosts { localities }
}

/// The policy that `lb_policy` selects, with the other fields of `cluster`.
fn policy(lb_policy: LbPolicy, cluster: &Cluster) -> Policy {
    let mut factories = FACTORIES.iter().filter_map(|factory| factory.lb_policy);
    let (_, of_cluster) = factories.find(|(of, _)| *of == lb_policy).unwrap();
    let config = of_cluster(cluster, &FieldPath::root()).unwrap();
    config.policy
}

fn config() -> BalancerConfig {
    BalancerConfig {
        policy: policy(LbPolicy::RoundRobin, &Cluster::default()),
        panic_threshold: 50,
        localities: LocalityBalancing::default(),
        overprovisioning_factor: 140,
        weighted_priority_health: false,
    }
}

/// How often each port is picked. Port 0 means that no host was picked.
fn picks(priorities: &[PriorityHosts], config: &BalancerConfig, count: u32) -> HashMap<u16, u32> {
    let mut picks = HashMap::new();
    for port in pick_each(
        priorities,
        config,
        (0..count).map(|_| PickRequest::default()),
    ) {
        *picks.entry(port).or_default() += 1;
    }
    picks
}

/// The ports that these requests are sent to.
fn pick_each(
    priorities: &[PriorityHosts],
    config: &BalancerConfig,
    requests: impl Iterator<Item = PickRequest<'static>>,
) -> Vec<u16> {
    let membership = MembershipStats::default();
    let balancer = build(priorities, config, BalancerCx::new(&membership, None));
    let worker = WorkerCx::new(0, &Store::new(), fastrand::u64(..));
    let mut cursors = Cursors::default();
    let stats = ClusterStats::default();
    let breakers = Breakers::new(Thresholds::default(), Thresholds::default(), Arc::default());
    let ports = requests.map(|request| {
        let host = balancer.pick(&mut PickCx {
            request,
            worker: &worker,
            cursors: &mut cursors,
            stats: &stats,
            breakers: &breakers,
        });
        host.map_or(0, |host| host.address().ip().unwrap().port())
    });
    ports.collect()
}

#[test]
fn round_robin_gives_each_host_its_weight_and_loses_none() {
    for _ in 0..100 {
        let weights: Vec<u32> = (0..fastrand::usize(1..6))
            .map(|_| fastrand::u32(1..10))
            .collect();
        let hosts: Vec<_> = weights.iter().map(|weight| (*weight, Healthy)).collect();
        let sum: u32 = weights.iter().sum();
        let picks = picks(
            &[priority(vec![locality(1, 0, &hosts)])],
            &config(),
            sum * 4,
        );
        for (port, weight) in (1..).zip(&weights) {
            assert_eq!(picks.get(&port), Some(&(weight * 4)), "{weights:?}");
        }
    }
}

#[test]
fn no_host_is_no_pick() {
    assert_eq!(picks(&[], &config(), 3)[&0], 3);
    assert_eq!(picks(&[priority(vec![])], &config(), 3)[&0], 3);
    let empty = priority(vec![locality(1, 3, &[])]);
    let weighted = BalancerConfig {
        localities: LocalityBalancing {
            weighted: true,
            ..LocalityBalancing::default()
        },
        ..config()
    };
    assert_eq!(picks(&[empty.clone(), empty], &weighted, 3)[&0], 3);
}

#[test]
fn requests_fail_over_by_what_is_healthy() {
    // Half of priority 0 is healthy: it takes 140 % of one half, and priority 1 takes the rest.
    let first = priority(vec![locality(
        1,
        0,
        &[(1, Healthy), (1, Unhealthy), (1, Healthy), (1, Unhealthy)],
    )]);
    let second = priority(vec![locality(11, 0, &[(1, Healthy)])]);
    let picks = picks(&[first, second], &config(), 10_000);
    assert!(
        !picks.contains_key(&2) && !picks.contains_key(&4),
        "{picks:?}"
    );
    let failed_over = picks[&11];
    assert!((2700..3300).contains(&failed_over), "{picks:?}");
}

#[test]
fn in_panic_health_is_ignored() {
    let hosts = [(1, Healthy), (1, Unhealthy), (1, Unhealthy)];
    let set = [priority(vec![locality(1, 0, &hosts)])];
    let panicking = picks(&set, &config(), 30);
    assert_eq!([panicking[&1], panicking[&2], panicking[&3]], [10, 10, 10]);
    let off = BalancerConfig {
        panic_threshold: 0,
        ..config()
    };
    assert_eq!(picks(&set, &off, 30)[&1], 30);
    let failing = BalancerConfig {
        localities: LocalityBalancing {
            fail_traffic_on_panic: true,
            ..LocalityBalancing::default()
        },
        ..config()
    };
    assert_eq!(picks(&set, &failing, 5)[&0], 5);
    let all_unhealthy = [priority(vec![locality(1, 0, &[(1, Unhealthy)])])];
    assert_eq!(picks(&all_unhealthy, &off, 5)[&0], 5);
}

#[test]
fn degraded_hosts_help_out() {
    let hosts = [(1, Healthy), (1, Degraded), (1, Degraded), (1, Degraded)];
    let set = [priority(vec![locality(1, 0, &hosts)])];
    let picks = picks(&set, &config(), 10_000);
    // Healthy hosts can take 35 %; degraded hosts take the rest.
    assert!((3200..3800).contains(&picks[&1]), "{picks:?}");
}

#[test]
fn localities_share_by_weight_when_asked_to() {
    let set = [priority(vec![
        locality(1, 3, &[(1, Healthy), (1, Healthy)]),
        locality(11, 1, &[(1, Healthy)]),
    ])];
    let weighted = BalancerConfig {
        localities: LocalityBalancing {
            weighted: true,
            ..LocalityBalancing::default()
        },
        ..config()
    };
    let by_locality = picks(&set, &weighted, 400);
    assert_eq!(
        [by_locality[&1], by_locality[&2], by_locality[&11]],
        [150, 150, 100]
    );
    let flat = picks(&set, &config(), 300);
    assert_eq!([flat[&1], flat[&2], flat[&11]], [100, 100, 100]);
}

fn with_policy(lb_policy: LbPolicy) -> BalancerConfig {
    BalancerConfig {
        policy: policy(lb_policy, &Cluster::default()),
        ..config()
    }
}

#[test]
fn no_policy_loses_a_host_or_picks_one_of_none() {
    for lb_policy in [
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest,
        LbPolicy::Random,
    ] {
        let config = with_policy(lb_policy);
        for count in 1..8 {
            for heaviest in [1, 3] {
                let hosts: Vec<_> = (1..=count)
                    .map(|host| (1 + host % heaviest, Healthy))
                    .collect();
                let picks = picks(&[priority(vec![locality(1, 0, &hosts)])], &config, 1000);
                let picked = (1..=count as u16).filter(|port| picks.contains_key(port));
                assert_eq!(picked.count(), hosts.len(), "{lb_policy:?} {picks:?}");
                assert!(!picks.contains_key(&0));
            }
        }
        assert_eq!(picks(&[], &config, 3)[&0], 3);
        assert_eq!(
            picks(&[priority(vec![locality(1, 0, &[])])], &config, 3)[&0],
            3
        );
    }
}

#[test]
fn least_request_gives_idle_hosts_their_weights() {
    for _ in 0..50 {
        let weights: Vec<u32> = (0..fastrand::usize(2..6))
            .map(|_| fastrand::u32(1..10))
            .collect();
        let hosts: Vec<_> = weights.iter().map(|weight| (*weight, Healthy)).collect();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            continue;
        }
        let sum: u32 = weights.iter().sum();
        let set = [priority(vec![locality(1, 0, &hosts)])];
        let picks = picks(&set, &with_policy(LbPolicy::LeastRequest), sum * 40);
        for (port, weight) in (1..).zip(&weights) {
            assert!(
                picks[&port].abs_diff(weight * 40) <= 1,
                "{weights:?} {picks:?}"
            );
        }
    }
}

#[test]
fn least_request_avoids_busy_hosts() {
    let set = [priority(vec![locality(
        1,
        0,
        &[(1, Healthy), (1, Healthy), (1, Healthy)],
    )])];
    for host in set[0].iter().take(2) {
        host.stats.rq_active.inc();
    }
    let choices = Cluster {
        lb_config: Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            choice_count: Some(100),
            ..LeastRequestLbConfig::default()
        })),
        ..Cluster::default()
    };
    let config = BalancerConfig {
        policy: policy(LbPolicy::LeastRequest, &choices),
        ..config()
    };
    assert_eq!(picks(&set, &config, 100)[&3], 100);
}

/// The ports for many hashes, which are the same in each call.
fn pick_by_hash(set: &[PriorityHosts], config: &BalancerConfig) -> Vec<u16> {
    let hash = |number: u64| PickRequest {
        hash: Some(xxhash_rust::xxh64::xxh64(&number.to_le_bytes(), 0)),
        ..PickRequest::default()
    };
    pick_each(set, config, (0..2000).map(hash))
}

#[test]
fn hashing_keeps_most_requests_where_they_were() {
    for lb_policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let config = with_policy(lb_policy);
        let hosts = [(1, Healthy); 10];
        let whole = locality(1, 0, &hosts);
        let mut fewer = whole.clone();
        fewer.hosts.remove(3);
        let before = pick_by_hash(&[priority(vec![whole])], &config);
        let after = pick_by_hash(&[priority(vec![fewer])], &config);
        let moved = before.iter().zip(&after).filter(|(was, is)| was != is);
        let had_to = before.iter().filter(|port| **port == 4).count();
        let moved = moved.count();
        // The remaining hosts get more points on the ring, so a few requests move without need.
        assert!(
            moved >= had_to && moved <= had_to * 2,
            "{lb_policy:?}: {moved} moved, {had_to} had to"
        );
    }
}

#[test]
fn hashing_does_not_depend_on_the_order_of_hosts() {
    for lb_policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let config = with_policy(lb_policy);
        let one = locality(1, 0, &[(1, Healthy); 7]);
        let mut other = one.clone();
        other.hosts.reverse();
        let one = pick_by_hash(&[priority(vec![one])], &config);
        assert_eq!(one, pick_by_hash(&[priority(vec![other])], &config));
    }
}

#[test]
fn hashing_respects_weights() {
    for lb_policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let set = [priority(vec![locality(
            1,
            0,
            &[(1, Healthy), (3, Healthy), (4, Healthy)],
        )])];
        let ports = pick_by_hash(&set, &with_policy(lb_policy));
        for (port, share) in [(1, 250), (2, 750), (3, 1000)] {
            let count = ports.iter().filter(|other| **other == port).count();
            assert!(
                count.abs_diff(share) < 150,
                "{lb_policy:?}: {count} for {share}"
            );
        }
    }
}

#[test]
fn no_host_has_far_more_than_its_share_under_bounded_load() {
    let common = CommonLbConfig {
        consistent_hashing_lb_config: Some(ConsistentHashingLbConfig {
            hash_balance_factor: Some(120),
            ..ConsistentHashingLbConfig::default()
        }),
        ..CommonLbConfig::default()
    };
    for lb_policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let cluster = Cluster {
            common_lb_config: Some(common.clone()),
            ..Cluster::default()
        };
        let config = BalancerConfig {
            policy: policy(lb_policy, &cluster),
            ..config()
        };
        let set = [priority(vec![locality(1, 0, &[(1, Healthy); 5])])];
        let busy = PickRequest {
            hash: Some(7),
            ..PickRequest::default()
        };
        let first = pick_each(&set, &config, std::iter::once(busy))[0];
        let host = set[0].iter().nth(usize::from(first) - 1).unwrap();
        for _ in 0..2 {
            host.stats.rq_active.inc();
        }
        let others = pick_each(&set, &config, std::iter::repeat_n(busy, 5));
        assert!(
            others
                .iter()
                .all(|port| *port != first && *port == others[0]),
            "{others:?}"
        );
    }
}
