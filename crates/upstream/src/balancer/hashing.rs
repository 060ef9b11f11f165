//! Consistent hashing: requests with equal hashes go to the same host, and most of them still do when hosts are added
//! or removed.
//!
//! Each priority has one table of its healthy hosts, or of all its hosts in panic. As in Envoy, degraded hosts are not
//! in the tables, and the hash also selects the priority. A request without a hash gets a random one.

use std::fmt;
use std::sync::Arc;

use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::core::v3::Metadata;
use prost_types::value::Kind;

use super::BalancerConfig;
use super::LoadBalancer;
use super::PickCx;
use super::bounded_load;
use super::loads::PriorityLoads;
use crate::Health;
use crate::Host;
use crate::MembershipStats;
use crate::host_set::LocalityHosts;
use crate::host_set::PriorityHosts;

/// A policy that finds hosts by the hash of the request.
pub(crate) trait TablePolicy: fmt::Debug + Send + Sync {
    /// Builds the table for these hosts, and sets its size in `stats`.
    fn table(&self, hosts: &WeightedHosts, stats: &MembershipStats) -> Box<dyn HashTable>;
}

/// Maps hashes to hosts.
pub(crate) trait HashTable: fmt::Debug + Send + Sync {
    /// The index of the host for a hash; `None` if there are no hosts. `rejected`: how many hosts were found for it
    /// already, and not taken.
    fn find(&self, hash: u64, rejected: u32) -> Option<usize>;
}

/// The settings that all hashing policies have.
#[derive(Clone, Debug)]
pub(crate) struct HashingConfig {
    pub(super) tables: Arc<dyn TablePolicy>,
    /// `use_hostname_for_hashing`
    pub(super) by_hostname: bool,
    /// `hash_balance_factor`: the limit of a host relative to its share, in percent; 0 means no limit.
    pub(super) balance_factor: u32,
}

impl HashingConfig {
    /// Reads `common_lb_config.consistent_hashing_lb_config` of a cluster.
    pub(super) fn of_cluster(tables: Arc<dyn TablePolicy>, cluster: &Cluster) -> HashingConfig {
        let common = cluster.common_lb_config.as_ref();
        let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
        HashingConfig {
            tables,
            by_hostname: hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing),
            balance_factor: hashing
                .and_then(|hashing| hashing.hash_balance_factor)
                .unwrap_or(0),
        }
    }
}

/// The hosts of a table.
#[derive(Debug, Default)]
pub(crate) struct WeightedHosts {
    pub(super) list: Vec<WeightedHost>,
    /// The smallest and the greatest of the weights.
    pub(super) least: f64,
    pub(super) greatest: f64,
}

#[derive(Debug)]
pub(crate) struct WeightedHost {
    pub(super) host: Arc<Host>,
    /// Its share of the requests. All shares add up to 1.
    pub(super) weight: f64,
    /// The text that is hashed for the host.
    pub(super) key: Box<str>,
}

/// The balancer of a cluster whose policy uses hashes.
#[derive(Debug)]
pub(crate) struct Hashing {
    loads: PriorityLoads,
    levels: Vec<HashedLevel>,
    balance_factor: u32,
}

#[derive(Debug)]
struct HashedLevel {
    hosts: Vec<WeightedHost>,
    table: Box<dyn HashTable>,
}

impl Hashing {
    /// A balancer for these priorities. There must be at least one.
    pub(crate) fn new(
        priorities: &[PriorityHosts],
        config: &BalancerConfig,
        hashing: &HashingConfig,
        stats: &MembershipStats,
    ) -> Hashing {
        let loads = PriorityLoads::new(priorities, config);
        let levels = priorities.iter().zip(&loads.panics).map(|(hosts, panics)| {
            let mut weighted = WeightedHosts {
                least: 1.0,
                ..WeightedHosts::default()
            };
            weighted.add_priority(hosts, *panics, config.localities.weighted, hashing);
            HashedLevel {
                table: hashing.tables.table(&weighted, stats),
                hosts: weighted.list,
            }
        });
        Hashing {
            levels: levels.collect(),
            loads,
            balance_factor: hashing.balance_factor,
        }
    }
}

impl LoadBalancer for Hashing {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let hash = cx.request.hash.unwrap_or_else(|| cx.worker.random());
        let priority = self.loads.choose(|| hash)?.index;
        if self.loads.panics.get(priority) == Some(&true) {
            cx.stats.lb_healthy_panic.inc();
        }
        let level = self.levels.get(priority)?;
        let mut index = level.table.find(hash, cx.request.rejected)?;
        if self.balance_factor > 0 {
            let load = bounded_load::BoundedLoad::now(self.balance_factor, cx.breakers);
            index = load.choose(&level.hosts, index, hash, cx.cursors.scratch());
        }
        level.hosts.get(index).map(|weighted| &weighted.host)
    }
}

impl WeightedHosts {
    fn add_priority(
        &mut self,
        priority: &PriorityHosts,
        panics: bool,
        by_locality: bool,
        hashing: &HashingConfig,
    ) {
        let usable = |host: &&Arc<Host>| panics || host.health() == Health::Healthy;
        if !by_locality {
            let hosts: Vec<&Arc<Host>> = priority.iter().filter(usable).collect();
            self.add(&hosts, 1.0, hashing.by_hostname);
            return;
        }
        // Sorted by name, as in Envoy: where shares are not whole numbers of slots, the order decides which host gets
        // one more.
        let mut localities: Vec<&LocalityHosts> = priority.localities.iter().collect();
        let place = |locality: &&LocalityHosts| {
            let first = locality.hosts.first();
            first.map(|host| {
                let place = host.locality();
                (
                    place.region.clone(),
                    place.zone.clone(),
                    place.sub_zone.clone(),
                )
            })
        };
        localities.sort_by_key(place);
        let sum: u64 = localities.iter().map(|l| u64::from(l.weight)).sum();
        for locality in localities.iter().filter(|locality| locality.weight > 0) {
            let hosts: Vec<&Arc<Host>> = locality.hosts.iter().filter(usable).collect();
            #[expect(clippy::cast_precision_loss, reason = "weights are 32 bits each")]
            let share = f64::from(locality.weight) / sum as f64;
            self.add(&hosts, share, hashing.by_hostname);
        }
    }

    /// Adds hosts that divide `share` of the requests by their weights.
    fn add(&mut self, hosts: &[&Arc<Host>], share: f64, by_hostname: bool) {
        let sum: u64 = hosts.iter().map(|host| u64::from(host.weight())).sum();
        for host in hosts {
            #[expect(clippy::cast_precision_loss, reason = "weights are 32 bits each")]
            let weight = f64::from(host.weight()) * share / sum as f64;
            self.least = self.least.min(weight);
            self.greatest = self.greatest.max(weight);
            self.list.push(WeightedHost {
                host: Arc::clone(host),
                weight,
                key: hash_key(host, by_hostname),
            });
        }
    }
}

/// The text to hash for a host: the key in its metadata, its name, or its address.
fn hash_key(host: &Host, by_hostname: bool) -> Box<str> {
    if let Some(key) = host.metadata().and_then(key_in) {
        return key.into();
    }
    match by_hostname {
        true => (**host.hostname()).into(),
        false => host.address().to_string().into(),
    }
}

/// The text of `hash_key` in the metadata `envoy.lb`.
fn key_in(metadata: &Metadata) -> Option<&str> {
    let fields = metadata.filter_metadata.get("envoy.lb")?;
    match &fields.fields.get("hash_key")?.kind {
        Some(Kind::StringValue(key)) if !key.is_empty() => Some(key),
        _ => None,
    }
}
