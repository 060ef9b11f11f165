use std::collections::HashMap;

use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use outrider_config::api::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_net::Address;
use outrider_net::WorkerCx;
use outrider_stats::Store;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::*;
use crate::Breakers;
use crate::Cursors;
use crate::HostDescription;
use crate::LocalityHosts;
use crate::MembershipStats;
use crate::PickRequest;
use crate::Thresholds;
use crate::balancer;
use crate::stats::ClusterStats;

fn fields(pairs: &[(&str, u32)]) -> Struct {
    let value = |number: u32| Value {
        kind: Some(Kind::NumberValue(number.into())),
    };
    let fields = pairs.iter();
    Struct {
        fields: fields
            .map(|(key, number)| ((*key).to_owned(), value(*number)))
            .collect(),
    }
}

fn host(port: u16, labels: &[(&str, u32)]) -> Arc<Host> {
    let mut metadata = Metadata::default();
    (metadata.filter_metadata).insert("envoy.lb".to_owned(), fields(labels));
    let description = HostDescription {
        weight: 1,
        metadata: Some(Box::new(metadata)),
        ..HostDescription::default()
    };
    let address = Address::Ip(([127, 0, 0, 1], port).into());
    Host::new(vec![address], Arc::new(description), Arc::default())
}

fn config(selectors: &[&[&str]]) -> BalancerConfig {
    let selectors = selectors.iter().map(|keys| LbSubsetSelector {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..LbSubsetSelector::default()
    });
    let cluster = Cluster {
        lb_subset_config: Some(LbSubsetConfig {
            subset_selectors: selectors.collect(),
            ..LbSubsetConfig::default()
        }),
        ..Cluster::default()
    };
    BalancerConfig::build(&cluster, &FieldPath::root()).unwrap()
}

fn one_locality(hosts: Vec<Arc<Host>>) -> Vec<PriorityHosts> {
    let localities = vec![LocalityHosts { weight: 0, hosts }];
    vec![PriorityHosts { localities }]
}

/// The ports that requests with these criteria go to, in as many picks; 0 if there is no host.
fn picks(balancer: &dyn LoadBalancer, wanted: &[(&str, u32)], count: u32) -> Vec<u16> {
    let criteria = MetadataMatchCriteria::of_fields(fields(wanted));
    let worker = WorkerCx::new(0, &Store::new(), fastrand::u64(..));
    let mut cursors = Cursors::default();
    let stats = ClusterStats::default();
    let breakers = Breakers::new(Thresholds::default(), Thresholds::default(), Arc::default());
    let picked = (0..count).map(|_| {
        let host = balancer.pick(&mut PickCx {
            request: PickRequest {
                metadata_match: Some(&criteria),
                ..PickRequest::default()
            },
            worker: &worker,
            cursors: &mut cursors,
            stats: &stats,
            breakers: &breakers,
        });
        host.map_or(0, |host| host.address().ip().unwrap().port())
    });
    picked.collect()
}

#[test]
fn a_request_reaches_all_hosts_with_its_metadata_and_no_others() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    for _ in 0..100 {
        let labels: Vec<Vec<(&str, u32)>> = (0..fastrand::usize(1..12))
            .map(|_| {
                let keys = KEYS.iter().filter(|_| fastrand::bool());
                keys.map(|key| (*key, fastrand::u32(..3))).collect()
            })
            .collect();
        let hosts = (1..).zip(&labels).map(|(port, labels)| host(port, labels));
        let set = one_locality(hosts.collect());
        let config = config(&[&["a"], &["b", "a"], &["c"]]);
        let balancer = balancer::build(
            &set,
            &config,
            BalancerCx::new(&MembershipStats::default(), None),
        );
        for keys in [&["a"][..], &["a", "b"], &["c"], &["b"], &["a", "c"]] {
            let wanted: Vec<_> = keys.iter().map(|key| (*key, fastrand::u32(..3))).collect();
            let has_selector = keys != ["b"] && keys != ["a", "c"];
            let matching: HashMap<u16, u32> = (1..)
                .zip(&labels)
                .filter(|(_, labels)| has_selector && wanted.iter().all(|one| labels.contains(one)))
                .map(|(port, _)| (port, 2))
                .collect();
            let count = u32::try_from(matching.len()).unwrap().max(1);
            let mut counts = HashMap::new();
            for port in picks(&*balancer, &wanted, count * 2) {
                *counts.entry(port).or_default() += 1;
            }
            let none = HashMap::from([(0, 2)]);
            let expected = if matching.is_empty() { none } else { matching };
            assert_eq!(counts, expected, "{wanted:?} of {labels:?}");
        }
    }
}

#[test]
fn subsets_that_come_and_go_are_counted() {
    let config = config(&[&["a"], &["a", "b"]]);
    let stats = MembershipStats::default();
    let build =
        |hosts| balancer::build(&one_locality(hosts), &config, BalancerCx::new(&stats, None));
    let first = build(vec![host(1, &[("a", 1), ("b", 1)]), host(2, &[("a", 2)])]);
    let second = build(vec![host(1, &[("a", 1), ("b", 2)])]);
    let empty = build(Vec::new());
    let changes = |new: &dyn LoadBalancer, old: &dyn LoadBalancer| {
        new.subsets().unwrap().changes_since(old.subsets())
    };
    assert_eq!(first.subsets().unwrap().count(), 3);
    assert_eq!(changes(&*first, &*empty), (3, 0));
    assert_eq!(changes(&*second, &*first), (1, 2));
    assert_eq!(changes(&*empty, &*second), (0, 2));
}

#[test]
fn a_fallback_list_overrides_in_its_order() {
    let list = |entries: Vec<Struct>| {
        let structs = entries.into_iter().map(|fields| Value {
            kind: Some(Kind::StructValue(fields)),
        });
        Value {
            kind: Some(Kind::ListValue(prost_types::ListValue {
                values: structs.collect(),
            })),
        }
    };
    let mut given = fields(&[("a", 1), ("b", 1)]);
    let entries = vec![fields(&[("a", 2)]), fields(&[("b", 2), ("c", 3)])];
    given
        .fields
        .insert("fallback_list".to_owned(), list(entries));
    let criteria = MetadataMatchCriteria::of_fields(given);
    let same = |criteria: &MetadataMatchCriteria, pairs: &[(&str, u32)]| {
        criteria.criteria() == MetadataMatchCriteria::of_fields(fields(pairs)).criteria()
    };
    let fallbacks = criteria.fallbacks().unwrap();
    assert_eq!(fallbacks.len(), 2);
    assert!(same(&fallbacks[0], &[("a", 2), ("b", 1)]));
    assert!(same(&fallbacks[1], &[("a", 1), ("b", 2), ("c", 3)]));
}
